// Objects of C libraries, freed when they go out of scope.
#pragma once

#include <memory>

namespace tandem {

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};

template <typename T, auto kFree>
using CHandle = std::unique_ptr<T, Freer<kFree>>;

}  // namespace tandem
