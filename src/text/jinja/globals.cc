// Functions that are available in every template.
#include <array>
#include <ctime>

#include "text/jinja/format.h"
#include "text/jinja/operators.h"
#include "text/jinja/runtime.h"
#include "text/jinja/time.h"

namespace tandem::jinja {
namespace {

// Attributes of a namespace are searched linearly.
constexpr std::size_t kMaxNamespaceSize = 256;

// dict(mapping or pairs, name=value, …), also used for namespace().
Dict dict_of(const Call& call) {
  Dict result;
  if (call.more().size() > 1)
    fail_here("{}() takes at most one positional argument", call.function());
  if (call.more().size() == 1) {
    const Value& source = call.more()[0];
    if (source.is_dict()) {
      for (const auto& [key, value] : source.dict().entries())
        result.set(call.budget(), key, value);
    } else {
      for (const Value& pair : iterate(call.runtime(), source)) {
        const auto items = iterate(call.runtime(), pair);
        if (items.size() != 2)
          fail_here("{}() needs pairs, got {} items", call.function(), items.size());
        result.set(call.budget(), items[0], items[1]);
      }
    }
  }
  for (const auto& [name, value] : call.more_named())
    result.set(call.budget(), Value(std::string_view(name)), value);
  return result;
}

Value global_dict(const Call& call) { return make_dict(dict_of(call)); }

Value global_namespace(const Call& call) {
  const Dict values = dict_of(call);
  if (values.entries().size() > kMaxNamespaceSize)
    fail_here("a namespace of {} attributes, limit {}", values.entries().size(), kMaxNamespaceSize);
  call.budget().spend(32);  // it lives until the end of the rendering
  auto created = std::make_shared<Namespace>();
  for (const auto& [key, value] : values.entries()) {
    if (!key.is_text()) fail_here("attributes of a namespace must be strings");
    created->set(key.text().bytes(), value);
  }
  return call.runtime().new_namespace(std::move(created));
}

Value global_range(const Call& call) {
  const bool one = !call.has(1);
  const std::int64_t start = one ? 0 : call.integer(0, 0);
  const std::int64_t stop = call.integer(one ? 0 : 1, 0);
  const std::int64_t step = call.integer(2, 1);
  if (call[0].is_none() || (!one && call[1].is_none())) fail_here("range() needs integers");
  if (step == 0) fail_here("range() step must not be zero");
  std::vector<Value> items;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<std::int64_t>(items.size()) == kMaxRange)
      fail_here("range() of more than {} items", kMaxRange);
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return call.runtime().list(std::move(items));
}

Value global_raise_exception(const Call& call) {
  throw Failure{call.text(0).bytes(), ErrorCode::kInvalidArgument};
}

Value global_strftime_now(const Call& call) {
  const std::string& format = call.string(0).bytes();
  return call.runtime().text(Text(format_time(call.runtime().now(), format, call.budget())));
}

// cycler(a, b, …): next() returns them in turn.
class Cycler : public Object, public std::enable_shared_from_this<Cycler> {
 public:
  explicit Cycler(Value items) : items_(std::move(items)) {}
  std::string type_name() const override { return "Cycler"; }
  int depth() const noexcept override { return items_.depth() + 1; }
  std::optional<Value> attribute(std::string_view name) override;
  Value step(bool forward) {
    const auto& items = items_.list().items;
    if (!forward) {
      index_ = 0;
      return {};
    }
    const Value& result = items[index_];
    index_ = (index_ + 1) % items.size();
    return result;
  }

 private:
  Value items_;
  std::size_t index_ = 0;
};

class CyclerMethod : public Object {
 public:
  CyclerMethod(std::shared_ptr<Cycler> cycler, bool forward)
      : cycler_(std::move(cycler)), forward_(forward) {}
  std::string type_name() const override { return "method"; }
  bool callable() const override { return true; }
  int depth() const noexcept override { return cycler_->depth() + 1; }
  Value call(Runtime&, Arguments) override { return cycler_->step(forward_); }

 private:
  std::shared_ptr<Cycler> cycler_;
  bool forward_;
};

std::optional<Value> Cycler::attribute(std::string_view name) {
  if (name == "current") return items_.list().items[index_];
  if (name == "next" || name == "reset")
    return Value(std::shared_ptr<Object>(
        std::make_shared<CyclerMethod>(shared_from_this(), name == "next")));
  return std::nullopt;
}

Value global_cycler(const Call& call) {
  if (call.more().empty()) fail_here("cycler() needs items");
  return Value(std::shared_ptr<Object>(std::make_shared<Cycler>(call.runtime().list(call.more()))));
}

// joiner(separator): "" on the first call, then the separator.
class Joiner : public Object {
 public:
  explicit Joiner(Text separator) : separator_(std::move(separator)) {}
  std::string type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  Value call(Runtime& runtime, Arguments) override {
    if (used_) return runtime.text(separator_);
    used_ = true;
    return Value(Text());
  }

 private:
  Text separator_;
  bool used_ = false;
};

Value global_joiner(const Call& call) {
  return Value(
      std::shared_ptr<Object>(std::make_shared<Joiner>(call.has(0) ? call.text(0) : Text(", "))));
}

constexpr auto kGlobals = std::to_array<Builtin>({
    {"raise_exception", "message", global_raise_exception},
    {"strftime_now", "format", global_strftime_now},
    {"namespace", "*", global_namespace},
    {"dict", "*", global_dict},
    {"range", "start stop? step?", global_range},
    {"cycler", "*", global_cycler},
    {"joiner", "sep?", global_joiner},
});

}  // namespace

std::span<const Builtin> globals() { return kGlobals; }

}  // namespace tandem::jinja
