// Packs weights into panels, and derives their cache keys.
#include "devices/panel_linear.h"

#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"

namespace tandem {
namespace {

// Everything that determines the bytes of the panels; empty if a part has no identity.
PanelKey panel_key(const Weight& weight, const PanelLayout& layout) {
  std::string text = fmt::format("panels v{} kind {} n {} k {} group {}", kPanelLayoutVersion,
                                 static_cast<int>(layout.kind), layout.n, layout.k, layout.group);
  if (const auto* groups = std::get_if<GroupCodes>(&weight))
    text += fmt::format(" bits {} signed {} zero points {}", groups->bits, groups->is_signed,
                        !groups->zero_points.empty());
  const auto* channels = std::get_if<ChannelCodes>(&weight);
  if (channels != nullptr && channels->block() > 0)
    text += fmt::format(" block {}", channels->block());
  bool persistent = true;
  const std::vector<Tensor> parts = parts_of(weight);
  for (const Tensor& part : parts) {
    const std::string identity = part.identity();
    if (identity.empty()) return {};
    persistent = persistent && part.file() != nullptr;
    text += " " + identity;
  }
  if (parts.empty()) return {};
  return {content_hash(text), persistent};
}

// If the file was modified in the meantime, its panels would be cached under the identity of its
// old content.
void require_unchanged(const Weight& weight, const std::string& name) {
  for (const Tensor& part : parts_of(weight))
    if (part.file() != nullptr && !part.file()->unchanged())
      fail(ErrorCode::kIo, "[linear] {}: {} was changed while it was read: open the model again",
           name, part.file()->path().string());
}

}  // namespace

PanelLayout layout_for(const Weight& weight, DType input) {
  PanelLayout layout = panel_layout(weight);
  if (layout.kind == PanelKind::kInt8 && input == DType::kF32) layout.kind = PanelKind::kF32;
  return layout;
}

PanelLinear pack_linear(const Node& node, DType input, const CompileContext& context) {
  const auto& attributes = node.as<LinearAttributes>();
  const Weight& weight = attributes.weight;
  PanelLinear linear;
  linear.layout = layout_for(weight, input);
  linear.bias = attributes.bias;
  linear.panels = context.panels.get_or_pack(
      panel_key(weight, linear.layout), linear.layout.bytes(), [&](std::byte* out) {
        validate_codes(weight, node.name);
        context.pool.parallel_for(linear.layout.panels(), 1, [&](Range range) {
          pack_panels(weight, linear.layout, range, out);
        });
        require_unchanged(weight, node.name);
      });
  return linear;
}

}  // namespace tandem
