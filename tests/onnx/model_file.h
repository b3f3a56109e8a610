// A model.onnx as tests look at it: the messages of ONNX's schema, and the bytes of initializers.
#pragma once

#include <onnx_schema.pb.h>

#include <map>
#include <string>
#include <vector>

#include "base/files.h"

namespace tandem::testing {

class ModelFile {
 public:
  // Fails the test for a file that is no model.
  explicit ModelFile(const fs::path& path);

  const onnx_schema::ModelProto& model() const { return model_; }
  const onnx_schema::GraphProto& graph() const { return model_.graph(); }
  // Fails the test, and returns an empty one, if there is none.
  const onnx_schema::NodeProto& node(const std::string& name) const;
  // "NAME OP(input, ...) -> output, ..." for nodes other than constants whose name begins so.
  std::vector<std::string> lines(const std::string& prefix = "") const;
  const onnx_schema::TensorProto& initializer(const std::string& name) const;
  std::string bytes(const std::string& initializer) const;
  std::vector<std::int64_t> shape(const std::string& initializer) const;

  // What ONNX's checker would say: values are written once and before they are read, names of nodes
  // are unique, all outputs exist, external data lies inside its file and nowhere twice. Empty if all
  // is well.
  std::string flaw() const;

 private:
  fs::path folder_;
  onnx_schema::ModelProto model_;
  std::map<std::string, const onnx_schema::NodeProto*> nodes_;
  std::map<std::string, const onnx_schema::TensorProto*> initializers_;
};

// An attribute of a node; fails the test if there is none.
std::int64_t int_attribute(const onnx_schema::NodeProto& node, const std::string& name);
float float_attribute(const onnx_schema::NodeProto& node, const std::string& name);

}  // namespace tandem::testing
