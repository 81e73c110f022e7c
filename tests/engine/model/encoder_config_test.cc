#include "engine/model/encoder_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/model/create_model.h"

namespace longdoc {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

json Small() {
  return {{"model_type", "bert"},
          {"vocab_size", 30528},
          {"hidden_size", 512},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 8},
          {"intermediate_size", 2048},
          {"hidden_act", "gelu"},
          {"layer_norm_eps", 1e-12},
          {"max_position_embeddings", 8192},
          {"type_vocab_size", 2},
          {"pad_token_id", 0},
          {"position_embedding_type", "alibi"},
          {"feed_forward_type", "geglu"},
          {"emb_pooler", "mean"}};
}

TEST(AlibiSlopes, EqualTheTable) {
  EXPECT_THAT(AlibiSlopes(8), ElementsAre(1 / 2.f, 1 / 4.f, 1 / 8.f, 1 / 16.f, 1 / 32.f, 1 / 64.f,
                                          1 / 128.f, 1 / 256.f));
  const std::vector<float> twelve = {0.5,        0.25,       0.125,      0.0625,
                                     0.03125,    0.015625,   0.0078125,  0.00390625,
                                     0.70710678, 0.35355339, 0.17677670, 0.08838835};
  EXPECT_THAT(AlibiSlopes(12), Pointwise(FloatNear(1e-7f), twelve));
  EXPECT_THAT(AlibiSlopes(6),
              ElementsAre(1 / 4.f, 1 / 16.f, 1 / 64.f, 1 / 256.f, 1 / 2.f, 1 / 8.f));
  EXPECT_FLOAT_EQ(AlibiSlopes(16).front(), std::exp2(-0.5f));
  EXPECT_EQ(AlibiSlopes(16).back(), 1 / 256.f);
  EXPECT_EQ(AlibiSlopes(32).back(), 1 / 256.f);
  EXPECT_EQ(AlibiSlopes(32).size(), 32u);
  EXPECT_THAT(AlibiSlopes(1), ElementsAre(1 / 256.f));
  EXPECT_FLOAT_EQ(AlibiSlopes(8, 16)[0], 0.25f);
}

// The MPT form of models.md §1.1, for head counts that are no powers of two.
TEST(AlibiSlopes, EqualTheOtherClosedForm) {
  for (int64_t n = 1; n <= 112; ++n) {
    int64_t power = 1;
    while (power < n) power *= 2;
    std::vector<double> all;
    for (int64_t i = 1; i <= power; ++i) {
      all.push_back(std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(power)));
    }
    std::vector<double> want;
    if (power == n) {
      want = all;
    } else {
      for (size_t i = 1; i < all.size(); i += 2) want.push_back(all[i]);
      for (size_t i = 0; i < all.size(); i += 2) want.push_back(all[i]);
      want.resize(static_cast<size_t>(n));
    }
    const std::vector<float> got = AlibiSlopes(n);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-7) << n << " " << i;
  }
}

TEST(EncoderConfig, ReadsTheSmallModel) {
  const auto config = ParseEncoderConfig(Small().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, EncoderFamily::kJinaBertA);
  EXPECT_EQ(config->vocab_size, 30528);
  EXPECT_EQ(config->hidden_size, 512);
  EXPECT_EQ(config->num_layers, 4);
  EXPECT_EQ(config->num_heads, 8);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->intermediate_size, 2048);
  EXPECT_EQ(config->max_position_embeddings, 8192);
  EXPECT_FLOAT_EQ(config->layer_norm_eps, 1e-12f);
  EXPECT_EQ(config->slopes.size(), 8u);
}

// Fields as Hugging Face writes them that we have no use for must not disturb.
TEST(EncoderConfig, IgnoresWhatItDoesNotNeed) {
  json config = Small();
  config["id2label"] = {{"0", "LABEL_0"}};
  config["attn_implementation"] = nullptr;
  config["emb_pooler"] = nullptr;
  config["use_cache"] = true;
  config["auto_map"] = {{"AutoModel", "x"}};
  EXPECT_TRUE(ParseEncoderConfig(config.dump()).ok());
}

TEST(EncoderConfig, TellsTheVariantByItsOrigin) {
  json config = Small();
  config["_name_or_path"] = "jinaai/jina-bert-v2-qk-post-norm";
  EXPECT_EQ(ParseEncoderConfig(config.dump())->family, EncoderFamily::kJinaBertB);
  config = Small();
  config["auto_map"] = {{"AutoConfig", "jinaai/jina-bert-v2-qk-post-norm--configuration_bert.X"}};
  EXPECT_EQ(ParseEncoderConfig(config.dump())->family, EncoderFamily::kJinaBertB);
  config["auto_map"] = {{"AutoConfig", "jinaai/jina-bert-implementation--configuration_bert.X"}};
  EXPECT_EQ(ParseEncoderConfig(config.dump())->family, EncoderFamily::kJinaBertA);
}

TEST(EncoderConfig, NamesWhatItDoesNotSupport) {
  const std::pair<const char*, json> cases[] = {
      {"model_type", "roberta"},       {"position_embedding_type", "absolute"},
      {"position_embedding_type", {}}, {"feed_forward_type", "original"},
      {"feed_forward_type", "reglu"},  {"feed_forward_type", {}},
      {"hidden_act", "relu"},          {"emb_pooler", "cls"},
  };
  for (const auto& [field, value] : cases) {
    json config = Small();
    config[field] = value;
    const auto status = ParseEncoderConfig(config.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << field << " " << value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  }
}

TEST(EncoderConfig, RefusesValuesOutsideTheLimits) {
  const std::pair<const char*, json> cases[] = {
      {"model_type", {}},
      {"model_type", 5},
      {"vocab_size", 0},
      {"vocab_size", -1},
      {"vocab_size", 4'194'305},
      {"vocab_size", 18446744073709551615u},
      {"vocab_size", "30528"},
      {"vocab_size", 30528.0},
      {"vocab_size", {}},
      {"hidden_size", 0},
      {"hidden_size", 16'400},
      {"hidden_size", 500},  // head_dim 62.5
      {"hidden_size", 64},   // head_dim 8
      {"hidden_size", json::array({512})},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 257},
      {"num_attention_heads", 0},
      {"num_attention_heads", 257},
      {"num_attention_heads", 1},  // head_dim 512
      {"num_attention_heads", 7},
      {"intermediate_size", 0},
      {"intermediate_size", 131'073},
      {"type_vocab_size", 0},
      {"type_vocab_size", 1025},
      {"max_position_embeddings", 0},
      {"max_position_embeddings", 4'294'967'296},
      {"pad_token_id", -1},
      {"pad_token_id", 30528},
      {"layer_norm_eps", -1e-12},
      {"layer_norm_eps", 0.2},
      {"layer_norm_eps", "1e-12"},
      {"hidden_act", 1},
      {"position_embedding_type", false},
      {"_name_or_path", 7},
  };
  for (const auto& [field, value] : cases) {
    json config = Small();
    config[field] = value;
    const auto status = ParseEncoderConfig(config.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field << " " << value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field)) << value;
  }
}

TEST(EncoderConfig, RefusesTextThatIsNoConfig) {
  const std::string good = Small().dump();
  const std::string texts[] = {
      "", "null", "[]", "5", "\"bert\"", "{", good + good, good.substr(0, good.size() / 2),
      "{\"layer_norm_eps\": NaN}", "{\"layer_norm_eps\": 1e999}", "\xff\xfe{}",
      // Two readers could take different ones of these.
      "{\"hidden_size\":512," + good.substr(1), std::string(1'000, '[') + std::string(1'000, ']'),
      "{\"a\":" + std::string(500'000, '['), "{\"a\":\"" + std::string(1 << 20, 'x') + "\"}"};
  for (const std::string& text : texts) {
    const auto status = ParseEncoderConfig(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 60);
    EXPECT_LT(status.message().size(), 400u);
  }
}

// Numbers of models.md §2.1 and of the published cards: 33 M and 137 M with the pooler.
TEST(EncoderConfig, CountsParametersAndWork) {
  const auto small = std::get<EncoderConfig>(*PresetConfig("jina-small"));
  const auto base = std::get<EncoderConfig>(*PresetConfig("jina-base"));
  EXPECT_NEAR(static_cast<double>(NumParameters(small)), 32.4e6, 0.1e6);
  EXPECT_NEAR(static_cast<double>(NumParameters(base) + 768 * 769), 137e6, 0.5e6);
  EXPECT_NEAR(DenseFlopsPerToken(small), 33.55e6, 0.01e6);
  EXPECT_NEAR(DenseFlopsPerToken(base), 226.5e6, 0.1e6);
  EXPECT_EQ(PresetConfig("huge").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(PresetConfig("huge").status().message()), HasSubstr("jina-base"));
}

}  // namespace
}  // namespace longdoc
