#include "engine/text/vocabulary.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_format.h"

namespace longdoc {
namespace {

constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;

uint64_t RandomBase() {
  std::random_device device;
  const uint64_t bits = static_cast<uint64_t>(device()) << 32 | device();
  return bits % (kPrime - 1024) + 512;  // in [512, kPrime - 512): above every byte value
}

uint64_t Base() {
  static const uint64_t base = RandomBase();
  return base;
}

uint64_t Step(uint64_t hash, uint64_t base, uint8_t byte) {
  const unsigned __int128 product = static_cast<unsigned __int128>(hash) * base + byte + 1;
  uint64_t folded =
      (static_cast<uint64_t>(product) & kPrime) + static_cast<uint64_t>(product >> 61);
  folded = (folded & kPrime) + (folded >> 61);
  return folded == kPrime ? 0 : folded;
}

}  // namespace

uint64_t PrefixHash::Extend(uint64_t hash, uint8_t byte) { return Step(hash, Base(), byte); }

uint64_t PrefixHash::Extend(uint64_t hash, std::string_view bytes) {
  const uint64_t base = Base();
  for (const char c : bytes) hash = Step(hash, base, static_cast<uint8_t>(c));
  return hash;
}

void Vocabulary::Reserve(int64_t num_tokens) {
  num_tokens = std::min(num_tokens, kMaxVocabularySize);
  size_t num_slots = 16;
  while (num_slots < 2 * static_cast<size_t>(num_tokens)) num_slots *= 2;
  if (num_slots > slots_.size()) Rehash(num_slots);
  by_id_.reserve(static_cast<size_t>(num_tokens));
}

absl::Status Vocabulary::Add(std::string_view text, int64_t id) {
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("vocabulary: token of id %d is empty", id));
  }
  if (text.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "vocabulary: token of id %d has %d bytes, limit %d", id, text.size(), kMaxTokenBytes));
  }
  if (id < 0 || id >= kMaxVocabularySize) {
    return absl::InvalidArgumentError(
        absl::StrFormat("vocabulary: id %d is not in [0, %d)", id, kMaxVocabularySize));
  }
  if (static_cast<size_t>(id) < by_id_.size() && by_id_[id].length != 0) {
    return absl::InvalidArgumentError(absl::StrFormat("vocabulary: duplicate id %d", id));
  }
  if (texts_.size() + text.size() > UINT32_MAX) {
    return absl::InvalidArgumentError("vocabulary: token texts exceed 4 GiB");
  }
  if (2 * (static_cast<size_t>(num_tokens_) + 1) > slots_.size()) {
    Rehash(std::max<size_t>(16, 2 * slots_.size()));
  }
  const uint64_t hash = PrefixHash::Extend(0, text);
  if (const int32_t other = Find(hash, {}, text); other >= 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("vocabulary: ids %d and %d have the same token", other, id));
  }
  if (static_cast<size_t>(id) >= by_id_.size()) by_id_.resize(static_cast<size_t>(id) + 1);
  by_id_[id] = {static_cast<uint32_t>(texts_.size()), static_cast<uint32_t>(text.size())};
  texts_.append(text);
  ++num_tokens_;
  longest_token_bytes_ = std::max(longest_token_bytes_, text.size());
  Insert(hash, static_cast<int32_t>(id));
  return absl::OkStatus();
}

std::string_view Vocabulary::Text(int32_t id) const {
  if (id < 0 || id >= size()) return {};
  return std::string_view(texts_).substr(by_id_[id].offset, by_id_[id].length);
}

int32_t Vocabulary::Find(uint64_t hash, std::string_view prefix, std::string_view rest) const {
  if (slots_.empty()) return -1;
  const size_t mask = slots_.size() - 1;
  const uint32_t tag = static_cast<uint32_t>(hash >> 29);
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.id < 0) return -1;
    if (slot.tag != tag) continue;
    const std::string_view text = Text(slot.id);
    if (text.size() == prefix.size() + rest.size() && text.substr(0, prefix.size()) == prefix &&
        text.substr(prefix.size()) == rest) {
      return slot.id;
    }
  }
}

int32_t Vocabulary::Find(std::string_view text) const {
  return Find(PrefixHash::Extend(0, text), {}, text);
}

void Vocabulary::Insert(uint64_t hash, int32_t id) {
  const size_t mask = slots_.size() - 1;
  size_t i = hash & mask;
  while (slots_[i].id >= 0) i = (i + 1) & mask;
  slots_[i] = {static_cast<uint32_t>(hash >> 29), id};
}

void Vocabulary::Rehash(size_t num_slots) {
  slots_.assign(num_slots, Slot{});
  for (int32_t id = 0; id < size(); ++id) {
    if (by_id_[id].length != 0) Insert(PrefixHash::Extend(0, Text(id)), id);
  }
}

}  // namespace longdoc
