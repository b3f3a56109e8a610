// Arithmetic of the GNU multiple precision library, within bounds.
#include "text/jinja/big_integer.h"

#include <gmp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace tandem::jinja {

// Owns a number of the library.
class BigInteger {
 public:
  BigInteger() { mpz_init(number_); }
  BigInteger(const BigInteger& other) { mpz_init_set(number_, other.number_); }
  BigInteger(BigInteger&& other) noexcept {
    mpz_init(number_);
    mpz_swap(number_, other.number_);
  }
  BigInteger& operator=(BigInteger other) noexcept {
    mpz_swap(number_, other.number_);
    return *this;
  }
  ~BigInteger() { mpz_clear(number_); }

  mpz_ptr get() noexcept { return number_; }
  mpz_srcptr get() const noexcept { return number_; }
  int sign() const noexcept { return mpz_sgn(number_); }
  // Of the magnitude; 1 for 0.
  std::size_t bits() const noexcept { return mpz_sizeinbase(number_, 2); }

 private:
  mpz_t number_;
};

namespace {

static_assert(sizeof(long) == sizeof(std::int64_t), "the library's functions take a long");

BigInteger big(const Value& integer) {
  if (integer.is_big()) return integer.big();
  BigInteger result;
  mpz_set_si(result.get(), integer.integer());
  return result;
}

Value to_value(BigInteger number) {
  if (mpz_fits_slong_p(number.get()) != 0) return Value(std::int64_t{mpz_get_si(number.get())});
  if (number.bits() > kMaxIntegerBits)
    fail_here("an integer of more than {} bits", kMaxIntegerBits);
  return Value(std::make_shared<const BigInteger>(std::move(number)));
}

BigInteger power_of_ten(std::int64_t digits) {
  BigInteger result;
  mpz_ui_pow_ui(result.get(), 10, static_cast<unsigned long>(digits));
  return result;
}

// The nearest float, half to even, of number * 2^exponent.
double nearest(const BigInteger& number, std::int64_t exponent) {
  constexpr std::size_t kKept = 64;  // more than a float's 53 bits and one to round by
  BigInteger head = number;
  const std::size_t bits = number.bits();
  if (bits > kKept) {
    const std::size_t cut = bits - kKept;
    mpz_abs(head.get(), head.get());
    // What is cut off matters only by not being 0.
    const bool exact = mpz_divisible_2exp_p(head.get(), cut) != 0;
    mpz_tdiv_q_2exp(head.get(), head.get(), cut);
    if (!exact) mpz_setbit(head.get(), 0);
    exponent += static_cast<std::int64_t>(cut);
  }
  mpz_abs(head.get(), head.get());
  const double magnitude = static_cast<double>(mpz_get_ui(head.get()));
  const double result = std::ldexp(magnitude, static_cast<int>(exponent));
  if (!std::isfinite(result)) fail_here("an integer is too large for a float");
  return number.sign() < 0 ? -result : result;
}

Value raise(const BigInteger& base, const Value& exponent, Budget& budget) {
  if (base.bits() == 1) {  // 0, 1 or -1
    const BigInteger times = big(exponent);
    if (times.sign() == 0) return Value(std::int64_t{1});
    const int magnitude = base.sign() == 0 ? 0 : 1;
    return Value(std::int64_t{mpz_odd_p(times.get()) != 0 ? base.sign() : magnitude});
  }
  const std::int64_t times = exponent.integer();
  if (times > static_cast<std::int64_t>(kMaxIntegerBits / (base.bits() - 1)))
    fail_here("an integer of more than {} bits", kMaxIntegerBits);
  budget.spend(1 + base.bits() * static_cast<std::size_t>(times) / 64);
  BigInteger result;
  mpz_pow_ui(result.get(), base.get(), static_cast<unsigned long>(times));
  return to_value(std::move(result));
}

}  // namespace

std::optional<Value> parse_integer(std::string_view digits, int base) {
  std::string text(digits);
  if (text.starts_with('+')) text.erase(0, 1);
  const std::string_view magnitude = std::string_view(text).substr(text.starts_with('-') ? 1 : 0);
  if (magnitude.empty()) return std::nullopt;
  for (const char c : magnitude) {
    const int value = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 10
                      : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                             : 99;
    if (value >= base) return std::nullopt;
  }
  if (magnitude.size() > kMaxDecimalDigits)
    fail_here("an integer of more than {} digits", kMaxDecimalDigits);
  BigInteger number;
  mpz_set_str(number.get(), text.c_str(), base);
  return to_value(std::move(number));
}

std::string print_magnitude(const Value& integer, int base) {
  BigInteger number = big(integer);
  mpz_abs(number.get(), number.get());
  // The size may be one too large.
  if (base == 10 && mpz_sizeinbase(number.get(), 10) > kMaxDecimalDigits + 1)
    fail_here("an integer of more than {} digits", kMaxDecimalDigits);
  std::string text(mpz_sizeinbase(number.get(), base) + 2, '\0');
  mpz_get_str(text.data(), base, number.get());
  text.resize(text.find('\0'));
  return text;
}

std::string print_integer(const Value& integer) {
  if (!integer.is_big()) return std::to_string(integer.integer());
  return (integer.integer() < 0 ? "-" : "") + print_magnitude(integer, 10);
}

Value truncate_to_integer(double number) {
  BigInteger result;
  mpz_set_d(result.get(), number);
  return to_value(std::move(result));
}

Value round_integer(const Value& integer, std::int64_t digits) {
  const BigInteger unit = power_of_ten(digits);
  BigInteger quotient;
  BigInteger rest;
  mpz_fdiv_qr(quotient.get(), rest.get(), big(integer).get(), unit.get());
  mpz_mul_2exp(rest.get(), rest.get(), 1);
  const int side = mpz_cmp(rest.get(), unit.get());
  if (side > 0 || (side == 0 && mpz_odd_p(quotient.get()) != 0))
    mpz_add_ui(quotient.get(), quotient.get(), 1);
  mpz_mul(quotient.get(), quotient.get(), unit.get());
  return to_value(std::move(quotient));
}

double divide_integers(const Value& a, const Value& b) {
  BigInteger numerator = big(a);
  BigInteger denominator = big(b);
  // At least 66 bits of quotient; the last of them also stands for what is not divided.
  const auto wanted = static_cast<std::int64_t>(denominator.bits()) + 66 -
                      static_cast<std::int64_t>(numerator.bits());
  const std::int64_t shift = std::max<std::int64_t>(wanted, 0);
  mpz_mul_2exp(numerator.get(), numerator.get(), static_cast<mp_bitcnt_t>(shift));
  const int sign = numerator.sign() * denominator.sign();
  mpz_abs(numerator.get(), numerator.get());
  mpz_abs(denominator.get(), denominator.get());
  BigInteger quotient;
  BigInteger rest;
  mpz_tdiv_qr(quotient.get(), rest.get(), numerator.get(), denominator.get());
  if (rest.sign() != 0) mpz_setbit(quotient.get(), 0);
  if (sign < 0) mpz_neg(quotient.get(), quotient.get());
  return nearest(quotient, -shift);
}

Value big_binary(BinaryOp op, const Value& a, const Value& b, Budget& budget) {
  const BigInteger left = big(a);
  const BigInteger right = big(b);
  const std::size_t size = (left.bits() + right.bits()) / 64;
  budget.spend(1 + size * size / 256);
  BigInteger result;
  switch (op) {
    case BinaryOp::kAdd:
      mpz_add(result.get(), left.get(), right.get());
      break;
    case BinaryOp::kSubtract:
      mpz_sub(result.get(), left.get(), right.get());
      break;
    case BinaryOp::kMultiply:
      mpz_mul(result.get(), left.get(), right.get());
      break;
    case BinaryOp::kDivide:
      return Value(divide_integers(a, b));
    case BinaryOp::kFloorDivide:
      mpz_fdiv_q(result.get(), left.get(), right.get());
      break;
    case BinaryOp::kModulo:
      mpz_fdiv_r(result.get(), left.get(), right.get());
      break;
    case BinaryOp::kPower:
      if (right.sign() < 0) return Value(std::pow(a.number(), b.number()));
      return raise(left, b, budget);
  }
  return to_value(std::move(result));
}

int compare_integers(const Value& a, const Value& b) {
  if (a.is_big() || b.is_big()) {
    const int order = mpz_cmp(big(a).get(), big(b).get());
    return (order > 0) - (order < 0);
  }
  return (a.integer() > b.integer()) - (a.integer() < b.integer());
}

int compare_integer(const Value& a, double b) {
  const int order = mpz_cmp_d(big(a).get(), b);
  return (order > 0) - (order < 0);
}

double Value::big_number() const { return nearest(big(), 0); }

std::int64_t Value::big_bound() const {
  return big().sign() < 0 ? std::numeric_limits<std::int64_t>::min()
                          : std::numeric_limits<std::int64_t>::max();
}

}  // namespace tandem::jinja
