// The tree is built from the parser's events, which include the text of a number.
#include "base/long_integer.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace tandem {
namespace {

// Marks the library's binary values, which are otherwise unused.
constexpr std::uint64_t kSubtype = 0x6C6F6E67;

bool is_integer(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

class OrderedBuilder {
 public:
  OrderedJson take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string& text) {
    if (text.ends_with(kNanSpelling)) return add(std::numeric_limits<double>::quiet_NaN());
    if (text.ends_with(kInfinitySpelling))
      return add(std::copysign(std::numeric_limits<double>::infinity(), value));
    return add(is_integer(text) ? long_integer(text) : OrderedJson(value));
  }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(OrderedJson::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(OrderedJson::object()); }
  bool start_array(std::size_t) { return open(OrderedJson::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) {
    return false;
  }

 private:
  OrderedJson* add_to_parent(OrderedJson value) {
    if (open_.empty()) return &(root_ = std::move(value));
    OrderedJson& parent = *open_.back();
    if (parent.is_array())
      return &parent.get_ref<OrderedJson::array_t&>().emplace_back(std::move(value));
    return &parent.get_ref<OrderedJson::object_t&>().emplace(key_, std::move(value)).first->second;
  }
  bool add(OrderedJson value) {
    add_to_parent(std::move(value));
    return true;
  }
  bool open(OrderedJson value) {
    open_.push_back(add_to_parent(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  OrderedJson root_;
  // The arrays and objects being read; a parent does not grow while its child is open.
  std::vector<OrderedJson*> open_;
  std::string key_;
};

}  // namespace

OrderedJson long_integer(std::string_view digits) {
  return OrderedJson::binary(OrderedJson::binary_t::container_type(digits.begin(), digits.end()),
                             kSubtype);
}

std::optional<std::string> long_integer_digits(const OrderedJson& value) {
  if (!value.is_binary()) return std::nullopt;
  const OrderedJson::binary_t& bytes = value.get_binary();
  if (!bytes.has_subtype() || bytes.subtype() != kSubtype) return std::nullopt;
  return std::string(bytes.begin(), bytes.end());
}

OrderedJson parse_with_long_integers(std::string_view text) {
  OrderedBuilder builder;
  OrderedJson::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace tandem
