// strftime limited to a list of allowed conversions: the C library's function has widths and
// extensions that an untrusted template should not be able to reach.
#include "text/jinja/time.h"

namespace tandem::jinja {

std::string format_time(const std::tm& time, std::string_view format, Budget& budget) {
  constexpr std::string_view kConversions = "aAbBcCdDeFgGHIjklmMnpPrRsStTuUVwWxXyYzZ";
  std::string result;
  budget.spend_text(format.size());
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      result += format[i];
      continue;
    }
    char conversion = format[++i];
    // "%-d" is the number without padding.
    const bool bare = conversion == '-' && i + 1 < format.size();
    if (bare) conversion = format[++i];
    if (conversion == '%') {
      result += '%';
    } else if (conversion == 'f') {
      result += "000000";
    } else if (kConversions.find(conversion) == std::string_view::npos) {
      fail_here("strftime_now() knows no '%{}'", conversion);
    } else {
      const char pattern[3] = {'%', conversion, '\0'};
      char buffer[128];
      std::string_view text(buffer, std::strftime(buffer, sizeof buffer, pattern, &time));
      while (bare && text.size() > 1 && (text.front() == '0' || text.front() == ' '))
        text.remove_prefix(1);
      result += text;
    }
    budget.spend();
  }
  return result;
}

}  // namespace tandem::jinja
