// Decompresses piece by piece, so that what a file claims about its size is not believed.
#include "base/zstd_file.h"

#include <zstd.h>

#include "base/c_handle.h"
#include "base/error.h"

namespace tandem {
std::string read_zstd_file(const fs::path& path, std::size_t max_bytes) {
  const std::string packed = read_text_file(path);
  const CHandle<ZSTD_DStream, ZSTD_freeDStream> stream(ZSTD_createDStream());
  std::string content;
  std::size_t used = 0;
  ZSTD_inBuffer in{packed.data(), packed.size(), 0};
  // What is missing of the frame; 0 between frames.
  std::size_t missing = 1;
  for (bool is_done = false; !is_done;) {
    if (used > max_bytes)
      fail(ErrorCode::kFormat, "[zstd] {}: larger than the {} bytes expected at most, decompressed",
           path.string(), max_bytes);
    content.resize(used + ZSTD_DStreamOutSize());
    ZSTD_outBuffer out{content.data(), content.size(), used};
    const std::size_t before = in.pos;
    const std::size_t result = ZSTD_decompressStream(stream.get(), &out, &in);
    if (ZSTD_isError(result) != 0)
      fail(ErrorCode::kFormat, "[zstd] {}: expected a zstd file: {}", path.string(),
           ZSTD_getErrorName(result));
    // A call without input or output behind the last frame expects another one.
    if (in.pos > before || out.pos > used) missing = result;
    is_done = in.pos == in.size && out.pos < out.size;
    used = out.pos;
  }
  if (missing != 0)
    fail(ErrorCode::kFormat, "[zstd] {}: ends in the middle of a frame", path.string());
  content.resize(used);
  return content;
}

}  // namespace tandem
