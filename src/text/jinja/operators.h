// Python's operators on values. They all throw Failure.
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
// Characters of a string, items of other containers.
std::size_t length(const Value& value);

bool equal(const Value& a, const Value& b, Budget& budget);
bool less(const Value& a, const Value& b, Budget& budget);
bool contains(const Value& container, const Value& value, Budget& budget);
// Python's "is".
bool is_same(const Value& a, const Value& b);

Value negate(const Value& value, Budget& budget);
Value binary(Runtime& runtime, BinaryOp op, const Value& a, const Value& b);

// value.name and value[key], each falling back to the other as in Jinja; undefined if neither
// exists.
Value get_attribute(Runtime& runtime, const Value& value, std::string_view name);
Value get_item(Runtime& runtime, const Value& value, const Value& key);
Value get_slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop,
                const Value& step);

// The items that "for" iterates over: items of lists, characters of strings, keys of dictionaries,
// none for undefined.
std::vector<Value> iterate(Runtime& runtime, const Value& value);

}  // namespace tandem::jinja
