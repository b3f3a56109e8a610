// Rows of logits as distributions of the next token: likelihoods, and how far a model's are from a
// reference's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

// log Σ exp(logit), computed in double.
double log_sum_exp(std::span<const float> logits);

// -log p(token), in nats.
double negative_log_likelihood(std::span<const float> logits, std::size_t token);

// What a model predicts at one token beside what the reference predicts there.
struct Disagreement {
  // Σ p log(p / q) with p from the reference, in nats.
  double kl = 0;
  // Whether both find the same token the likeliest: the first of equals.
  bool same_top = false;
};
Disagreement compare_logits(std::span<const float> reference, std::span<const float> logits);

// The mean of a figure over tokens, and its standard error. Tokens of one window are correlated, so
// that of W windows it is the means m_w that are taken as independent: sqrt(Σ (m_w - m)² / (W (W -
// 1))). A single window has only its n tokens: sqrt(Σ (x - m)² / (n (n - 1))).
class WindowMean {
 public:
  // One window's figures; all windows have as many.
  void add(std::span<const double> window);
  double mean() const;
  // 0 of a single token.
  double error() const;
  // The smallest figure that at least this share of all is not above; 0 if there are none.
  double quantile(double share) const;

 private:
  std::vector<double> all_;
  std::size_t windows_ = 0;
};

}  // namespace tandem
