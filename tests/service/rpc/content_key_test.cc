#include "service/content_key.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "tests/support/fake_engine.h"

namespace longdoc::testing {
namespace {

using service::ContentKey;
using service::DocumentOptions;
using service::Sha256;

TEST(Sha256, IsTheOneOfTheStandard) {
  Sha256 hash;
  hash.Update("a");
  hash.Update("bc");
  EXPECT_EQ(absl::BytesToHexString(hash.Finish()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

class ContentKeyTest : public ::testing::Test {
 protected:
  std::string KeyOf(const std::vector<std::string>& pieces) {
    ContentKey key;
    for (const std::string& piece : pieces) {
      if (piece == "|") {
        key.AddBreak();
      } else {
        key.AddText(piece);
      }
    }
    return key.Finish(*engine_.model(), options_);
  }
  FakeEngine engine_;
  DocumentOptions options_;
};

TEST_F(ContentKeyTest, AnySplitGivesTheSameKey) {
  std::mt19937_64 random(1);
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(random() % 256);
  const std::string whole = KeyOf({text.substr(0, 100), "|", text.substr(100)});
  EXPECT_EQ(whole.size(), 32u);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t limit = at < 100 ? 100 - at : text.size() - at;
      const size_t size = std::min<size_t>(random() % 40, limit);
      pieces.push_back(text.substr(at, size));
      at += size;
      if (at == 100 && size > 0) pieces.push_back("|");
    }
    ASSERT_EQ(KeyOf(pieces), whole) << "round " << round;
  }
}

TEST_F(ContentKeyTest, DifferentContentsAndOptionsGiveDifferentKeys) {
  std::set<std::string> keys;
  int count = 0;
  const auto add = [&](const std::string& key) {
    keys.insert(key);
    ++count;
  };
  add(KeyOf({"abcd"}));
  add(KeyOf({"abc"}));
  add(KeyOf({"ab", "|", "cd"}));
  add(KeyOf({"abc", "|", "d"}));
  add(KeyOf({"a", "|", "bc", "|", "d"}));
  ContentKey ids, bytes;
  const std::vector<int32_t> abcd = {0x64636261};
  ids.AddIds(abcd);
  add(ids.Finish(*engine_.model(), options_));  // its bytes are those of the text
  options_.token_vectors = true;
  add(KeyOf({"abcd"}));
  options_.attention.epsilon = 2e-4f;
  add(KeyOf({"abcd"}));
  options_.attention.mode = AttentionMode::kWindow;
  add(KeyOf({"abcd"}));
  options_.attention.window_radius = 5;
  add(KeyOf({"abcd"}));
  options_.attention.num_global = 5;
  add(KeyOf({"abcd"}));
  options_.overflow = Overflow::kTruncateStart;
  add(KeyOf({"abcd"}));
  options_.passages.push_back({PassageSpec::Kind::kTokens, 5, {}});
  add(KeyOf({"abcd"}));
  options_.passages[0].size = 6;
  add(KeyOf({"abcd"}));
  options_.passages.push_back({PassageSpec::Kind::kByteRanges, 6, {{0, 1}, {2, 3}}});
  add(KeyOf({"abcd"}));
  options_.passages[1].ranges[1].begin = 1;
  add(KeyOf({"abcd"}));
  EXPECT_EQ(keys.size(), static_cast<size_t>(count));
  EXPECT_EQ(keys.count(""), 0u);
}

}  // namespace
}  // namespace longdoc::testing
