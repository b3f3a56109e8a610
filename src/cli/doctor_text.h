// What the doctor found, as text and as JSON: tables of Linears, and how a gate was passed.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "quantize/quality_gate.h"

namespace tandem::cli {

// By decreasing KL divergence of the recipe's form.
std::vector<const Slot*> by_loss(std::span<const Slot> slots);
// Every Linear alone: module, phase, form, kl, kl_error, sqnr_db, bytes; by decreasing kl.
OrderedJson to_json(std::span<const Slot> slots);
// The same as a table of at most `rows` lines, 0: all.
std::string table_of(std::span<const Slot> slots, std::size_t rows);
// Those whose form was changed.
OrderedJson repairs_to_json(std::span<const Slot> slots);
// A line for each; empty if there are none.
std::string repairs_of(std::span<const Slot> slots);

OrderedJson to_json(const GateReport::Loss& loss);
OrderedJson to_json(const GateReport& report);
// How far the model is from the limit, on what text, and what was repaired.
std::string text_of(const GateReport& report);
// Of a limit that was not kept: the error's message. `area`: the command.
std::string failure_of(const GateReport& report, const char* area);

}  // namespace tandem::cli
