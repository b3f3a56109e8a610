// Numbers are formatted here and nowhere else.
#include "cli/doctor_text.h"

#include <algorithm>
#include <cmath>

#include "cli/commands.h"

namespace tandem::cli {
namespace {

OrderedJson form_to_json(const Form& form) {
  return {{"form", describe(form.scheme)},
          {"kl", form.kl},
          {"kl_error", form.kl_error},
          {"sqnr_db", form.sqnr},
          {"bytes", form.bytes}};
}

std::string loss_text(const char* phase, const GateReport::Loss& before,
                      const GateReport::Loss& now) {
  std::string text = fmt::format("{} {:.5f} ± {:.5f}", phase, now.kl, now.kl_error);
  if (before.kl != now.kl) text += fmt::format(" (before repairs {:.5f})", before.kl);
  return text;
}

// What was measured, and on what.
std::string measured(const GateReport& report) {
  std::string text = loss_text("KL: decode", report.decode_before, report.decode);
  if (report.prefill && report.prefill_before)
    text += ", " + loss_text("prefill", *report.prefill_before, *report.prefill);
  // No limit was given, or that of a share of the loss, which "before repairs" shows.
  if (std::isfinite(report.max_kl) && report.max_share == 0)
    text += fmt::format("; limit {:g}", report.max_kl);
  return text + fmt::format(" nats/token, on {} windows of {} tokens of {}", report.windows,
                            report.window_tokens, report.text);
}

// A Linear of a small model is less than a tenth of a megabyte.
std::string small_megabytes(std::int64_t bytes) {
  return fmt::format("{:.3f}", static_cast<double>(bytes) * 1e-6);
}

double percent(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

std::vector<const Slot*> by_loss(std::span<const Slot> slots) {
  std::vector<const Slot*> sorted;
  for (const Slot& slot : slots) sorted.push_back(&slot);
  std::ranges::sort(sorted, [](const Slot* a, const Slot* b) {
    const double first = a->forms.front().kl, second = b->forms.front().kl;
    return first != second ? first > second : a < b;
  });
  return sorted;
}

OrderedJson to_json(std::span<const Slot> slots) {
  OrderedJson list = OrderedJson::array();
  for (const Slot* slot : by_loss(slots)) {
    OrderedJson entry = {{"module", slot->module}, {"phase", to_string(slot->phase)}};
    entry.update(form_to_json(slot->forms.front()));
    list.push_back(std::move(entry));
  }
  return list;
}

std::string table_of(std::span<const Slot> slots, std::size_t rows) {
  std::size_t width = 6;
  for (const Slot& slot : slots) width = std::max(width, slot.module.size());
  std::string table = fmt::format("{:{}}  {:7}  {:13}  {:>9}  {:>9}  {:>7}  {:>8}\n", "module",
                                  width, "phase", "form", "KL", "±", "SQNR dB", "MB");
  const std::vector<const Slot*> sorted = by_loss(slots);
  const std::size_t shown = rows == 0 ? sorted.size() : std::min(rows, sorted.size());
  for (std::size_t i = 0; i < shown; ++i) {
    const Form& form = sorted[i]->forms.front();
    table +=
        fmt::format("{:{}}  {:7}  {:13}  {:9.6f}  {:9.6f}  {:7.1f}  {:>8}\n", sorted[i]->module,
                    width, to_string(sorted[i]->phase), describe(form.scheme), form.kl,
                    form.kl_error, form.sqnr, small_megabytes(form.bytes));
  }
  if (shown < sorted.size())
    table += fmt::format("and {} more, each with less\n", sorted.size() - shown);
  return table;
}

OrderedJson repairs_to_json(std::span<const Slot> slots) {
  OrderedJson list = OrderedJson::array();
  for (const Slot& slot : slots)
    if (slot.chosen != 0)
      list.push_back({{"module", slot.module},
                      {"phase", to_string(slot.phase)},
                      {"from", form_to_json(slot.forms.front())},
                      {"to", form_to_json(slot.form())}});
  return list;
}

std::string repairs_of(std::span<const Slot> slots) {
  std::string text;
  for (const Slot* slot : by_loss(slots)) {
    if (slot->chosen == 0) continue;
    const Form &from = slot->forms.front(), &to = slot->form();
    text +=
        fmt::format("  {} ({}): {} -> {}, KL alone {:.6f} -> {:.6f}, {} -> {} MB\n", slot->module,
                    to_string(slot->phase), describe(from.scheme), describe(to.scheme), from.kl,
                    to.kl, small_megabytes(from.bytes), small_megabytes(to.bytes));
  }
  return text;
}

OrderedJson to_json(const GateReport::Loss& loss) {
  return {{"kl", loss.kl}, {"kl_error", loss.kl_error}, {"percent_same_top", 100 * loss.agreement}};
}

OrderedJson to_json(const GateReport& report) {
  OrderedJson json = {{"passed", report.passed()},
                      {"max_kl", report.max_kl},
                      {"text", report.text},
                      {"windows", report.windows},
                      {"window_tokens", report.window_tokens},
                      {"decode", to_json(report.decode)},
                      {"decode_before", to_json(report.decode_before)}};
  if (report.prefill && report.prefill_before) {
    json["prefill"] = to_json(*report.prefill);
    json["prefill_before"] = to_json(*report.prefill_before);
  }
  json["added_bytes"] = report.added_bytes;
  json["repairs"] = repairs_to_json(report.slots);
  json["layers"] = to_json(report.slots);
  return json;
}

std::string text_of(const GateReport& report) {
  std::string text = measured(report) + '\n';
  if (const std::string repairs = repairs_of(report.slots); !repairs.empty())
    text += fmt::format("repaired, for {} MB more (+{:.1f} %):\n{}", megabytes(report.added_bytes),
                        percent(report.added_bytes, report.bytes), repairs);
  return text;
}

std::string failure_of(const GateReport& report, const char* area) {
  return fmt::format(
      "[{}] not good enough, and nothing was written: {}; repairs took {} MB (+{:.1f} %), and no "
      "other fits --max-size-increase",
      area, measured(report), megabytes(report.added_bytes),
      percent(report.added_bytes, report.bytes));
}

}  // namespace tandem::cli
