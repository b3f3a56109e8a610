// Sizes and names of element types.
#include "tensor/dtype.h"

#include <array>
#include <string>

#include "base/error.h"

namespace tandem {
namespace {

struct Row {
  std::string_view name;
  std::size_t bytes;
};

// In the order of DType.
constexpr std::array<Row, 15> kTable = {{{"F32", 4},
                                         {"F16", 2},
                                         {"BF16", 2},
                                         {"F64", 8},
                                         {"I8", 1},
                                         {"U8", 1},
                                         {"I16", 2},
                                         {"U16", 2},
                                         {"I32", 4},
                                         {"U32", 4},
                                         {"I64", 8},
                                         {"U64", 8},
                                         {"BOOL", 1},
                                         {"F8_E4M3", 1},
                                         {"F8_E5M2", 1}}};

}  // namespace

std::size_t size_of(DType dtype) noexcept { return kTable[static_cast<std::size_t>(dtype)].bytes; }

std::string_view to_string(DType dtype) noexcept {
  return kTable[static_cast<std::size_t>(dtype)].name;
}

bool is_float(DType dtype) noexcept {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 ||
         dtype == DType::kF64 || is_f8(dtype);
}

bool is_f8(DType dtype) noexcept { return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2; }

DType dtype_from_string(std::string_view name) {
  for (std::size_t i = 0; i < kTable.size(); ++i)
    if (kTable[i].name == name) return static_cast<DType>(i);
  fail(ErrorCode::kUnsupported, "[tensor] dtype \"{}\" is not supported", name.substr(0, 40));
}

}  // namespace tandem
