// Sums in double: a vocabulary has up to 10^5 terms, and divergences of 10^-4 matter.
#include "base/logits.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tandem {
namespace {

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_error(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double mean = mean_of(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto count = static_cast<double>(values.size());
  return std::sqrt(squares / (count * (count - 1)));
}

}  // namespace

double log_sum_exp(std::span<const float> logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

double negative_log_likelihood(std::span<const float> logits, std::size_t token) {
  return log_sum_exp(logits) - logits[token];
}

Disagreement compare_logits(std::span<const float> reference, std::span<const float> logits) {
  const double reference_sum = log_sum_exp(reference);
  const double sum = log_sum_exp(logits);
  Disagreement result;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - reference_sum;
    result.kl += std::exp(log_p) * (log_p - (logits[i] - sum));
  }
  result.same_top = std::ranges::max_element(reference) - reference.begin() ==
                    std::ranges::max_element(logits) - logits.begin();
  return result;
}

void WindowMean::add(std::span<const double> window) {
  all_.insert(all_.end(), window.begin(), window.end());
  ++windows_;
}

double WindowMean::mean() const { return all_.empty() ? 0 : mean_of(all_); }

double WindowMean::error() const {
  if (windows_ < 2) return standard_error(all_);
  const std::size_t size = all_.size() / windows_;
  std::vector<double> means;
  for (std::size_t w = 0; w < windows_; ++w)
    means.push_back(mean_of(std::span(all_).subspan(w * size, size)));
  return standard_error(means);
}

double WindowMean::quantile(double share) const {
  if (all_.empty()) return 0;
  std::vector<double> values = all_;
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::max(1.0, rank)) - 1;
  std::ranges::nth_element(values, at);
  return *at;
}

}  // namespace tandem
