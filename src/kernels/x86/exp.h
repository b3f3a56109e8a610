// e^x and tanh on vectors V.
#pragma once

#include "kernels/x86/unroll.h"

namespace tandem {
namespace {

// Within 2 units in the last place for x in [-87, 88]; clamped to e^-87 (1.6e-38) below and e^88
// above. Cody and Waite's reduction x = n ln 2 + r with ln 2 in two parts, |r| <= ln 2 / 2, then
// the Taylor series to r^7, whose remainder is 4e-9 of the value.
template <typename V>
TANDEM_INLINE inline typename V::Float exp(typename V::Float x) {
  x = V::max(V::set1(-87.0F), V::min(V::set1(88.0F), x));
  const auto n = V::round(V::mul(x, V::set1(1.44269504F)));
  auto r = V::fnma(n, V::set1(0.693359375F), x);
  r = V::fnma(n, V::set1(-2.12194440e-4F), r);
  auto p = V::set1(1.0F / 5040);
  p = V::fma(p, r, V::set1(1.0F / 720));
  p = V::fma(p, r, V::set1(1.0F / 120));
  p = V::fma(p, r, V::set1(1.0F / 24));
  p = V::fma(p, r, V::set1(1.0F / 6));
  p = V::fma(p, r, V::set1(0.5F));
  p = V::fma(p, r, V::set1(1.0F));
  p = V::fma(p, r, V::set1(1.0F));
  return V::scale_by_power(p, n);
}

// 1 - 2 / (e^2x + 1), with an absolute error below 2e-7.
template <typename V>
TANDEM_INLINE inline typename V::Float tanh(typename V::Float x) {
  const auto power = exp<V>(V::add(x, x));
  return V::sub(V::set1(1.0F), V::div(V::set1(2.0F), V::add(power, V::set1(1.0F))));
}

}  // namespace
}  // namespace tandem
