# Writes the C++ source of tandem::built_in_text(): the contents of FILES (separated by |), one after the other.
#   cmake -D FILES=a.md|b.md -D OUT=written.cc -P embed_text.cmake
cmake_minimum_required(VERSION 3.25)
string(REPLACE "|" ";" FILES "${FILES}")
set(bytes)
foreach(file IN LISTS FILES)
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," hex "${hex}")
  # A line feed between two files; lines that a compiler likes to read.
  string(REGEX REPLACE "((0x..,){64})" "\\1\n" hex "${hex}")
  string(APPEND bytes "${hex}\n0x0a,\n")
endforeach()
file(WRITE ${OUT} "// Written by cmake/embed_text.cmake.
#include \"quantize/built_in_text.h\"

namespace tandem {
namespace {

constexpr unsigned char kBytes[] = {
${bytes}};

}  // namespace

std::string_view built_in_text() noexcept {
  return {reinterpret_cast<const char*>(kBytes), sizeof kBytes};
}

}  // namespace tandem
")
