// Hostile or broken templates: each ends in one error that names its location, quickly and in
// bounded memory.
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "base/files.h"
#include "support.h"
#include "text/chat_template.h"

namespace tandem {
namespace {

using testing::error_of;
using testing::fixture;

std::string repeat(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

std::string error_of_template(const std::string& source) {
  return error_of([&] { ChatTemplate::compile(source, "t").render({{"x", "abc"}, {"n", 1}}); });
}

TEST(ChatTemplateHostile, NestsTooDeep) {
  for (const std::string& source : std::vector<std::string>{
           "{{ " + repeat("(", 100000) + repeat(")", 100000) + " }}",
           "{{ " + repeat("[", 100000) + repeat("]", 100000) + " }}",
           "{{ " + repeat("{1:", 100000) + repeat("}", 100000) + " }}",
           "{{ " + repeat("x(", 100000) + repeat(")", 100000) + " }}",
           "{{ " + repeat("x[", 100000) + repeat("]", 100000) + " }}",
           "{{ " + repeat("not ", 100000) + "x }}",
           "{{ " + repeat("- ", 100000) + "1 }}",
           "{{ " + repeat("n + ", 100000) + "n }}",
           "{{ " + repeat("n and ", 100000) + "n }}",
           "{{ " + repeat("1 if n else ", 100000) + "1 }}",
           "{{ x" + repeat(".x", 100000) + " }}",
           "{{ x" + repeat("|upper", 100000) + " }}",
           "{{ x" + repeat("()", 100000) + " }}",
           "{{ x" + repeat("[0]", 100000) + " }}",
           "{% set " + repeat("(", 100000) + repeat(")", 100000) + " = 1 %}",
           repeat("{% if n %}", 100000),
           repeat("{% for i in x %}", 100000),
           repeat("{% macro m() %}", 100000),
           repeat("{% filter upper %}", 100000),
           "{% set l = [] %}{% set ns = namespace(l=l) %}{% for i in range(1000) %}"
           "{% set ns.l = [ns.l] %}{% endfor %}",
           "{% set ns = namespace(l={}) %}{% for i in range(1000) %}{% set ns.l = {'a': ns.l} %}{% "
           "endfor %}",
           "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = [ns.l.index] "
           "%}{% endfor %}",
       }) {
    SCOPED_TRACE(source.substr(0, 40));
    const std::string message = error_of_template(source);
    EXPECT_NE(message.find("deep"), std::string::npos) << message;
    EXPECT_EQ(message.find("[chat template] t:1:"), 0U) << message;
  }
}

TEST(ChatTemplateHostile, CallsItselfForever) {
  for (const std::string& source : std::vector<std::string>{
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{% macro m(a) %}{{ m([a]) }}{% endmacro %}{{ m([]) }}",
           "{% macro m() %}{% if no %}{{ caller() }}{% endif %}{% call m() %}{% endcall %}{% "
           "endmacro %}{{ m() }}",
           "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro "
           "%}{{ a() }}",
           "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
       }) {
    SCOPED_TRACE(source);
    EXPECT_NE(error_of_template(source).find("deep"), std::string::npos);
  }
}

TEST(ChatTemplateHostile, AsksForTooMuch) {
  const std::string doubled =
      "{% set ns = namespace(s='0123456789abcdef', l=[1, 2]) %}{% for i in range(60) %}";
  for (const std::string& source : std::vector<std::string>{
           "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
           "{% for a in range(99999) %}{% for b in range(99999) %}{{ x }}{% endfor %}{% endfor %}",
           "{% for a in range(99999) %}{% for b in range(99999) %}{% macro m() %}{% endmacro %}{% "
           "endfor %}{% endfor %}",
           "{% for a in range(99999) %}{% for b in range(99999) %}{% set ns = namespace(a=1) %}{% "
           "endfor %}{% endfor %}",
           "{{ range(100001) }}",
           "{{ range(0, 9223372036854775807, 1) }}",
           "{{ 'x' * 99999999999 }}",
           "{{ 99999999999 * [1] }}",
           "{{ 'x'|center(99999999999) }}",
           "{{ 'x'.rjust(99999999999) }}",
           "{{ 'x'.zfill(99999999999) }}",
           "{{ '%99999999d' % 1 }}",
           "{{ '%.99999999f' % 1 }}",
           "{{ '{:99999999}'.format(1) }}",
           "{{ '{99999999}'.format(1) }}",
           "{{ 'x'|indent(99999999999, true) }}",
           "{{ [[1]]|tojson(indent=99999999999) }}",
           "{{ [[[1]]]|tojson(indent=60000000) }}",
           "{{ [1]|batch(99999999999, 0) }}",
           "{{ [1]|slice(99999999999, 0) }}",
           "{{ ('x' * 60000000)|replace('', 'yyyy') }}",
           "{{ (range(99999)|list)|join('x' * 60000) }}",
           "{{ ('x' * 6000000)|list }}",
           "{{ 2 ** 9223372036854775807 }}",
           "{{ 9223372036854775807 ** 9223372036854775807 }}",
           "{% for i in range(99999) %}{% set x = 3**40000 // 2**30000 %}{% endfor %}",
           "{% for i in range(99999) %}{% set x = (2**14000)|string %}{% endfor %}",
           "{% for i in range(99999) %}{% set x = [2**64000]|sort %}{% endfor %}",
           "{{ (2**60000)|tojson }}",
           doubled + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
           doubled + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
           doubled + "{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
           doubled + "{% set ns.s = ns.s|replace('0', ns.s) %}{% endfor %}",
           doubled + "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
           doubled + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
           // Small to make, huge to print, compare or hash: each list holds the one before it
           // twice.
           doubled + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
           doubled + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
           "{% set a = namespace(l=[1]) %}{% set b = namespace(l=[1]) %}{% for i in range(60) %}"
           "{% set a.l = [a.l, a.l] %}{% set b.l = [b.l, b.l] %}{% endfor %}{{ a.l == b.l }}",
           "{% set a = namespace(l=(1,)) %}{% for i in range(60) %}{% set a.l = (a.l, a.l) %}{% "
           "endfor %}{{ {a.l: 1} }}",
           "{{ namespace(**dict(range(999)|map('string')|map('list')|map('batch', 1)|list)) }}",
           "{{ strftime_now('%9999999d') }}",
       }) {
    SCOPED_TRACE(source);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(error_of_template(source).find("[chat template] t:1:"), 0U);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
  }
  EXPECT_NE(error_of_template(repeat(" ", 5000000)).find("bytes"), std::string::npos);
}

TEST(ChatTemplateHostile, HoldsWhatHoldsItself) {
  // Nothing to see but that nothing leaks or overflows the stack, which a sanitizer tells.
  for (const std::string& source : std::vector<std::string>{
           "{% set ns = namespace() %}{% set ns.self = ns %}{% set ns.l = [ns, ns.l] %}ok",
           "{% set ns = namespace() %}{% macro m() %}{{ ns }}{% endmacro %}{% set ns.m "
           "= m %}ok",
           "{% set ns = namespace() %}{% for i in range(9) %}{% set ns.l = loop %}{% "
           "set ns.c = loop.changed %}"
           "{% if loop.changed(ns, loop) %}{% endif %}{% endfor %}{% if ns.c(ns.l) "
           "%}{% endif %}ok",
           "{% set ns = namespace(m=none) %}{% for i in range(20000) %}{% set prev = ns.m %}"
           "{% macro m() %}{{ prev }}{% endmacro %}{% set ns.m = m %}{% endfor %}ok",
           "{% set ns = namespace(c=none) %}{% for i in range(20000) %}{% set ns.c = "
           "namespace(c=ns.c) %}"
           "{% endfor %}ok",
       }) {
    SCOPED_TRACE(source);
    EXPECT_EQ(ChatTemplate::compile(source, "t").render(OrderedJson::object()), "ok");
  }
}

TEST(ChatTemplateHostile, ContextsAreBoundedToo) {
  const ChatTemplate compiled = ChatTemplate::compile("{{ x }}", "t");
  OrderedJson deep = 1;
  for (int i = 0; i < 1000; ++i) deep = OrderedJson::array({std::move(deep)});
  EXPECT_NE(error_of([&] { compiled.render({{"x", deep}}); }).find("nested"), std::string::npos);
  EXPECT_NE(error_of([&] { compiled.render(OrderedJson::array()); }).find("expected an object"),
            std::string::npos);
  EXPECT_EQ(compiled.render({{"x", "\xff\xc3(\xe6\x97"}}), "\xff\xc3(\xe6\x97");
  EXPECT_EQ(compiled.render({{"x", 18446744073709551615U}}), "18446744073709551615");
}

// Whatever becomes of a template that is cut short or changed in a few bytes, it is text or an
// Error.
TEST(ChatTemplateHostile, SurvivesDamage) {
  const OrderedJson file =
      OrderedJson::parse(read_text_file(fixture("text/fixtures/chat_template_cases.json")));
  std::mt19937 random(1);
  const std::string alphabet = "{}%#-+|.,:()[]'\"\\ \nabx019_=~*/<>!\xC3\xFF";
  int rendered = 0;
  const auto attempt = [&](const std::string& source) {
    try {
      ChatTemplate::compile(source, "t").render(file.at("context"));
      ++rendered;
    } catch (const Error&) {
    }
  };
  for (const auto& each : file.at("cases")) {
    const std::string source = each.at("template");
    for (int i = 0; i < 20; ++i) {
      std::string damaged = source.substr(0, random() % (source.size() + 1));
      attempt(damaged);
      damaged = source;
      for (unsigned changes = 1 + random() % 3; changes > 0 && !damaged.empty(); --changes) {
        const std::size_t at = random() % damaged.size();
        const char c = alphabet[random() % alphabet.size()];
        switch (random() % 3) {
          case 0:
            damaged[at] = c;
            break;
          case 1:
            damaged.insert(at, 1, c);
            break;
          default:
            damaged.erase(at, 1 + random() % 4);
            break;
        }
      }
      attempt(damaged);
    }
  }
  EXPECT_GT(rendered, 0);
}

}  // namespace
}  // namespace tandem
