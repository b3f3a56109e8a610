// Removes and adds padding.
#include "runtime/padded_batch.h"

#include <algorithm>

#include "base/error.h"

namespace tandem {
namespace {

std::size_t count_rows(std::size_t ids, std::int64_t length) {
  if (length < 1 || ids % static_cast<std::size_t>(length) != 0) {
    fail(ErrorCode::kInvalidArgument, "[batch] {} ids cannot be cut in rows of {}", ids, length);
  }
  return ids / static_cast<std::size_t>(length);
}

std::span<const TokenId> not_empty(std::span<const TokenId> row, std::size_t index) {
  if (row.empty()) fail(ErrorCode::kInvalidArgument, "[batch] row {}: nothing but padding", index);
  return row;
}

}  // namespace

std::vector<std::span<const TokenId>> unpad(std::span<const TokenId> ids, std::int64_t length,
                                            std::span<const std::int64_t> mask) {
  const std::size_t count = count_rows(ids.size(), length);
  if (mask.size() != ids.size()) {
    fail(ErrorCode::kInvalidArgument, "[batch] mask: expected {} entries, one per id, got {}",
         ids.size(), mask.size());
  }
  const auto width = static_cast<std::size_t>(length);
  std::vector<std::span<const TokenId>> rows;
  for (std::size_t r = 0; r < count; ++r) {
    const auto row = mask.subspan(r * width, width);
    const auto wrong =
        std::find_if(row.begin(), row.end(), [](std::int64_t m) { return m != 0 && m != 1; });
    if (wrong != row.end()) {
      fail(ErrorCode::kInvalidArgument, "[batch] mask: row {}, column {}: expected 0 or 1, got {}",
           r, wrong - row.begin(), *wrong);
    }
    const auto first = std::find(row.begin(), row.end(), 1);
    const auto end = std::find(first, row.end(), 0);
    const auto again = std::find(end, row.end(), 1);
    if (again != row.end()) {
      fail(ErrorCode::kInvalidArgument,
           "[batch] mask: row {}, column {}: padding between tokens, expected it at the ends only",
           r, end - row.begin());
    }
    rows.push_back(not_empty(ids.subspan(r * width + static_cast<std::size_t>(first - row.begin()),
                                         static_cast<std::size_t>(end - first)),
                             r));
  }
  return rows;
}

std::vector<std::span<const TokenId>> unpad(std::span<const TokenId> ids, std::int64_t length,
                                            TokenId pad, PaddingSide side) {
  const std::size_t count = count_rows(ids.size(), length);
  const auto width = static_cast<std::size_t>(length);
  std::vector<std::span<const TokenId>> rows;
  for (std::size_t r = 0; r < count; ++r) {
    std::span<const TokenId> row = ids.subspan(r * width, width);
    const auto is_pad = [&](TokenId id) { return id == pad; };
    if (side == PaddingSide::kLeft) {
      const auto first = std::find_if_not(row.begin(), row.end(), is_pad);
      row = row.subspan(static_cast<std::size_t>(first - row.begin()));
    } else {
      const auto last = std::find_if_not(row.rbegin(), row.rend(), is_pad);
      row = row.first(static_cast<std::size_t>(row.rend() - last));
    }
    rows.push_back(not_empty(row, r));
  }
  return rows;
}

PaddedBatch pad(std::span<const std::span<const TokenId>> rows, TokenId pad, PaddingSide side) {
  PaddedBatch batch;
  for (const auto& row : rows)
    batch.length = std::max(batch.length, static_cast<std::int64_t>(row.size()));
  const auto width = static_cast<std::size_t>(batch.length);
  batch.ids.assign(rows.size() * width, pad);
  batch.mask.assign(rows.size() * width, 0);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::size_t at =
        r * width + (side == PaddingSide::kLeft ? width - rows[r].size() : std::size_t{0});
    const auto place = static_cast<std::ptrdiff_t>(at);
    std::copy(rows[r].begin(), rows[r].end(), batch.ids.begin() + place);
    std::fill_n(batch.mask.begin() + place, rows[r].size(), 1);
  }
  return batch;
}

}  // namespace tandem
