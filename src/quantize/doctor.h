// Where quantizing loses, and what buys it back: what each Linear costs by itself in each form, and
// which forms to change within a budget of size.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/observer.h"
#include "base/thread_pool.h"
#include "quantize/calibration.h"
#include "quantize/quantize_linears.h"
#include "quantize/recipe.h"
#include "quantize/variant_sweep.h"

namespace tandem {

// The phases in which a Linear has a form. A form that both read is one slot.
enum class SlotPhase : std::uint8_t { kBoth, kDecode, kPrefill };
std::string_view to_string(SlotPhase phase) noexcept;
// Whether a slot of this phase is read in that one.
bool is_in(SlotPhase slot, Scheme ModulePlan::* phase);

// A form that a Linear could have, alone in an otherwise float model.
struct Form {
  Scheme scheme;
  // Of the logits from the reference's, nats per token; 0 for float.
  double kl = 0;
  double kl_error = 0;
  // Of the Linear's output, dB; infinite for float.
  double sqnr = 0;
  // Of codes, scales and zero points, or float values.
  std::int64_t bytes = 0;
};

// A Linear in the phases that read one form of it.
struct Slot {
  std::string module;
  SlotPhase phase = SlotPhase::kBoth;
  // The recipe's, then what it could be instead.
  std::vector<Form> forms;
  // The one chosen.
  std::size_t chosen = 0;

  const Form& form() const { return forms[chosen]; }
};

// "int4 g128", "int8 static", "float".
std::string describe(const Scheme& scheme);
// Of all slots as the recipe has them: what the Linears' weights take, added up over the phases that
// read them.
std::int64_t recipe_bytes(std::span<const Slot> slots);
// Of the forms chosen instead of the recipe's, those that grew.
std::int64_t added_bytes(std::span<const Slot> slots);

// Chooses other forms, those first that buy back the most divergence for a byte, until `enough`
// says so, nothing is left to gain, or added_bytes() would exceed `budget`. Returns whether
// anything was chosen. Only slots for which `counts` holds are changed.
bool choose_forms(std::span<Slot> slots, std::int64_t budget,
                  const std::function<bool(const Slot&)>& counts,
                  const std::function<bool()>& enough);
// Rules for the slots whose chosen form is not the recipe's.
std::vector<Rule> rules_of(std::span<const Slot> slots);

class Doctor {
 public:
  // `graph` is float: `reference` after passes that change nothing of what it computes. All must
  // outlive this object.
  Doctor(const Graph& graph, const Graph& reference, const Recipe& recipe,
         const std::map<std::string, InputStatistics>& statistics,
         const CalibrationWindows& windows, ThreadPool& pool);

  // What the whole model loses in a phase, with the weights of a quantizer for the same graph.
  VariantLoss whole(LinearQuantizer& quantizer, Scheme ModulePlan::* phase, Observer& observer);

  // Every Linear that the recipe quantizes, with what the recipe makes of it alone. With
  // `alternatives` also what it could be instead, measured where 90 % of the loss is: 4 bits in
  // groups of 32, int8 with a scale for each token, the form of the other phase, float. With
  // `only_float` float alone, since nothing else can be exported. Without `with_prefill` decode's
  // alone.
  std::vector<Slot> slots(bool with_prefill, Observer& observer);
  void add_alternatives(std::vector<Slot>& slots, bool only_float, Observer& observer);

 private:
  struct Key {
    std::string module;
    Scheme scheme;
  };
  Variant alone(const Key& key);
  // Measures those forms that are not known yet.
  void measure(const std::vector<Key>& wanted, std::string_view task, Observer& observer);
  Form known(const Key& key) const;
  const Node& node_of(const std::string& module) const;

  const Graph& graph_;
  const Recipe& recipe_;
  const std::map<std::string, InputStatistics>& statistics_;
  ThreadPool& pool_;
  VariantSweep sweep_;
  // By module.
  std::map<std::string, std::vector<Form>> measured_;
};

}  // namespace tandem
