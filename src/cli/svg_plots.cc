// Every length is in the units of the drawing's view box, which the page scales.
#include "cli/svg_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "text/tokenizer/unicode.h"

namespace tandem::cli {
namespace {

constexpr double kWidth = 760;
// Of what is looked at by itself.
constexpr double kGanttWidth = 1200;
// A line of text, and about what one of its characters takes.
constexpr double kLine = 16;
constexpr double kCharacter = 6.6;

// Of a plot that no page surrounds.
constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --line: #d4d9e0; --heat: #c2410c;
  --bar: #2563a8; --after: #7cc4a0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e7eb; --line: #363d46;
  --heat: #fb923c; --bar: #6ea8e5; --after: #2f7d57; } }
svg { background: var(--paper); }
.ink { fill: var(--ink); } .heat { fill: var(--heat); } .bar { fill: var(--bar); }
.after { fill: var(--after); } .line { stroke: var(--line); }
)";

constexpr std::array kStyles = {"bar", "heat", "after"};
const char* style_of(std::size_t kind) { return kStyles[kind % kStyles.size()]; }

double width_of(const std::vector<std::string>& texts) {
  std::size_t longest = 0;
  for (const std::string& text : texts) longest = std::max(longest, text.size());
  return kCharacter * static_cast<double>(longest);
}

// Where no style sheet is applied, as in some converters.
std::string_view color_of(std::string_view style) {
  if (style == "heat") return "#c2410c";
  return style == "bar" ? "#2563a8" : "#7cc4a0";
}

std::string text_at(double x, double y, std::string_view anchor, std::string_view text) {
  return fmt::format("<text class=\"ink\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                     x, y, anchor, escape_xml(text));
}

std::string line(double x1, double y1, double x2, double y2, std::string_view style = "line") {
  return fmt::format(
      "<line class=\"{}\" stroke=\"#888\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" "
      "y2=\"{:.1f}\"/>\n",
      style, x1, y1, x2, y2);
}

// A filled rectangle; `label`: what a pointer shows.
std::string box(double x, double y, double width, double height, std::string_view style,
                double opacity, std::string_view label) {
  return fmt::format(
      "<rect class=\"{}\" fill=\"{}\" x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" "
      "fill-opacity=\"{:.2f}\"><title>{}</title></rect>\n",
      style, color_of(style), x, y, width, height, opacity, escape_xml(label));
}

// The faintest level is still seen; it also stands for what is no number.
double opacity(double level) { return level > 0 ? 0.06 + 0.94 * std::min(level, 1.0) : 0.06; }

// Between the marks of an axis from 0: 1, 2 or 5 times a power of ten, about ten marks.
double tick_step(double end) {
  if (!(end > 0)) return 0;
  const double power = std::pow(10.0, std::floor(std::log10(end / 10)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (end <= 10 * factor * power) return factor * power;
  return 10 * power;
}

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string escaped;
  const std::string valid = replace_invalid_utf8(text);
  for (std::size_t at = 0; at < valid.size();) {
    const std::size_t begin = at;
    const char32_t code = next_character(valid, at);
    switch (code) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default: {
        const bool is_control = code < 0x20 && code != '\t' && code != '\n' && code != '\r';
        if (is_control || code == 0x7F || code == 0xFFFE || code == 0xFFFF)
          escaped += "\xEF\xBF\xBD";
        else
          escaped.append(valid, begin, at - begin);
      }
    }
  }
  return escaped;
}

std::string draw(const PlotTitle& title, double width, double height, const std::string& content) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "style=\"max-width:{0:.0f}px\" font-size=\"11\" font-family=\"sans-serif\" role=\"img\" "
      "aria-labelledby=\"{2}-title {2}-description\">\n"
      "<title id=\"{2}-title\">{3}</title>\n<desc id=\"{2}-description\">{4}</desc>\n{5}</svg>\n",
      width, height, escape_xml(title.id), escape_xml(title.title), escape_xml(title.description),
      content);
}

std::string draw(const PlotTitle& title, const HeatGrid& grid) {
  const double left = width_of(grid.rows) + 8;
  const auto columns = static_cast<double>(std::max<std::size_t>(1, grid.columns.size()));
  // Few layers: squares as high as a line. Many: as wide as the page has room for.
  const double step = std::min(kLine * 1.5, (kWidth - left) / columns);
  std::string content;
  for (std::size_t r = 0; r < grid.rows.size(); ++r)
    content += text_at(left - 6, kLine * (static_cast<double>(r) + 1.75), "end", grid.rows[r]);
  // As many columns are named as there is room for.
  const double widest = width_of(grid.columns) + 4;
  const auto every = static_cast<std::size_t>(std::max(1.0, widest / step + 0.999));
  for (std::size_t c = 0; c < grid.columns.size(); ++c)
    if (c % every == 0)
      content += text_at(left + step * (static_cast<double>(c) + 0.5), kLine * 0.75, "middle",
                         grid.columns[c]);
  for (const HeatCell& cell : grid.cells)
    content += box(left + step * static_cast<double>(cell.column),
                   kLine * (static_cast<double>(cell.row) + 1), step - 1, kLine - 1, "heat",
                   opacity(cell.level), cell.label);
  const double below = kLine * (static_cast<double>(grid.rows.size()) + 1.5);
  double x = left;
  for (std::size_t i = 0; i < grid.legend.size(); ++i) {
    const double level = static_cast<double>(i) / static_cast<double>(grid.legend.size() - 1);
    content += box(x, below, kLine, kLine - 1, "heat", opacity(level), grid.legend[i]);
    content += text_at(x + kLine + 4, below + kLine * 0.75, "start", grid.legend[i]);
    x += kLine + 16 + kCharacter * static_cast<double>(grid.legend[i].size());
  }
  return draw(title, std::max(x, left + step * columns) + 4, below + kLine * 1.5, content);
}

std::string draw(const PlotTitle& title, const std::vector<Bar>& bars) {
  std::vector<std::string> labels, texts;
  double most = 0;
  for (const Bar& bar : bars) {
    labels.push_back(bar.label);
    texts.push_back(bar.text);
    most = std::max(most, bar.value + bar.error);
  }
  const double left = width_of(labels) + 8, room = kWidth - left - width_of(texts) - 12;
  const double scale = most > 0 ? room / most : 0;
  std::string content;
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const Bar& bar = bars[i];
    const double top = kLine * 1.25 * static_cast<double>(i) + 2, middle = top + kLine / 2;
    content += text_at(left - 6, top + kLine * 0.75, "end", bar.label);
    content += box(left, top + 2, scale * bar.value, kLine - 4, "bar", 1, bar.text);
    if (bar.after)
      content += box(left, top + 5, scale * *bar.after, kLine - 10, "after", 1, "after repairs");
    const double low = left + scale * std::max(0.0, bar.value - bar.error);
    const double high = left + scale * (bar.value + bar.error);
    content += line(low, middle, high, middle, "error");
    content += text_at(high + 6, top + kLine * 0.75, "start", bar.text);
  }
  const double height = kLine * 1.25 * static_cast<double>(bars.size()) + 4;
  return draw(title, kWidth, height, line(left, 0, left, height) + content);
}

std::string draw(const PlotTitle& title, const std::vector<Curve>& curves, const std::string& x,
                 const std::string& y) {
  constexpr double kSide = 300, kLeft = 48, kTop = 28;
  std::string content = text_at(4, kLine, "start", y);
  for (const int percent : {0, 25, 50, 75, 100}) {
    const double at = kSide * percent / 100;
    content += line(kLeft, kTop + kSide - at, kLeft + kSide, kTop + kSide - at);
    content += text_at(kLeft - 6, kTop + kSide - at + 4, "end", fmt::format("{} %", percent));
    content += text_at(kLeft + at, kTop + kSide + kLine, "middle", fmt::format("{} %", percent));
  }
  content += text_at(kLeft + kSide / 2, kTop + kSide + 2.25 * kLine, "middle", x);
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const char* style = style_of(i);
    std::string points;
    for (const auto& [px, py] : curves[i].points)
      points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", kLeft + kSide * px,
                            kTop + kSide * (1 - py));
    content +=
        fmt::format("<polyline class=\"{}-curve\" fill=\"none\" stroke=\"{}\" points=\"{}\"/>\n",
                    style, color_of(style), points);
    const double at = kTop + kLine * (static_cast<double>(i) * 1.25 + 1);
    content += box(kLeft + kSide + 16, at, kLine, 3, style, 1, curves[i].name);
    content += text_at(kLeft + kSide + 40, at + 6, "start", curves[i].name);
  }
  return draw(title, kLeft + kSide + 160, kTop + kSide + 2.75 * kLine, content);
}

std::string draw(const PlotTitle& title, const Gantt& gantt) {
  constexpr double kBarHeight = 28, kRowHeight = 36;
  const double left = width_of(gantt.rows) + 8, room = kGanttWidth - left - 40;
  const double scale = gantt.end > 0 ? room / gantt.end : 0;
  const double bottom = kRowHeight * static_cast<double>(gantt.rows.size());
  std::string content;
  const double step = tick_step(gantt.end);
  for (int i = 0; step > 0 && i * step <= gantt.end; ++i) {
    const double x = left + scale * (i * step);
    content += line(x, 0, x, bottom + 4);
    content += text_at(x, bottom + kLine * 1.25, "middle", fmt::format("{:g}", i * step));
  }
  content += text_at(left - 6, bottom + kLine * 1.25, "end", gantt.unit);
  for (std::size_t r = 0; r < gantt.rows.size(); ++r)
    content += text_at(left - 6, kRowHeight * static_cast<double>(r) + kBarHeight / 2 + 4, "end",
                       gantt.rows[r]);
  for (const GanttBox& each : gantt.boxes)
    content += box(left + scale * each.begin, kRowHeight * static_cast<double>(each.row),
                   scale * (each.end - each.begin), kBarHeight, style_of(each.kind),
                   opacity(each.level), each.label);
  const double below = bottom + 1.75 * kLine;
  double x = left;
  for (std::size_t i = 0; i < gantt.legend.size(); ++i) {
    if (gantt.legend[i].empty()) continue;
    content += box(x, below, kLine, kLine - 4, style_of(i), 1, gantt.legend[i]);
    content += text_at(x + kLine + 4, below + kLine * 0.6, "start", gantt.legend[i]);
    x += kLine + 20 + kCharacter * static_cast<double>(gantt.legend[i].size());
  }
  return draw(title, kGanttWidth, below + kLine * 1.5, content);
}

std::string stand_alone(const std::string& plot) {
  const std::size_t at = plot.find(">\n") + 2;
  return plot.substr(0, at) + "<style>" + kStyle + "</style>\n" + plot.substr(at);
}

}  // namespace tandem::cli
