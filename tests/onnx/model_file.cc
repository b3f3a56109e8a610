#include "onnx/model_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace tandem::testing {
namespace {

std::string read(const fs::path& path) {
  const auto file = MappedFile::open(path);
  return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
}

std::string entry(const onnx_schema::TensorProto& tensor, const std::string& key) {
  for (const auto& pair : tensor.external_data())
    if (pair.key() == key) return pair.value();
  return {};
}

const onnx_schema::AttributeProto* attribute(const onnx_schema::NodeProto& node,
                                             const std::string& name) {
  for (const auto& found : node.attribute())
    if (found.name() == name) return &found;
  ADD_FAILURE() << node.name() << " has no attribute " << name;
  return nullptr;
}

}  // namespace

ModelFile::ModelFile(const fs::path& path) : folder_(path.parent_path()) {
  if (!model_.ParseFromString(read(path))) ADD_FAILURE() << path << " is no model";
  for (const auto& node : graph().node()) nodes_[node.name()] = &node;
  for (const auto& tensor : graph().initializer()) initializers_[tensor.name()] = &tensor;
}

const onnx_schema::NodeProto& ModelFile::node(const std::string& name) const {
  const auto found = nodes_.find(name);
  if (found != nodes_.end()) return *found->second;
  ADD_FAILURE() << "no node " << name;
  return onnx_schema::NodeProto::default_instance();
}

std::vector<std::string> ModelFile::lines(const std::string& prefix) const {
  std::vector<std::string> lines;
  for (const auto& node : graph().node())
    if (node.op_type() != "Constant" && node.name().starts_with(prefix))
      lines.push_back(fmt::format("{} {}({}) -> {}", node.name(), node.op_type(),
                                  fmt::join(node.input(), ", "), fmt::join(node.output(), ", ")));
  return lines;
}

const onnx_schema::TensorProto& ModelFile::initializer(const std::string& name) const {
  const auto found = initializers_.find(name);
  if (found != initializers_.end()) return *found->second;
  ADD_FAILURE() << "no initializer " << name;
  return onnx_schema::TensorProto::default_instance();
}

std::string ModelFile::bytes(const std::string& name) const {
  const auto& tensor = initializer(name);
  if (tensor.external_data().empty()) return {};
  return read(folder_ / entry(tensor, "location"))
      .substr(std::stoul(entry(tensor, "offset")), std::stoul(entry(tensor, "length")));
}

std::vector<std::int64_t> ModelFile::shape(const std::string& name) const {
  const auto& dims = initializer(name).dims();
  return {dims.begin(), dims.end()};
}

std::string ModelFile::flaw() const {
  std::set<std::string> values = {""};
  for (const auto& input : graph().input()) values.insert(input.name());
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places;
  for (const auto& tensor : graph().initializer()) {
    if (!values.insert(tensor.name()).second) return tensor.name() + " twice";
    const fs::path file = folder_ / entry(tensor, "location");
    const std::uint64_t offset = std::stoul(entry(tensor, "offset"));
    const std::uint64_t length = std::stoul(entry(tensor, "length"));
    if (offset + length > fs::file_size(file)) return tensor.name() + " beyond the file";
    places.emplace_back(offset, offset + length);
  }
  std::ranges::sort(places);
  for (std::size_t i = 1; i < places.size(); ++i)
    if (places[i].first < places[i - 1].second) return "initializers overlap";
  if (nodes_.size() != static_cast<std::size_t>(graph().node_size())) return "names of nodes twice";
  for (const auto& node : graph().node()) {
    for (const std::string& input : node.input())
      if (!values.contains(input)) return node.name() + " reads " + input + " before it is written";
    for (const std::string& output : node.output())
      if (!output.empty() && !values.insert(output).second) return output + " twice";
  }
  for (const auto& output : graph().output())
    if (!values.contains(output.name())) return output.name() + " is not written";
  return {};
}

std::int64_t int_attribute(const onnx_schema::NodeProto& node, const std::string& name) {
  const auto* found = attribute(node, name);
  return found == nullptr ? 0 : found->i();
}

float float_attribute(const onnx_schema::NodeProto& node, const std::string& name) {
  const auto* found = attribute(node, name);
  return found == nullptr ? 0 : found->f();
}

}  // namespace tandem::testing
