// Tests: the names after "is".
#include <array>

#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/runtime.h"
#include "text/jinja/unicode.h"
#include "text/jinja/unicode_case.h"

namespace tandem::jinja {
namespace {

Value test_defined(const Call& call) { return Value(!call[0].is_undefined()); }
Value test_undefined(const Call& call) { return Value(call[0].is_undefined()); }
Value test_none(const Call& call) { return Value(call[0].is_none()); }
Value test_boolean(const Call& call) { return Value(call[0].is_bool()); }
Value test_true(const Call& call) { return Value(call[0].is_bool() && call[0].boolean()); }
Value test_false(const Call& call) { return Value(call[0].is_bool() && !call[0].boolean()); }
Value test_string(const Call& call) { return Value(call[0].is_text()); }
Value test_integer(const Call& call) { return Value(call[0].is_int()); }
Value test_float(const Call& call) { return Value(call[0].is_float()); }
Value test_number(const Call& call) { return Value(call[0].is_number()); }
Value test_mapping(const Call& call) { return Value(call[0].is_dict()); }
Value test_callable(const Call& call) {
  return Value(call[0].is_object() && call[0].object().callable());
}

// Undefined can be iterated over and has a length, so it counts as both.
Value test_iterable(const Call& call) {
  const Value& value = call[0];
  return Value(value.is_text() || value.is_list() || value.is_dict() || value.is_undefined());
}

Value test_sameas(const Call& call) { return Value(is_same(call[0], call[1])); }
Value test_eq(const Call& call) { return Value(equal(call[0], call[1], call.budget())); }
Value test_ne(const Call& call) { return Value(!equal(call[0], call[1], call.budget())); }
Value test_lt(const Call& call) { return Value(less(call[0], call[1], call.budget())); }
Value test_gt(const Call& call) { return Value(less(call[1], call[0], call.budget())); }
Value test_le(const Call& call) {
  return Value(less(call[0], call[1], call.budget()) || equal(call[0], call[1], call.budget()));
}
Value test_ge(const Call& call) {
  return Value(less(call[1], call[0], call.budget()) || equal(call[0], call[1], call.budget()));
}
Value test_in(const Call& call) { return Value(contains(call[1], call[0], call.budget())); }

bool divides(const Call& call, const Value& divisor) {
  const Value rest = binary(call.runtime(), BinaryOp::kModulo, call[0], divisor);
  return rest.is_number() && rest.number() == 0;
}

Value test_divisibleby(const Call& call) { return Value(divides(call, call[1])); }
Value test_even(const Call& call) { return Value(divides(call, Value(std::int64_t{2}))); }
Value test_odd(const Call& call) { return Value(!divides(call, Value(std::int64_t{2}))); }

// True if all letters with case have this case, and there is at least one. Titlecase is neither.
bool has_case(const Call& call, bool upper) {
  const Text text = call.text(0);
  call.budget().spend_bytes(text.size());
  bool any = false;
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint c = decode_at(text.bytes(), i);
    if (is_title(c.code) || (upper ? is_lower(c.code) : is_upper(c.code))) return false;
    any |= upper ? is_upper(c.code) : is_lower(c.code);
    i += c.size;
  }
  return any;
}

Value test_lower(const Call& call) { return Value(has_case(call, false)); }
Value test_upper(const Call& call) { return Value(has_case(call, true)); }
Value test_filter(const Call& call) {
  return Value(find_filter(call.string(0).bytes()) != nullptr);
}
Value test_test(const Call& call) {
  return Value(find_builtin(tests(), call.string(0).bytes()) != nullptr);
}

constexpr auto kTests = std::to_array<Builtin>({
    {"defined", "value", test_defined},
    {"undefined", "value", test_undefined},
    {"none", "value", test_none},
    {"boolean", "value", test_boolean},
    {"true", "value", test_true},
    {"false", "value", test_false},
    {"string", "value", test_string},
    {"integer", "value", test_integer},
    {"float", "value", test_float},
    {"number", "value", test_number},
    {"mapping", "value", test_mapping},
    {"iterable", "value", test_iterable},
    {"sequence", "value", test_iterable},
    {"callable", "value", test_callable},
    {"sameas", "value other", test_sameas},
    {"eq", "value other", test_eq},
    {"equalto", "value other", test_eq},
    {"==", "value other", test_eq},
    {"ne", "value other", test_ne},
    {"!=", "value other", test_ne},
    {"lt", "value other", test_lt},
    {"lessthan", "value other", test_lt},
    {"<", "value other", test_lt},
    {"gt", "value other", test_gt},
    {"greaterthan", "value other", test_gt},
    {">", "value other", test_gt},
    {"le", "value other", test_le},
    {"<=", "value other", test_le},
    {"ge", "value other", test_ge},
    {">=", "value other", test_ge},
    {"in", "value seq", test_in},
    {"divisibleby", "value num", test_divisibleby},
    {"even", "value", test_even},
    {"odd", "value", test_odd},
    {"lower", "value", test_lower},
    {"upper", "value", test_upper},
    {"filter", "value", test_filter},
    {"test", "value", test_test},
});

}  // namespace

std::span<const Builtin> tests() { return kTests; }

}  // namespace tandem::jinja
