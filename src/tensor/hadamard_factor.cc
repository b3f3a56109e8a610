// Paley's constructions need a field whose order q is odd: of residues modulo a prime p, or of pairs
// a + b √r of them, where r is no square modulo p. χ(x) is 0 for 0, 1 for squares and else -1, and
// Q[i][j] = χ(i - j) has QQᵀ = qI - J and QJ = 0, where J is all 1.
#include "tensor/hadamard_factor.h"

#include <bit>
#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

#include "base/error.h"

namespace tandem {
namespace {

// A Hadamard matrix takes four to eight times the multiplications of one of the odd part's order; it
// is not worth any number.
constexpr std::int64_t kMostOrder = 256;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

bool is_prime(std::int64_t n) {
  for (std::int64_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return n > 1;
}

class Field {
 public:
  // None unless the order is an odd prime or the square of one.
  static std::optional<Field> of_order(std::int64_t q) {
    if (q % 2 == 0) return std::nullopt;
    const std::int64_t root = std::lround(std::sqrt(static_cast<double>(q)));
    if (is_prime(q)) return Field(q, false);
    if (root * root == q && is_prime(root)) return Field(root, true);
    return std::nullopt;
  }

  // χ(i - j). With pairs i is a p + b, and a + b √r is a square if and only if its norm a² - r b² is
  // one modulo p.
  int character(std::int64_t i, std::int64_t j) const {
    if (!pairs_) return legendre(i - j);
    const std::int64_t a = i / p_ - j / p_, b = i % p_ - j % p_;
    return legendre(a * a - non_square_ * b * b);
  }

 private:
  Field(std::int64_t p, bool pairs) : p_(p), pairs_(pairs), squares_(index(p)) {
    for (std::int64_t x = 1; x < p; ++x) squares_[index(x * x % p)] = true;
    while (legendre(non_square_) != -1) ++non_square_;
  }
  int legendre(std::int64_t x) const {
    const std::int64_t residue = (x % p_ + p_) % p_;
    return residue == 0 ? 0 : squares_[index(residue)] ? 1 : -1;
  }

  std::int64_t p_;
  bool pairs_;
  std::vector<bool> squares_;
  std::int64_t non_square_ = 2;
};

template <typename Entry>
Tensor square(std::int64_t order, Entry&& entry) {
  std::vector<float> values;
  values.reserve(index(order * order));
  for (std::int64_t i = 0; i < order; ++i)
    for (std::int64_t j = 0; j < order; ++j) values.push_back(static_cast<float>(entry(i, j)));
  return Tensor::from_floats(values, {order, order});
}

// Q with a border of 1, in its first column of `corner`.
int bordered(const Field& field, int corner, std::int64_t i, std::int64_t j) {
  if (i == 0) return j == 0 ? 0 : 1;
  return j == 0 ? corner : field.character(i - 1, j - 1);
}

// None where neither construction gives a Hadamard matrix of this order.
std::optional<Tensor> paley(std::int64_t order) {
  if (order % 4 != 0) return std::nullopt;
  const double scale = 1 / std::sqrt(static_cast<double>(order));
  // I + S, where S = -Sᵀ is bordered.
  if (const auto field = Field::of_order(order - 1))
    return square(order, [&](std::int64_t i, std::int64_t j) {
      return scale * ((i == j ? 1 : 0) + bordered(*field, -1, i, j));
    });
  if (order % 8 != 4) return std::nullopt;
  // C ⊗ [1 1; 1 -1] + I ⊗ [1 -1; -1 -1], where C = Cᵀ is bordered.
  if (const auto field = Field::of_order(order / 2 - 1))
    return square(order, [&](std::int64_t i, std::int64_t j) {
      const int conference = bordered(*field, 1, i / 2, j / 2);
      const int both = i % 2 == 1 && j % 2 == 1 ? -1 : 1;
      const int diagonal = i % 2 == 0 && j % 2 == 0 ? 1 : -1;
      return scale * (conference * both + (i / 2 == j / 2 ? diagonal : 0));
    });
  return std::nullopt;
}

// Of any odd order: (Q + a I + b J) / √(q + a²) of a field, where a is 1 for Q = -Qᵀ and else 0 and
// b solves q b² + 2 a b = 1; or a discrete Hartley transform.
Tensor even_spread(std::int64_t order) {
  const auto q = static_cast<double>(order);
  if (const auto field = Field::of_order(order)) {
    const double a = order % 4 == 3 ? 1 : 0;
    const double b = (std::sqrt(a * a + q) - a) / q;
    return square(order, [&](std::int64_t i, std::int64_t j) {
      return (field->character(i, j) + (i == j ? a : 0) + b) / std::sqrt(q + a * a);
    });
  }
  return square(order, [&](std::int64_t i, std::int64_t j) {
    const double angle = 2 * std::numbers::pi * static_cast<double>(i * j % order) / q;
    return (std::cos(angle) + std::sin(angle)) / std::sqrt(q);
  });
}

}  // namespace

Tensor hadamard_factor(std::int64_t size) {
  if (size < 1)
    fail(ErrorCode::kInvalidArgument, "[rotation] expected a size of at least 1, got {}", size);
  const std::int64_t odd = size >> std::countr_zero(static_cast<std::uint64_t>(size));
  if (odd == 1) return Tensor::from_floats(std::vector<float>{1}, {1, 1});
  for (std::int64_t order = odd; size % order == 0 && order <= kMostOrder; order *= 2)
    if (auto matrix = paley(order)) return *std::move(matrix);
  return even_spread(odd);
}

}  // namespace tandem
