// Tables are made of the same figures as --json prints; plots of the doctor's slots.
#include "cli/html_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>

#include "base/version.h"
#include "cli/commands.h"
#include "cli/doctor_text.h"
#include "cli/svg_plots.h"

namespace tandem::cli {
namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --faint: #5b6470; --line: #d4d9e0;
  --heat: #c2410c; --bar: #2563a8; --after: #7cc4a0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e7eb; --faint: #9aa4b0;
  --line: #363d46; --heat: #fb923c; --bar: #6ea8e5; --after: #2f7d57; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --faint: #444; --line: #bbb;
  --heat: #c2410c; --bar: #2563a8; --after: #7cc4a0; } body { max-width: none; margin: 0; }
  section { break-inside: avoid-page; } * { print-color-adjust: exact; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, figcaption { color: var(--faint); } figure { margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
.wide { overflow-x: auto; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; border-bottom: 1px solid var(--line); text-align: left; }
th { font-weight: 600; } td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
.ink { fill: var(--ink); } .heat { fill: var(--heat); } .bar { fill: var(--bar); }
.after { fill: var(--after); } .line { stroke: var(--line); } .error { stroke: var(--ink); }
.bar-curve, .heat-curve, .after-curve { fill: none; stroke-width: 2; }
.bar-curve { stroke: var(--bar); } .heat-curve { stroke: var(--heat); }
.after-curve { stroke: var(--after); }
)";

// Modules with a bar of their own.
constexpr std::size_t kBars = 20;

struct Cell {
  std::string text;
  bool is_number = true;
};

std::string row(std::span<const Cell> cells, const char* tag) {
  std::string html = "<tr>";
  for (const Cell& cell : cells)
    html += fmt::format("<{0}{1}>{2}</{0}>", tag, cell.is_number ? " class=\"number\"" : "",
                        escape_xml(cell.text));
  return html + "</tr>\n";
}

std::string table(const std::vector<Cell>& head, const std::vector<std::vector<Cell>>& rows) {
  std::string html = "<div class=\"wide\"><table>\n<thead>" + row(head, "th") + "</thead>\n<tbody>";
  for (const std::vector<Cell>& cells : rows) html += row(cells, "td");
  return html + "</tbody></table></div>\n";
}

std::string section(std::string_view heading, const std::string& content) {
  return fmt::format("<section>\n<h2>{}</h2>\n{}</section>\n", escape_xml(heading), content);
}

std::string figure(const std::string& plot, std::string_view caption) {
  return fmt::format("<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", plot,
                     escape_xml(caption));
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::string megabytes_of(std::int64_t bytes) {
  return fmt::format("{:.3f}", static_cast<double>(bytes) * 1e-6);
}

// "-" for what could not be computed.
std::string figure_of(const OrderedJson& json, const char* key, const char* error = nullptr) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number()) return "-";
  std::string text = fmt::format("{:.5f}", found->get<double>());
  if (error != nullptr && json.contains(error) && json[error].is_number())
    text += fmt::format(" ± {:.5f}", json[error].get<double>());
  return text;
}

std::string texts_table(const OrderedJson& texts) {
  const bool is_paired = texts.front().contains("kl");
  std::vector<Cell> head = {{"text", false}, {"tokens"}, {"perplexity"}};
  if (is_paired)
    for (const char* name :
         {"reference", "ln of the ratio", "KL, nats/token", "KL of 99 %", "same likeliest token"})
      head.push_back({name});
  const bool has_handover = texts.front().contains("perplexity_handover");
  if (has_handover) head.push_back({"perplexity after hand-over"});
  std::vector<std::vector<Cell>> rows;
  for (const OrderedJson& text : texts) {
    std::vector<Cell> cells = {{text["file"].get<std::string>(), false},
                               {text["tokens"].dump()},
                               {figure_of(text, "perplexity", "perplexity_error")}};
    if (is_paired) {
      cells.push_back({figure_of(text, "reference_perplexity")});
      cells.push_back({figure_of(text, "log_perplexity_ratio", "log_perplexity_ratio_error")});
      cells.push_back({figure_of(text, "kl", "kl_error")});
      cells.push_back({figure_of(text, "kl_p99")});
      cells.push_back({percent(text["percent_same_top"].get<double>() / 100)});
    }
    if (has_handover)
      cells.push_back({figure_of(text, "perplexity_handover", "perplexity_handover_error")});
    rows.push_back(std::move(cells));
  }
  return table(head, rows);
}

std::string questions_table(const OrderedJson& questions) {
  const auto total = questions["total"].get<std::int64_t>();
  const auto cells = [&](const char* name, const char* key) {
    const auto right = questions[key].get<std::int64_t>();
    const double share = total == 0 ? 0 : static_cast<double>(right) / static_cast<double>(total);
    return std::vector<Cell>{
        {name, false}, {std::to_string(right)}, {std::to_string(total)}, {percent(share)}};
  };
  std::vector<std::vector<Cell>> rows = {cells("model", "right")};
  if (questions.contains("reference_right")) rows.push_back(cells("reference", "reference_right"));
  return table({{"", false}, {"right"}, {"of"}, {"share"}}, rows);
}

std::string whole_table(const GateReport& report) {
  std::vector<std::vector<Cell>> rows;
  const bool is_repaired = report.added_bytes > 0 || !rules_of(report.slots).empty();
  const auto add = [&](const char* phase, const GateReport::Loss& before,
                       const GateReport::Loss& now) {
    const auto kl = [](const GateReport::Loss& loss) {
      return fmt::format("{:.5f} ± {:.5f}", loss.kl, loss.kl_error);
    };
    rows.push_back({{phase, false}, {kl(before)}, {percent(before.agreement)}});
    if (is_repaired) rows.back().insert(rows.back().end(), {{kl(now)}, {percent(now.agreement)}});
  };
  add("decode", report.decode_before, report.decode);
  if (report.prefill && report.prefill_before)
    add("prefill", *report.prefill_before, *report.prefill);
  std::vector<Cell> head = {{"phase", false}, {"KL, nats/token"}, {"same likeliest token"}};
  if (is_repaired) head.insert(head.end(), {{"KL after repairs"}, {"same likeliest token"}});
  std::string html = table(head, rows);
  if (std::isfinite(report.max_kl) && report.max_share == 0)
    html += fmt::format("<p>The limit of {:g} nats/token is {}.</p>\n", report.max_kl,
                        report.passed() ? "kept" : "not kept");
  return html;
}

// A module's place in the model: "model.layers.5.mlp.down_proj" is "mlp.down_proj" of layer 5. What
// is in no layer has its name and layer -1.
struct Place {
  int layer = -1;
  std::string kind;
};

Place place_of(const std::string& module) {
  for (std::size_t at = 0; at < module.size();) {
    const std::size_t end = std::min(module.find('.', at), module.size());
    const std::string_view part(module.data() + at, end - at);
    const bool is_number = !part.empty() && part.size() < 5 &&
                           part.find_first_not_of("0123456789") == std::string_view::npos;
    if (is_number && end < module.size())
      return {std::stoi(std::string(part)), module.substr(end + 1)};
    at = end + 1;
  }
  return {-1, module};
}

std::string summary(const Slot& slot) {
  const Form& form = slot.forms.front();
  return fmt::format("{} ({}, {}): KL {:.6f} ± {:.6f}, SQNR {:.1f} dB", slot.module,
                     to_string(slot.phase), describe(form.scheme), form.kl, form.kl_error,
                     form.sqnr);
}

// Layers from left to right, kinds of modules from top to bottom, what only prefill reads below. `level`: of a form, in [0, 1].
HeatGrid grid_of(std::span<const Slot> slots, const std::function<double(const Form&)>& level) {
  HeatGrid grid;
  int layers = 0;
  bool has_outside = false;
  for (const Slot& slot : slots) {
    const int layer = place_of(slot.module).layer;
    layers = std::max(layers, layer + 1);
    has_outside = has_outside || layer < 0;
  }
  for (int layer = 0; layer < layers; ++layer) grid.columns.push_back(std::to_string(layer));
  if (has_outside) grid.columns.emplace_back("–");
  std::map<std::string, std::size_t> row_of;
  for (const bool is_prefill : {false, true})
    for (const Slot& slot : slots) {
      if ((slot.phase == SlotPhase::kPrefill) != is_prefill) continue;
      const Place place = place_of(slot.module);
      const std::string name = fmt::format("{} {}", place.kind, to_string(slot.phase));
      const auto [row, is_new] = row_of.emplace(name, grid.rows.size());
      if (is_new) grid.rows.push_back(name);
      const auto column = static_cast<std::size_t>(place.layer < 0 ? layers : place.layer);
      grid.cells.push_back({row->second, column, level(slot.forms.front()), summary(slot)});
    }
  return grid;
}

// The largest loss that can be drawn; what is beyond any number is drawn like it.
double largest_kl(std::span<const Slot> slots) {
  double most = 0;
  for (const Slot& slot : slots)
    if (const double kl = slot.forms.front().kl; std::isfinite(kl)) most = std::max(most, kl);
  return most;
}

std::string kl_grid(std::span<const Slot> slots) {
  const double most = largest_kl(slots);
  // Four powers of ten: what is below changes nothing.
  HeatGrid grid = grid_of(slots, [&](const Form& form) {
    return form.kl > 0 && most > 0 ? 1 + std::log10(form.kl / most) / 4 : 0.0;
  });
  for (int power = -4; power <= 0; ++power)
    grid.legend.push_back(
        fmt::format("{}{:.1e}", power == -4 ? "up to " : "", most * std::pow(10, power)));
  return draw({"kl", "KL divergence of every module alone",
               "The stronger the color, the worse. One column for each layer, one row for each "
               "kind of module and phase; the table of all modules has the figures."},
              grid);
}

std::string sqnr_grid(std::span<const Slot> slots) {
  constexpr double kCoarse = 10, kFine = 50;
  HeatGrid grid =
      grid_of(slots, [](const Form& form) { return (kFine - form.sqnr) / (kFine - kCoarse); });
  grid.legend = {"50 dB and more", "40 dB", "30 dB", "20 dB", "10 dB and less"};
  return draw({"sqnr", "Signal to quantization noise of every module's output",
               "The stronger the color, the worse. Columns and rows as in the plot of the KL "
               "divergence; the table of all modules has the figures."},
              grid);
}

std::string bars_of(const std::vector<const Slot*>& sorted, double most) {
  std::vector<Bar> bars;
  for (const Slot* slot : sorted) {
    if (bars.size() == kBars) break;
    const Form& form = slot->forms.front();
    Bar bar{.label = fmt::format("{} {}", slot->module, to_string(slot->phase)),
            .text = fmt::format("{:.6f} {}", form.kl, describe(form.scheme)),
            .value = std::min(form.kl, most),
            .error = std::isfinite(form.kl) ? form.kl_error : 0};
    if (slot->chosen != 0) {
      bar.after = std::min(slot->form().kl, most);
      bar.text += fmt::format(" → {:.6f} {}", slot->form().kl, describe(slot->form().scheme));
    }
    bars.push_back(std::move(bar));
  }
  return draw(
      {"worst", "The modules that lose most",
       "A bar for each, with the KL divergence and its standard error; the thin bar is what "
       "remains after repairs. The table of all modules has the figures."},
      bars);
}

// The share of all loss in the slots up to each, worst first, of a phase.
Curve curve_of(const std::vector<const Slot*>& sorted, double most, const char* name,
               Scheme ModulePlan::* phase) {
  std::vector<double> losses;
  for (const Slot* slot : sorted)
    if (is_in(slot->phase, phase)) losses.push_back(std::min(slot->forms.front().kl, most));
  double total = 0, sum = 0;
  for (const double loss : losses) total += loss;
  Curve curve{name, {{0, 0}}};
  for (std::size_t i = 0; i < losses.size(); ++i) {
    sum += losses[i];
    curve.points.emplace_back(static_cast<double>(i + 1) / static_cast<double>(losses.size()),
                              total > 0 ? sum / total : 0);
  }
  return curve;
}

std::string shares_of(const std::vector<const Slot*>& sorted, double most) {
  std::vector<Curve> curves = {curve_of(sorted, most, "decode", &ModulePlan::decode)};
  if (std::ranges::any_of(sorted,
                          [](const Slot* slot) { return slot->phase == SlotPhase::kPrefill; }))
    curves.push_back(curve_of(sorted, most, "prefill", &ModulePlan::prefill));
  std::vector<std::vector<Cell>> rows;
  for (const double share : {0.5, 0.8, 0.9, 0.99}) {
    std::vector<Cell> cells = {{fmt::format("{:.0f} % of the loss is in", 100 * share), false}};
    for (const Curve& curve : curves) {
      const auto reached = std::ranges::find_if(
          curve.points, [&](const auto& point) { return point.second >= share; });
      cells.push_back(
          {fmt::format("{} of {}", reached - curve.points.begin(), curve.points.size() - 1)});
    }
    rows.push_back(std::move(cells));
  }
  std::vector<Cell> head = {{"", false}};
  for (const Curve& curve : curves) head.push_back({curve.name});
  return figure(draw({"shares", "How the loss is spread",
                      "The share of all modules' loss, added up from the worst one on, over the "
                      "share of modules; the table beside it has the figures."},
                     curves, "modules, the worst first", "loss"),
                "A steep curve: a few modules are worth a repair. The diagonal: no module stands "
                "out.") +
         table(head, rows);
}

std::string repairs_table(const GateReport& report) {
  std::vector<std::vector<Cell>> rows;
  for (const Slot& slot : report.slots) {
    if (slot.chosen == 0) continue;
    const Form &from = slot.forms.front(), &to = slot.form();
    rows.push_back({{slot.module, false},
                    {std::string(to_string(slot.phase)), false},
                    {describe(from.scheme), false},
                    {describe(to.scheme), false},
                    {fmt::format("{:.6f}", from.kl)},
                    {fmt::format("{:.6f}", to.kl)},
                    {megabytes_of(from.bytes)},
                    {megabytes_of(to.bytes)}});
  }
  if (rows.empty()) return "<p>Nothing was repaired.</p>\n";
  const double share = report.bytes == 0 ? 0
                                         : static_cast<double>(report.added_bytes) /
                                               static_cast<double>(report.bytes);
  return fmt::format("<p>They take {} MB more, {} of what the Linears' weights take.</p>\n",
                     megabytes(report.added_bytes), percent(share)) +
         table({{"module", false},
                {"phase", false},
                {"from", false},
                {"to", false},
                {"KL alone"},
                {"KL after"},
                {"MB"},
                {"MB after"}},
               rows);
}

std::string modules_table(const std::vector<const Slot*>& sorted) {
  double total = 0;
  for (const Slot* slot : sorted) total += slot->forms.front().kl;
  std::vector<std::vector<Cell>> rows;
  for (const Slot* slot : sorted) {
    const Form& form = slot->forms.front();
    rows.push_back({{slot->module, false},
                    {std::string(to_string(slot->phase)), false},
                    {describe(form.scheme), false},
                    {fmt::format("{:.6f}", form.kl)},
                    {fmt::format("{:.6f}", form.kl_error)},
                    {percent(total > 0 ? form.kl / total : 0)},
                    {fmt::format("{:.1f}", form.sqnr)},
                    {megabytes_of(form.bytes)}});
  }
  return table({{"module", false},
                {"phase", false},
                {"form", false},
                {"KL"},
                {"±"},
                {"of all"},
                {"SQNR, dB"},
                {"MB"}},
               rows);
}

std::string doctor_sections(const GateReport& report) {
  std::string html =
      section("The whole model",
              fmt::format("<p>{} windows of {} tokens of {}, with a float32 cache.</p>\n",
                          report.windows, report.window_tokens, escape_xml(report.text)) +
                  whole_table(report));
  if (report.slots.empty()) return html;
  const std::vector<const Slot*> sorted = by_loss(report.slots);
  const double most = largest_kl(report.slots);
  html += section("Module by module",
                  fmt::format("<p>Every module quantized alone, the others float, on {} of those "
                              "windows.</p>\n",
                              report.ranking_windows) +
                      figure(kl_grid(report.slots), "KL divergence, nats per token.") +
                      figure(sqnr_grid(report.slots), "SQNR of the module's output, dB."));
  html += section("The worst", figure(bars_of(sorted, most), "KL divergence, nats per token."));
  html += section("How the loss is spread", shares_of(sorted, most));
  html += section("Repairs", repairs_table(report));
  return html + section("All modules", modules_table(sorted));
}

}  // namespace

std::string html_of(const HtmlReport& report) {
  const std::string title = escape_xml(report.title);
  std::string facts;
  for (const auto& [name, value] : report.facts)
    facts += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape_xml(name),
                         escape_xml(value));
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n"
      "<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n"
      "<table>\n<tbody>\n{2}</tbody>\n</table>\n",
      title, kStyle, facts);
  if (report.scores != nullptr) {
    const OrderedJson& scores = *report.scores;
    if (scores.contains("texts") && !scores["texts"].empty())
      html += section("Texts", texts_table(scores["texts"]));
    if (scores.contains("questions"))
      html += section("Questions", questions_table(scores["questions"]));
  }
  if (report.doctor != nullptr) html += doctor_sections(*report.doctor);
  return html + fmt::format("<p>Made by tandem {}.</p>\n</main>\n</body>\n</html>\n",
                            escape_xml(build_version()));
}

ReportFile::ReportFile(const char* area, const std::string& file,
                       const std::vector<std::string>& models)
    : file_([&] {
        refuse_standard_stream(file, "--report", "a report is a file");
        for (const std::string& model : models)
          if (!model.empty()) refuse_overwriting(area, model, file);
        return fs::path(file);
      }()) {}

void ReportFile::write(const HtmlReport& report) {
  const std::string html = html_of(report);
  file_.write_at(0, std::as_bytes(std::span(html)));
  file_.commit();
}

}  // namespace tandem::cli
