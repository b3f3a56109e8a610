// Truth, comparison and arithmetic.
#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/big_integer.h"
#include "text/jinja/format.h"
#include "text/jinja/print.h"
#include "text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

constexpr std::string_view symbol(BinaryOp op) {
  switch (op) {
    case BinaryOp::kAdd:
      return "+";
    case BinaryOp::kSubtract:
      return "-";
    case BinaryOp::kMultiply:
      return "*";
    case BinaryOp::kDivide:
      return "/";
    case BinaryOp::kFloorDivide:
      return "//";
    case BinaryOp::kModulo:
      return "%";
    case BinaryOp::kPower:
      return "**";
  }
  return "?";
}

// Integers up to here are floats too.
constexpr std::int64_t kExactInteger = std::int64_t{1} << 53;

[[noreturn]] void fail_division(BinaryOp op) {
  fail_here("{}",
            op == BinaryOp::kDivide ? "division by zero" : "integer division or modulo by zero");
}

// 64 bits where they suffice.
Value integer_binary(BinaryOp op, const Value& left, const Value& right, Budget& budget) {
  if (left.is_big() || right.is_big() || op == BinaryOp::kPower) {
    const bool divides =
        op == BinaryOp::kDivide || op == BinaryOp::kFloorDivide || op == BinaryOp::kModulo;
    if (divides && !is_true(right)) fail_division(op);
    if (op == BinaryOp::kPower && !is_true(left) && right.integer() < 0)
      fail_here("0 can't be raised to a negative power");
    return big_binary(op, left, right, budget);
  }
  const std::int64_t a = left.integer();
  const std::int64_t b = right.integer();
  std::int64_t result = 0;
  switch (op) {
    case BinaryOp::kAdd:
      if (!__builtin_add_overflow(a, b, &result)) return Value(result);
      break;
    case BinaryOp::kSubtract:
      if (!__builtin_sub_overflow(a, b, &result)) return Value(result);
      break;
    case BinaryOp::kMultiply:
      if (!__builtin_mul_overflow(a, b, &result)) return Value(result);
      break;
    case BinaryOp::kDivide:
      if (b == 0) fail_division(op);
      if (-kExactInteger <= a && a <= kExactInteger && -kExactInteger <= b && b <= kExactInteger)
        return Value(static_cast<double>(a) / static_cast<double>(b));
      return Value(divide_integers(left, right));
    case BinaryOp::kFloorDivide:
    case BinaryOp::kModulo: {
      if (b == 0) fail_division(op);
      if (b == -1) {  // the one quotient that may overflow
        if (op == BinaryOp::kModulo) return Value(std::int64_t{0});
        break;
      }
      // Rounded towards negative infinity; the remainder has the sign of b.
      const bool adjust = a % b != 0 && (a < 0) != (b < 0);
      if (op == BinaryOp::kModulo) return Value(a % b + (adjust ? b : 0));
      return Value(a / b - (adjust ? 1 : 0));
    }
    case BinaryOp::kPower:
      break;
  }
  return big_binary(op, left, right, budget);
}

Value float_binary(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return Value(a + b);
    case BinaryOp::kSubtract:
      return Value(a - b);
    case BinaryOp::kMultiply:
      return Value(a * b);
    case BinaryOp::kDivide:
      if (b == 0) fail_here("float division by zero");
      return Value(a / b);
    case BinaryOp::kFloorDivide:
      if (b == 0) fail_here("float floor division by zero");
      return Value(std::floor(a / b));
    case BinaryOp::kModulo: {
      if (b == 0) fail_here("float modulo by zero");
      const double rest = std::fmod(a, b);
      return Value(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
    }
    case BinaryOp::kPower:
      return Value(std::pow(a, b));
  }
  fail_here("unknown operator");
}

// Repeats a string or list `count` times.
Value repeat(Runtime& runtime, const Value& value, std::int64_t count) {
  const std::size_t times = count > 0 ? static_cast<std::size_t>(count) : 0;
  if (value.is_text()) {
    const std::size_t size = value.text().size();
    if (size != 0 && times > kMaxTextBytes / size)
      fail_here("a text of {} times {} bytes", times, size);
    runtime.budget().spend_text(size * times);
    Text result;
    if (size != 0)
      for (std::size_t i = 0; i < times; ++i) result.append(value.text());
    return Value(std::move(result));
  }
  const auto& items = value.list().items;
  if (!items.empty() && times > static_cast<std::size_t>(kMaxTemplateWork) / items.size())
    fail_here("a list of {} times {} items", times, items.size());
  runtime.budget().spend(items.size() * times);
  std::vector<Value> result;
  if (!items.empty())
    for (std::size_t i = 0; i < times; ++i) result.insert(result.end(), items.begin(), items.end());
  return value.list().is_tuple ? make_tuple(runtime.budget(), std::move(result))
                               : runtime.list(std::move(result));
}

Value join_lists(Runtime& runtime, const List& a, const List& b) {
  runtime.budget().spend(a.items.size() + b.items.size());
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return a.is_tuple ? make_tuple(runtime.budget(), std::move(items))
                    : runtime.list(std::move(items));
}

// -1, 0 or 1; nullopt for values that have no order, such as NaN.
std::optional<int> compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return compare_integers(a, b);
  if ((a.is_float() && std::isnan(a.number())) || (b.is_float() && std::isnan(b.number())))
    return std::nullopt;
  if (a.is_integral()) return compare_integer(a, b.number());
  if (b.is_integral()) return -compare_integer(b, a.number());
  return (a.number() > b.number()) - (a.number() < b.number());
}

}  // namespace

bool is_true(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_integral()) return value.integer() != 0;
  if (value.is_float()) return value.number() != 0;
  if (value.is_text()) return !value.text().empty();
  if (value.is_list()) return !value.list().items.empty();
  if (value.is_dict()) return !value.dict().entries().empty();
  return true;
}

std::size_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) return count_code_points(value.text().bytes());
  if (value.is_list()) return value.list().items.size();
  if (value.is_dict()) return value.dict().entries().size();
  fail_here("object of type '{}' has no len()", value.type_name());
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.spend();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  if (a.is_text()) {
    budget.spend_bytes(std::min(a.text().size(), b.text().size()));
    return a.text().bytes() == b.text().bytes();
  }
  if (a.is_list()) {
    const auto& x = a.list().items;
    const auto& y = b.list().items;
    return a.list().is_tuple == b.list().is_tuple &&
           std::equal(x.begin(), x.end(), y.begin(), y.end(),
                      [&](const Value& i, const Value& j) { return equal(i, j, budget); });
  }
  if (a.is_dict()) {
    if (a.dict().entries().size() != b.dict().entries().size()) return false;
    for (const auto& [key, value] : a.dict().entries()) {
      const Value* other = b.dict().find(key, budget);
      if (other == nullptr || !equal(value, *other, budget)) return false;
    }
    return true;
  }
  return a.address() == b.address();
}

bool less(const Value& a, const Value& b, Budget& budget) {
  budget.spend();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == -1;
  if (a.is_text() && b.is_text()) {
    budget.spend_bytes(std::min(a.text().size(), b.text().size()));
    return a.text().bytes() < b.text().bytes();  // UTF-8 sorts as its code points do
  }
  if (a.is_list() && b.is_list() && a.list().is_tuple == b.list().is_tuple) {
    const auto& x = a.list().items;
    const auto& y = b.list().items;
    for (std::size_t i = 0; i < x.size() && i < y.size(); ++i)
      if (!equal(x[i], y[i], budget)) return less(x[i], y[i], budget);
    return x.size() < y.size();
  }
  for (const Value* value : {&a, &b})
    if (value->is_undefined()) fail_here("{}", value->undefined_message());
  fail_here("'<' not supported between instances of '{}' and '{}'", a.type_name(), b.type_name());
}

bool contains(const Value& container, const Value& value, Budget& budget) {
  if (container.is_undefined()) return false;
  if (container.is_text()) {
    if (value.is_undefined()) fail_here("{}", value.undefined_message());
    if (!value.is_text())
      fail_here("'in <string>' requires a string on its left, not '{}'", value.type_name());
    budget.spend_bytes(container.text().size());
    return container.text().bytes().find(value.text().bytes()) != std::string::npos;
  }
  if (container.is_list()) {
    const auto& items = container.list().items;
    return std::any_of(items.begin(), items.end(),
                       [&](const Value& item) { return equal(item, value, budget); });
  }
  if (container.is_dict()) return container.dict().find(value, budget) != nullptr;
  fail_here("argument of type '{}' is not iterable", container.type_name());
}

bool is_same(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  if (a.is_none()) return true;
  if (a.is_integral()) return compare_integers(a, b) == 0;
  if (a.is_float()) return a.number() == b.number();
  // Python interns some equal short strings; templates mean equality.
  if (a.is_text()) return a.text().bytes() == b.text().bytes();
  return a.address() != nullptr && a.address() == b.address();
}

Value negate(const Value& value, Budget& budget) {
  if (value.is_integral())
    return integer_binary(BinaryOp::kSubtract, Value(std::int64_t{0}), value, budget);
  if (value.is_float()) return Value(-value.number());
  if (value.is_undefined()) fail_here("{}", value.undefined_message());
  fail_here("bad operand type for unary -: '{}'", value.type_name());
}

Value binary(Runtime& runtime, BinaryOp op, const Value& a, const Value& b) {
  if (op == BinaryOp::kModulo && a.is_text()) {
    Arguments arguments;
    if (b.is_list() && b.list().is_tuple)
      arguments.positional = b.list().items;
    else
      arguments.positional.push_back(b);
    return format_percent(runtime, a.text(), arguments);
  }
  for (const Value* value : {&a, &b})
    if (value->is_undefined()) fail_here("{}", value->undefined_message());
  if (a.is_integral() && b.is_integral()) return integer_binary(op, a, b, runtime.budget());
  if (a.is_number() && b.is_number()) return float_binary(op, a.number(), b.number());
  if (op == BinaryOp::kAdd && a.is_text() && b.is_text()) {
    runtime.budget().spend_text(a.text().size() + b.text().size());
    Text result = a.text();
    result.append(b.text());
    return Value(std::move(result));
  }
  if (op == BinaryOp::kAdd && a.is_list() && b.is_list() && a.list().is_tuple == b.list().is_tuple)
    return join_lists(runtime, a.list(), b.list());
  if (op == BinaryOp::kMultiply) {
    if ((a.is_text() || a.is_list()) && b.is_integral()) return repeat(runtime, a, b.integer());
    if ((b.is_text() || b.is_list()) && a.is_integral()) return repeat(runtime, b, a.integer());
  }
  fail_here("unsupported operand types for {}: '{}' and '{}'", symbol(op), a.type_name(),
            b.type_name());
}

}  // namespace tandem::jinja
