// The weights of a ShadowLinear, taken from those of the Linear that it corrects.
#pragma once

#include <cstdint>
#include <span>

#include "graph/attributes.h"

namespace tandem {

// Of these input channels, which are ascending; the scale is left to whoever adds the node. In F16
// unless a value is beyond its range, then in F32.
ShadowLinearAttributes make_shadow(const Weight& weight, std::span<const std::int32_t> channels);
// Of all channels, with the values behind the codes: for a Linear whose int8 input must never clip.
ShadowLinearAttributes make_whole_shadow(const ChannelCodes& weight);

}  // namespace tandem
