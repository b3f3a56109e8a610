// Python's operators on values. All of them throw Failure.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"
#include "text/jinja/value.h"

namespace tandem::jinja {

bool is_true(const Value& value);
std::size_t length(const Value& value);  // characters of a string, items of the rest

bool equal(const Value& a, const Value& b, Budget& budget);
bool less(const Value& a, const Value& b, Budget& budget);
bool contains(const Value& container, const Value& value, Budget& budget);
bool is_same(const Value& a, const Value& b);  // Python's "is"

Value negate(const Value& value);
Value binary(Runtime& runtime, BinaryOp op, const Value& a, const Value& b);

// value.name and value[key], each falling back to the other as in Jinja; undefined if there is
// neither.
Value get_attribute(Runtime& runtime, const Value& value, std::string_view name);
Value get_item(Runtime& runtime, const Value& value, const Value& key);
Value get_slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
                const Value& step);

// The items that "for" goes through: of lists, characters of strings, keys of dictionaries, none of
// undefined.
std::vector<Value> iterate(Runtime& runtime, const Value& value);

}  // namespace tandem::jinja
