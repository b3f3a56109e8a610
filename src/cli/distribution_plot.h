// What activations look like, as an SVG that stands alone.
#pragma once

#include <string>

#include "quantize/activation_profile.h"

namespace tandem::cli {

// For inputs and for outputs a chart: along x the Linears of all layers, by kind; along y, on a
// logarithmic scale, the largest value, the 99.9th percentile and what the largest code stands for
// with this threshold (see decide_clip()).
std::string draw_distributions(const ActivationProfile& profile, double threshold);

}  // namespace tandem::cli
