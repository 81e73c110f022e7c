// Token texts and ids, with the prefix-hash lookup that WordPiece's longest match needs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace longdoc {

// Limits of every vocabulary, checked before memory is taken for it.
inline constexpr int64_t kMaxVocabularyFileBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxVocabularySize = 4'000'000;  // entries, and highest id + 1
inline constexpr size_t kMaxTokenBytes = 1024;

// A rolling hash: polynomial over GF(2^61 - 1) with a random base, so that no vocabulary file can
// be made whose entries collide. Extending by a byte is O(1), which gives all prefixes of a word
// for the price of one.
class PrefixHash {
 public:
  static uint64_t Extend(uint64_t hash, uint8_t byte);
  static uint64_t Extend(uint64_t hash, std::string_view bytes);
};

// Built once, then immutable and thread-safe. Ids need not be dense.
class Vocabulary {
 public:
  // Room for `num_tokens` entries; at most kMaxVocabularySize.
  void Reserve(int64_t num_tokens);

  // INVALID_ARGUMENT for an empty, over-long, or duplicate token, and for a negative, too large or
  // duplicate id. `id` is 64-bit so that callers need not narrow what they read.
  absl::Status Add(std::string_view text, int64_t id);

  int32_t size() const { return static_cast<int32_t>(by_id_.size()); }  // highest id + 1
  int32_t num_tokens() const { return num_tokens_; }
  size_t longest_token_bytes() const { return longest_token_bytes_; }

  // Empty for an id without entry.
  std::string_view Text(int32_t id) const;

  // Id of the token spelled `prefix` + `rest`, or -1; `hash` is PrefixHash of that spelling.
  int32_t Find(uint64_t hash, std::string_view prefix, std::string_view rest) const;
  int32_t Find(std::string_view text) const;

 private:
  struct Entry {
    uint32_t offset = 0;  // into texts_, below 2^32 because file and entry limits bound the sum
    uint32_t length = 0;  // 0: no token has this id
  };
  struct Slot {
    uint32_t tag = 0;  // upper bits of the hash
    int32_t id = -1;   // -1: free
  };

  void Rehash(size_t num_slots);
  void Insert(uint64_t hash, int32_t id);

  std::string texts_;
  std::vector<Entry> by_id_;
  std::vector<Slot> slots_;  // open addressing, linear probing, power of two, at most half full
  int32_t num_tokens_ = 0;
  size_t longest_token_bytes_ = 0;
};

}  // namespace longdoc
