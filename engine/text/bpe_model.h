// Byte-pair encoding of one piece: the merges, lowest rank first.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/text/vocabulary.h"

namespace longdoc {

// A token of a piece: its id and how many of the piece's bytes it stands for.
struct BpeToken {
  int32_t id = 0;
  int32_t length = 0;
};

// Memory that Merge uses again and again; one per thread of work.
struct BpeScratch {
  struct Symbol {
    int32_t id, prev, next;
    int32_t length;  // bytes; 0: merged into another
  };
  struct Candidate {
    int32_t rank, position, id;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::vector<BpeToken> tokens;  // the result
};

// A vocabulary in GPT-2's alphabet with its merges. Build: fill the vocabulary, AddMerge for each
// in order, Finish; then immutable and thread-safe.
class BpeModel {
 public:
  const Vocabulary& vocabulary() const { return vocabulary_; }
  Vocabulary& mutable_vocabulary() { return vocabulary_; }

  void ReserveMerges(size_t count) { merges_.reserve(count); }
  // Makes `left` `right` the merge of the next rank. INVALID_ARGUMENT if one of the two, or what
  // they make, is not in the vocabulary.
  absl::Status AddMerge(std::string_view left, std::string_view right);

  // INVALID_ARGUMENT if a byte of UTF-8 text has no entry. `ignore_merges`: a piece that is in the
  // vocabulary as a whole is one token, whatever the merges make of it. What is added to the
  // vocabulary later is no piece.
  absl::Status Finish(bool ignore_merges);

  // The token that the whole piece becomes, or -1 if it takes several (or Merge to find out);
  // `hash` is the PrefixHash of `piece`.
  int32_t WholePiece(uint64_t hash, std::string_view piece) const {
    return pieces_.Find(hash, {}, piece);
  }
  size_t longest_piece_bytes() const { return pieces_.longest_token_bytes(); }

  // Merges the bytes of `piece` (at most 2^30) until no two neighbours have a merge: into
  // `scratch->tokens`. Always the merge of the lowest rank, of those the leftmost: O(n log n).
  void Merge(std::string_view piece, BpeScratch* scratch) const;

 private:
  struct Result {
    int32_t rank, id;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void PushCandidate(int32_t position, BpeScratch* scratch) const;

  Vocabulary vocabulary_;
  absl::flat_hash_map<uint64_t, Result> merges_;  // by Key of the two
  int32_t next_rank_ = 0;
  std::array<int32_t, 256> byte_ids_{};  // -1: no such byte in UTF-8, and none in the vocabulary
  Vocabulary pieces_;                    // bytes (not their spelling) of pieces of one token
};

}  // namespace longdoc
