#include "engine/text/bpe_model.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/byte_level.h"

namespace longdoc {
namespace {

// A heap on std::push_heap: the top is the candidate of the lowest rank, then the leftmost.
bool Later(const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

// Bytes that well-formed UTF-8 never has.
bool NeverInUtf8(int byte) { return byte == 0xC0 || byte == 0xC1 || byte > 0xF4; }

}  // namespace

absl::Status BpeModel::AddMerge(std::string_view left, std::string_view right) {
  const int32_t rank = next_rank_++;
  const int32_t left_id = vocabulary_.Find(left), right_id = vocabulary_.Find(right);
  const int32_t id = vocabulary_.Find(std::string(left).append(right));
  if (left_id < 0 || right_id < 0 || id < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("merge %d: %s is not in the vocabulary", rank,
                                                      left_id < 0    ? "its first part"
                                                      : right_id < 0 ? "its second part"
                                                                     : "its result"));
  }
  merges_[Key(left_id, right_id)] = {rank, id};  // of a repeated pair the library takes the last
  return absl::OkStatus();
}

absl::Status BpeModel::Finish(bool ignore_merges) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelled;
    AppendByteLevel(std::string(1, static_cast<char>(byte)), &spelled);
    byte_ids_[static_cast<size_t>(byte)] = vocabulary_.Find(spelled);
    if (byte_ids_[static_cast<size_t>(byte)] < 0 && !NeverInUtf8(byte)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("vocabulary: byte 0x%02x has no entry, byte-level BPE needs all", byte));
    }
  }
  // Most pieces of a text are one token; to find them at once is most of the speed.
  BpeScratch scratch;
  std::string bytes;
  pieces_.Reserve(vocabulary_.num_tokens());
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const std::string_view text = vocabulary_.Text(id);
    if (text.empty() || !ByteLevelBytes(text, &bytes)) continue;
    if (!ignore_merges) {
      // Bytes that no text has cannot be merged, nor looked for.
      const auto absent = [this](char c) { return byte_ids_[static_cast<uint8_t>(c)] < 0; };
      if (std::any_of(bytes.begin(), bytes.end(), absent)) continue;
      Merge(bytes, &scratch);
      if (scratch.tokens.size() != 1 || scratch.tokens[0].id != id) continue;
    }
    RETURN_IF_ERROR(pieces_.Add(bytes, id));
  }
  return absl::OkStatus();
}

void BpeModel::PushCandidate(int32_t position, BpeScratch* scratch) const {
  const BpeScratch::Symbol& left = scratch->symbols[position];
  if (left.next < 0) return;
  const auto it = merges_.find(Key(left.id, scratch->symbols[left.next].id));
  if (it == merges_.end()) return;
  scratch->heap.push_back({it->second.rank, position, it->second.id});
  std::push_heap(scratch->heap.begin(), scratch->heap.end(), Later);
}

void BpeModel::Merge(std::string_view piece, BpeScratch* scratch) const {
  auto& symbols = scratch->symbols;
  auto& heap = scratch->heap;
  symbols.clear();
  heap.clear();
  const int32_t size = static_cast<int32_t>(piece.size());
  for (int32_t i = 0; i < size; ++i) {
    symbols.push_back({byte_ids_[static_cast<uint8_t>(piece[i])], i - 1, i + 1, 1});
  }
  if (size > 0) symbols.back().next = -1;
  for (int32_t i = 0; i < size; ++i) PushCandidate(i, scratch);
  while (!heap.empty()) {
    const BpeScratch::Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), Later);
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[best.position];
    if (left.length == 0 || left.next < 0) continue;
    const BpeScratch::Symbol right = symbols[left.next];
    // A candidate may be older than a merge beside it. The library, too, looks only at the result.
    const auto it = merges_.find(Key(left.id, right.id));
    if (it == merges_.end() || it->second.id != best.id) continue;
    symbols[left.next].length = 0;
    left.id = best.id;
    left.length += right.length;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].prev = best.position;
    if (left.prev >= 0) PushCandidate(left.prev, scratch);
    PushCandidate(best.position, scratch);
  }
  scratch->tokens.clear();
  for (int32_t i = 0; i < size; i += symbols[i].length) {
    scratch->tokens.push_back({symbols[i].id, symbols[i].length});
  }
}

}  // namespace longdoc
