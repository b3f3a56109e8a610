// Reports as pages: well-formed, whole by themselves, and with all that was measured in them.
#include "cli/html_report.h"

#include <gtest/gtest.h>

#include <limits>
#include <regex>
#include <set>

#include "cli/svg_plots.h"
#include "support.h"

namespace tandem::cli {
namespace {

using testing::error_of;
using testing::ScratchFolder;

// What is wrong with a text as XML, of the few things that a page is made of; empty: nothing.
std::string objection_to_xml(const std::string& text) {
  static const std::regex kTag(
      R"(<(/?)([A-Za-z][A-Za-z0-9]*)((?:\s+[A-Za-z][A-Za-z0-9:-]*="[^"<]*")*)\s*(/?)>)");
  static const std::regex kReference("&(amp|lt|gt|quot|#39);");
  static const std::regex kId(" id=\"([^\"]*)\"");
  std::vector<std::string> open;
  std::set<std::string> ids;
  std::smatch match;
  for (auto at = text.begin(); at != text.end();) {
    if (*at == '&') {
      if (!std::regex_search(at, text.end(), match, kReference,
                             std::regex_constants::match_continuous))
        return "a bare &: " + std::string(at, std::min(at + 40, text.end()));
      at = match[0].second;
      continue;
    }
    if (*at != '<') {
      if (static_cast<unsigned char>(*at) < 0x20 && *at != '\n') return "a control character";
      ++at;
      continue;
    }
    if (std::string_view(&*at, 2) == "<!") {
      at = std::find(at, text.end(), '>');
      continue;
    }
    if (!std::regex_search(at, text.end(), match, kTag, std::regex_constants::match_continuous))
      return "no tag: " + std::string(at, std::min(at + 60, text.end()));
    const std::string attributes = match[3];
    if (std::smatch id; std::regex_search(attributes, id, kId) && !ids.insert(id[1]).second)
      return "two elements with the id " + id[1].str();
    if (match[1].length() > 0) {
      if (open.empty() || open.back() != match[2]) return "closes nothing: " + match[0].str();
      open.pop_back();
    } else if (match[4].length() == 0) {
      open.push_back(match[2]);
    }
    at = match[0].second;
  }
  return open.empty() ? "" : "stays open: " + open.back();
}

Slot slot(const std::string& module, SlotPhase phase, double kl, double sqnr) {
  Slot slot{module, phase};
  slot.forms.push_back({.scheme = {WeightType::kUint4, 128},
                        .kl = kl,
                        .kl_error = kl / 10,
                        .sqnr = sqnr,
                        .bytes = 100'000});
  slot.forms.push_back({.scheme = {WeightType::kUint4, 32}, .kl = kl / 4, .bytes = 120'000});
  return slot;
}

GateReport some_report() {
  GateReport report;
  report.max_kl = 0.01;
  report.text = "held <back> & \"kept\".txt";
  report.windows = 8;
  report.ranking_windows = 2;
  report.decode_before = {0.02, 0.001, 0.95};
  report.decode = {0.009, 0.0005, 0.97};
  report.prefill_before = report.prefill = GateReport::Loss{0.005, 0.0002, 0.98};
  for (int layer = 0; layer < 3; ++layer)
    for (const char* kind : {"self_attn.q_proj", "mlp.down_proj"})
      for (const SlotPhase phase : {SlotPhase::kDecode, SlotPhase::kPrefill})
        report.slots.push_back(slot(fmt::format("model.layers.{}.{}", layer, kind), phase,
                                    1e-3 / (1 + layer), 20 + layer));
  report.slots.push_back(slot("lm_head", SlotPhase::kBoth, 2e-3, 24));
  report.slots.front().chosen = 1;
  report.bytes = 1'400'000;
  report.added_bytes = 20'000;
  return report;
}

TEST(HtmlReport, HasAllThatWasMeasured) {
  const GateReport doctor = some_report();
  const OrderedJson scores = OrderedJson::parse(R"({
    "texts": [{"file": "a.txt", "tokens": 510, "perplexity": 1.5, "perplexity_error": 0.01,
               "reference_perplexity": 1.4, "log_perplexity_ratio": 0.07,
               "log_perplexity_ratio_error": 0.002, "kl": 0.0123, "kl_error": 0.0004,
               "kl_p99": 0.3, "kl_max": null, "percent_same_top": 94.5}],
    "questions": {"right": 3, "total": 4, "reference_right": 4}})");
  const std::string html = html_of({"Quality of p", {{"model", "out/p"}}, &scores, &doctor});
  EXPECT_EQ(objection_to_xml(html), "");
  for (const char* part :
       {"<h1>Quality of p</h1>", "out/p", "1.50000 ± 0.01000", "0.01230 ± 0.00040", "94.5 %",
        // Questions, the whole model, a module, a repair, and how the loss is spread.
        ">3</td><td class=\"number\">4</td><td class=\"number\">75.0 %", "0.02000 ± 0.00100",
        "0.00900 ± 0.00050", "The limit of 0.01 nats/token is kept.",
        "<td>model.layers.2.mlp.down_proj</td><td>prefill</td><td>uint4 g128</td>",
        "<td>uint4 g128</td><td>uint4 g32</td>", "They take 0.0 MB more, 1.4 %",
        "90 % of the loss is in", "KL divergence of every module alone",
        "model.layers.0.self_attn.q_proj (decode, uint4 g128): KL 0.001000 ± 0.000100, SQNR 20.0 "
        "dB"})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  // Four plots, each with words for whoever can't see it; a cell in each grid for every form.
  EXPECT_EQ(std::ranges::count(html, '\0'), 0);
  const auto count = [&](const std::string& part) {
    int found = 0;
    for (std::size_t at = 0; (at = html.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(count("<svg "), 4);
  EXPECT_EQ(count("role=\"img\""), 4);
  EXPECT_EQ(count("<desc id="), 4);
  EXPECT_EQ(count(": KL 0.00"), 2 * 13);
  // Nothing is fetched, nothing runs.
  for (const char* part :
       {"<script", "src=", "href=", "url(", "@import", "<link", "<img", "<iframe"})
    EXPECT_EQ(html.find(part), std::string::npos) << part;
  EXPECT_EQ(count("http"), 1 + 4) << "names of XML vocabularies alone";
}

TEST(HtmlReport, ShowsWhatIsThere) {
  const std::string empty = html_of({"Nothing", {}});
  EXPECT_EQ(objection_to_xml(empty), "");
  EXPECT_EQ(empty.find("<svg"), std::string::npos);
  // A gate that was passed at once.
  GateReport passed = some_report();
  passed.slots.clear();
  passed.prefill.reset();
  passed.prefill_before.reset();
  const std::string whole = html_of({"Passed", {}, nullptr, &passed});
  EXPECT_EQ(objection_to_xml(whole), "");
  EXPECT_EQ(whole.find("<svg"), std::string::npos);
  EXPECT_EQ(whole.find("prefill"), std::string::npos);
}

// Figures that are no numbers, or all alike, are drawn somehow.
TEST(HtmlReport, DrawsWhatIsNoNumber) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  for (const double kl : {0.0, kInfinite}) {
    GateReport report = some_report();
    for (Slot& each : report.slots) each = slot(each.module, each.phase, kl, kNone);
    report.max_kl = kInfinite;
    const std::string html = html_of({"Odd", {}, nullptr, &report});
    EXPECT_EQ(objection_to_xml(html), "");
    for (const char* key : {"\"nan", "\"inf", "\"-nan", ",nan", ",-nan", "limit"})
      EXPECT_EQ(html.find(key), std::string::npos) << key;
  }
}

TEST(HtmlReport, TakesNamesForNamesOnly) {
  GateReport doctor = some_report();
  doctor.slots.front().module = "<script>alert('a & b')</script>";
  doctor.slots.back().module = "layers.7.\"quoted\"\x01\xFF\xEF\xBF\xBE";
  const OrderedJson scores = {{"texts", {{{"file", "</table><script>"}, {"tokens", 1}}}}};
  const std::string html =
      html_of({"</title><script>1</script>", {{"model", "a\"><b"}}, &scores, &doctor});
  EXPECT_EQ(objection_to_xml(html), "");
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_NE(html.find("&lt;script&gt;alert(&#39;a &amp; b&#39;)&lt;/script&gt;"),
            std::string::npos);
  EXPECT_NE(html.find("&quot;quoted&quot;\uFFFD\uFFFD\uFFFD"), std::string::npos);
}

TEST(SvgPlots, DrawAGanttByItself) {
  const Gantt gantt{.rows = {"npu", "<cpu>"},
                    .boxes = {{0, 0, 1.5, 0, 1, "chunk 0"}, {1, 1.5, 40, 2, 0.5, "chunk 1 & more"}},
                    .end = 40,
                    .unit = "ms",
                    .legend = {"even", "", "odd"}};
  const std::string svg = stand_alone(draw({"gantt", "A \"run\"", "Two rows."}, gantt));
  EXPECT_EQ(objection_to_xml(svg), "");
  for (const char* part :
       {"<style>", "<title id=\"gantt-title\">A &quot;run&quot;</title>", "Two rows.",
        "&lt;cpu&gt;", "<title>chunk 1 &amp; more</title>", ">35</text>", ">40</text>", ">odd<"})
    EXPECT_NE(svg.find(part), std::string::npos) << part;
  for (const char* part : {"<script", "href=", "url(", "@import", "nan", "inf"})
    EXPECT_EQ(svg.find(part), std::string::npos) << part;
  EXPECT_EQ(objection_to_xml(stand_alone(draw({"gantt", "Nothing", ""}, Gantt()))), "");
}

TEST(ReportFile, IsWrittenWholeOrNotAtAll) {
  const ScratchFolder folder;
  const fs::path file = folder / "r.html";
  {
    ReportFile begun("eval", file.string(), {});
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
  ReportFile("eval", file.string(), {}).write({"One", {}});
  EXPECT_NE(read_text_file(file).find("<h1>One</h1>"), std::string::npos);
  EXPECT_NE(error_of([&] { ReportFile("eval", "-", {}); }).find("--report"), std::string::npos);
  EXPECT_NE(error_of([&] { ReportFile("eval", (folder / "no/r.html").string(), {}); }).find("no"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              ReportFile("eval", file.string(), {folder.path().string()});
            }).find("is a file of the model"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::cli
