// Finds a download in the cache that huggingface_hub and its command line keep.
#include "base/hub_cache.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"

namespace tandem {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// A part of a name on the hub: letters, digits, "-", "_" and ".", neither first nor last.
bool is_name(std::string_view part) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
  return !part.empty() && part.find_first_not_of(kAllowed) == std::string_view::npos &&
         part.front() != '.' && part.front() != '-' && part.back() != '.' && part.back() != '-';
}

bool is_hub_name(const std::string& name) {
  const std::size_t slash = name.find('/');
  if (slash == std::string::npos || !is_name(name.substr(0, slash)) ||
      !is_name(name.substr(slash + 1)))
    return false;
  // The file of a model that is elsewhere.
  constexpr std::array kFiles = {".gguf", ".safetensors", ".bin", ".pth",  ".pt",
                                 ".mllm", ".json",        ".txt", ".onnx", ".jinja"};
  return std::ranges::none_of(kFiles, [&](const char* suffix) { return name.ends_with(suffix); });
}

// A name as it is copied from a browser or typed with a slash at its end; anything else as it is.
std::string hub_name(const std::string& text) {
  std::string_view name = text;
  for (const char* scheme : {"https://", "http://"})
    if (name.starts_with(scheme)) name.remove_prefix(std::strlen(scheme));
  for (const char* host : {"huggingface.co/", "www.huggingface.co/", "hf.co/"})
    if (name.starts_with(host)) name.remove_prefix(std::strlen(host));
  while (name.ends_with('/')) name.remove_suffix(1);
  return is_hub_name(std::string(name)) ? std::string(name) : text;
}

// The snapshot that refs/main names; without that file, the only one.
fs::path snapshot(const fs::path& model) {
  std::error_code ignored;
  const fs::path snapshots = model / "snapshots";
  if (fs::is_regular_file(model / "refs/main", ignored)) {
    constexpr std::size_t kMaxRef = 4096;
    std::string commit = read_text_file(model / "refs/main", kMaxRef);
    commit.erase(std::ranges::find_if(commit, [](char c) { return c == '\n' || c == '\r'; }),
                 commit.end());
    if (is_name(commit) && fs::is_directory(snapshots / commit, ignored)) return snapshots / commit;
  }
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(snapshots, ignored))
    if (entry.is_directory(ignored)) found.push_back(entry.path());
  return found.size() == 1 ? found[0] : fs::path();
}

}  // namespace

fs::path hub_cache_folder() {
  if (const std::string folder = variable("HF_HUB_CACHE"); !folder.empty()) return folder;
  if (const std::string home = variable("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty())
    return fs::path(cache) / "huggingface/hub";
  if (const std::string home = variable("HOME"); !home.empty())
    return fs::path(home) / ".cache/huggingface/hub";
  return {};
}

fs::path find_model(const fs::path& path) {
  std::error_code ignored;
  const std::string name = hub_name(path.string());
  if (!is_hub_name(name) || fs::exists(path, ignored)) return path;
  const fs::path cache = hub_cache_folder();
  const std::size_t slash = name.find('/');
  if (!cache.empty()) {
    const fs::path found = snapshot(
        cache / fmt::format("models--{}--{}", name.substr(0, slash), name.substr(slash + 1)));
    if (!found.empty()) return found;
  }
  fail(ErrorCode::kNotFound,
       "[model] {}: no such file or folder, and no model of that name in the Hugging Face cache "
       "({}): fetch one with hf download {}",
       name, cache.empty() ? "of which no folder is known" : cache.string(), name);
}

}  // namespace tandem
