// Two charts, one above the other.
#include "cli/distribution_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cli/svg_plots.h"

namespace tandem::cli {
namespace {

// In pixels.
constexpr double kLeft = 60, kRight = 20, kTop = 40, kChart = 220, kBelow = 60;
constexpr double kStep = 12;

// A Linear's name in two parts: "model.layers.3" and "mlp.down_proj". The head is in no layer.
struct Module {
  std::string kind;
  int layer = -1;
  const ModuleDistribution* of = nullptr;
};

Module parse(const std::string& name, const ModuleDistribution& of) {
  constexpr std::string_view kLayers = "layers.";
  const std::size_t at = name.find(kLayers);
  if (at == std::string::npos) return {name, -1, &of};
  const std::size_t digits = at + kLayers.size();
  const std::size_t dot = std::min(name.find('.', digits), name.size());
  return {name.substr(std::min(dot + 1, name.size())), std::atoi(name.c_str() + digits), &of};
}

// By kind, then by layer.
std::vector<Module> in_order(const ActivationProfile& profile) {
  std::vector<Module> modules;
  for (const auto& [name, of] : profile) modules.push_back(parse(name, of));
  std::ranges::sort(modules, [](const Module& a, const Module& b) {
    return a.kind != b.kind ? a.kind < b.kind : a.layer < b.layer;
  });
  return modules;
}

class Chart {
 public:
  Chart(const std::vector<Module>& modules, Distribution ModuleDistribution::* side, double top)
      : modules_(modules), side_(side), top_(top) {
    for (const Module& module : modules) {
      const Distribution& of = module.of->*side;
      for (const double value : {double{of.max}, double{of.percentile}}) {
        if (value <= 0) continue;
        low_ = std::min(low_, std::floor(std::log10(value)));
        high_ = std::max(high_, std::ceil(std::log10(value)));
      }
    }
    if (low_ > high_) low_ = -1, high_ = 1;
    if (low_ == high_) high_ += 1;
  }

  std::string draw(const std::string& title, double threshold) const {
    std::string out =
        fmt::format("<text class=\"ink\" x=\"{}\" y=\"{}\">{}</text>\n", kLeft, top_ - 12, title);
    for (double power = low_; power <= high_; power += 1) {
      const double y = y_of(std::pow(10.0, power));
      out += fmt::format(
          "<line class=\"line\" stroke=\"#888\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
          "<text class=\"ink\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
          kLeft, x_of(modules_.size()), y, y, kLeft - 6, y + 4, std::pow(10.0, power));
    }
    for (std::size_t i = 0; i < modules_.size(); ++i) out += draw_module(i, threshold);
    return out;
  }

 private:
  double x_of(std::size_t i) const { return kLeft + kStep * static_cast<double>(i); }
  double y_of(double value) const {
    const double power = value > 0 ? std::clamp(std::log10(value), low_, high_) : low_;
    return top_ + kChart * (high_ - power) / (high_ - low_);
  }

  std::string draw_module(std::size_t i, double threshold) const {
    const Module& module = modules_[i];
    const Distribution& of = module.of->*side_;
    const ClipDecision decision = decide_clip(of, threshold);
    const double x = x_of(i) + kStep / 2;
    std::string out = fmt::format(
        "<g><title>{}: largest {:.4g}, 99.9 % {:.4g}, scale for {:.4g}{}</title>"
        "<circle class=\"heat\" fill=\"#c2410c\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>"
        "<circle class=\"bar\" fill=\"#2563a8\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>"
        "<rect class=\"ink\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"10\" height=\"2\"/></g>\n",
        escape_xml(module.layer < 0 ? module.kind
                                    : fmt::format("{} of layer {}", module.kind, module.layer)),
        of.max, of.percentile, decision.largest, decision.clips ? "" : ", with outliers beyond", x,
        y_of(of.max), x, y_of(of.percentile), x - 5, x + 5, y_of(decision.largest),
        y_of(decision.largest));
    if (i == 0 || modules_[i - 1].kind != module.kind)
      out += fmt::format(
          "<line class=\"line\" stroke=\"#888\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" "
          "y2=\"{2:.1f}\"/>"
          "<text class=\"ink\" x=\"{3:.1f}\" y=\"{4:.1f}\">{5}</text>\n",
          x_of(i), top_, top_ + kChart, x_of(i) + 2, top_ + kChart + 16,
          escape_xml(module.kind.substr(module.kind.rfind('.') + 1)));
    return out;
  }

  const std::vector<Module>& modules_;
  Distribution ModuleDistribution::* side_;
  double top_;
  // Of the axis, as powers of ten.
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = -std::numeric_limits<double>::infinity();
};

}  // namespace

std::string draw_distributions(const ActivationProfile& profile, double threshold) {
  const std::vector<Module> modules = in_order(profile);
  const double width = kLeft + kStep * static_cast<double>(modules.size()) + kRight;
  const double second = kTop + kChart + kBelow;
  const double height = second + kChart + kBelow;
  return stand_alone(draw(
      {.id = "activations",
       .title = fmt::format("Activations of {} Linears", modules.size()),
       .description = "Of each Linear's input and output the largest magnitude (red), the one that "
                      "99.9 % of all values keep to (blue), and what the largest code stands for "
                      "(bar)."},
      std::max(width, 400.0), height,
      Chart(modules, &ModuleDistribution::input, kTop).draw("inputs", threshold) +
          Chart(modules, &ModuleDistribution::output, second).draw("outputs", threshold)));
}

}  // namespace tandem::cli
