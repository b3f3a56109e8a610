// Content hashes (XXH3, 128 bits) for detecting changes and for cache keys; they are not
// signatures.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/files.h"
#include "base/thread_pool.h"

namespace tandem {

// 32 hexadecimal digits.
std::string content_hash(std::span<const std::byte> bytes);
std::string content_hash(std::string_view text);

// Hash of large content: chunks of 16 MiB are hashed on all threads, then the hash of those hashes
// is taken. Differs from content_hash() of the same bytes; does not depend on the number of
// threads.
std::string content_hash_tree(std::span<const std::byte> bytes, ThreadPool& pool);
// The same of a mapped file, whose memory is released piece by piece.
std::string content_hash_tree(const MappedFile& file, ThreadPool& pool);

}  // namespace tandem
