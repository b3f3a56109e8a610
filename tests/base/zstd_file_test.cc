// Files that the zstd program wrote, whole, damaged and hostile.
//   head -c 4194304 /dev/zero | zstd -19 -o fixtures/zeros_4_mib.zst
#include "base/zstd_file.h"

#include <gtest/gtest.h>

#include "support.h"

namespace tandem::testing {
namespace {

class ZstdFiles : public ::testing::Test {
 protected:
  std::string read(const std::string& packed, std::size_t most = std::size_t{1} << 30) {
    write_text_file(folder_ / "a.zst", packed);
    return read_zstd_file(folder_ / "a.zst", most);
  }
  std::string error(const std::string& packed, std::size_t most = std::size_t{1} << 30) {
    return error_of([&] { read(packed, most); });
  }

  const ScratchFolder folder_;
  const std::string zeros_ = read_text_file(fixture("base/fixtures/zeros_4_mib.zst"));
  const std::size_t size_ = std::size_t{4} << 20;
};

TEST_F(ZstdFiles, AreReadWhole) {
  EXPECT_EQ(read(zeros_), std::string(size_, '\0'));
  // Several frames, and one that is to be skipped.
  const std::string skipped("\x50\x2A\x4D\x18\x03\0\0\0abc", 11);
  EXPECT_EQ(read(zeros_ + skipped + zeros_).size(), 2 * size_);
  EXPECT_EQ(read(zeros_, size_).size(), size_);
}

TEST_F(ZstdFiles, AreRefusedCutOffDamagedOrTooLarge) {
  for (std::size_t size = 1; size < zeros_.size(); ++size)
    EXPECT_NE(error(zeros_.substr(0, size)).find("a.zst: ends in the middle of a frame"),
              std::string::npos)
        << size;
  EXPECT_NE(error("").find("a.zst: "), std::string::npos);
  EXPECT_NE(error("{\"text\": 1}").find("a.zst: expected a zstd file: "), std::string::npos);
  EXPECT_NE(error(zeros_ + "more").find("a.zst: "), std::string::npos);
  std::string damaged = zeros_;
  damaged.back() ^= 1;
  EXPECT_NE(error(damaged).find("a.zst: expected a zstd file: "), std::string::npos);
  EXPECT_NE(error(zeros_, 4096).find("larger than the 4096 bytes expected at most"),
            std::string::npos);
  EXPECT_NE(error(zeros_, size_ - 1).find("larger than the 4194303 bytes"), std::string::npos);
  EXPECT_NE(error_of([&] { read_zstd_file(folder_ / "none.zst"); }).find("none.zst"),
            std::string::npos);
}

}  // namespace
}  // namespace tandem::testing
