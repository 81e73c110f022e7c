#include "tests/support/golden_random.h"

#include "absl/strings/str_cat.h"

namespace longdoc::testing {
namespace {

uint64_t NameKey(const std::string& name) {
  uint64_t key = 0xcbf29ce484222325u;
  for (char c : name) key = (key ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return key;
}

uint64_t Hash(uint64_t key, int64_t index) {
  uint64_t x = key + static_cast<uint64_t>(index + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<float> GoldenUniform(const std::string& name, int64_t count, int64_t base,
                                 int64_t amplitude) {
  const uint64_t key = NameKey(name);
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t u = static_cast<int64_t>(Hash(key, i) >> 40) - (int64_t{1} << 23);
    const int64_t scaled = base * (int64_t{1} << 23) + amplitude * u;
    values[static_cast<size_t>(i)] =
        static_cast<float>(static_cast<double>(scaled) / static_cast<double>(int64_t{1} << 33));
  }
  return values;
}

std::vector<int32_t> GoldenIds(const std::string& name, int64_t length, int64_t vocab_size) {
  const uint64_t key = NameKey(absl::StrCat(name, "/ids/", length));
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) {
    ids.push_back(static_cast<int32_t>(Hash(key, i) % static_cast<uint64_t>(vocab_size)));
  }
  if (length > 1) {
    ids.front() = 101;
    ids.back() = 102;
  }
  return ids;
}

}  // namespace longdoc::testing
