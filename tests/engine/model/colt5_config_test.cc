#include "engine/model/colt5_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/model/create_model.h"
#include "engine/model/encoder_config.h"
#include "engine/model/model_type.h"
#include "tests/support/golden_model.h"
#include "tests/support/safetensors_writer.h"

namespace longdoc {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Small() {
  return {{"model_type", "longdoc_colt5"},
          {"vocab_size", 30528},
          {"hidden_size", 512},
          {"num_layers", 4},
          {"head_dim", 32},
          {"light_heads", 2},
          {"light_slopes", {0.5, 0.25}},
          {"light_radius", 63},
          {"light_ff_size", 512},
          {"heavy_heads", 3},
          {"heavy_slopes", {1, 0.125, 0}},
          {"heavy_ff_size", 4096},
          {"query_rate", 0.25},
          {"kv_rate", 1},
          {"ff_rate", 0},
          {"output_size", 256},
          {"decoder_layers", 2},
          {"decoder_heads", 8},
          {"decoder_ff_size", 1024},
          {"max_target_tokens", 100},
          {"rms_norm_eps", 1e-5}};
}

TEST(Colt5Config, ReadsEveryField) {
  const auto config = ParseColt5Config(Small().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 30528);
  EXPECT_EQ(config->hidden_size, 512);
  EXPECT_EQ(config->num_layers, 4);
  EXPECT_EQ(config->head_dim, 32);
  EXPECT_EQ(config->light_heads, 2);
  EXPECT_THAT(config->light_slopes, ElementsAre(0.5f, 0.25f));
  EXPECT_EQ(config->light_radius, 63);
  EXPECT_EQ(config->light_ff_size, 512);
  EXPECT_EQ(config->heavy_heads, 3);
  EXPECT_THAT(config->heavy_slopes, ElementsAre(1.0f, 0.125f, 0.0f));
  EXPECT_EQ(config->heavy_ff_size, 4096);
  EXPECT_EQ(config->query_rate, 0.25);
  EXPECT_EQ(config->kv_rate, 1);
  EXPECT_EQ(config->ff_rate, 0);
  EXPECT_EQ(config->output_size, 256);
  EXPECT_EQ(config->vector_size(), 256);
  EXPECT_EQ(config->decoder_layers, 2);
  EXPECT_EQ(config->decoder_heads, 8);
  EXPECT_EQ(config->decoder_slopes, AlibiSlopes(8));
  EXPECT_EQ(config->decoder_ff_size, 1024);
  EXPECT_EQ(config->max_target_tokens, 100);
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-5f);
}

TEST(Colt5Config, HasTheDefaultsOfTheDocumentation) {
  json fields = Small();
  for (const char* name : {"head_dim", "light_slopes", "light_radius", "heavy_slopes", "query_rate",
                           "kv_rate", "ff_rate", "output_size", "decoder_layers", "decoder_heads",
                           "decoder_ff_size", "max_target_tokens", "rms_norm_eps"}) {
    fields.erase(name);
  }
  fields["unknown"] = {1, 2};
  fields["head_dim"] = nullptr;
  const auto config = ParseColt5Config(fields.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->light_slopes, AlibiSlopes(2));
  EXPECT_EQ(config->light_radius, 127);
  EXPECT_EQ(config->heavy_slopes, AlibiSlopes(3));
  EXPECT_EQ(config->query_rate, 1.0 / 16);
  EXPECT_EQ(config->kv_rate, 1.0 / 8);
  EXPECT_EQ(config->ff_rate, 1.0 / 16);
  EXPECT_EQ(config->output_size, 0);
  EXPECT_EQ(config->vector_size(), 512);
  EXPECT_EQ(config->decoder_layers, 0);
  EXPECT_EQ(config->decoder_heads, 0);
  EXPECT_TRUE(config->decoder_slopes.empty());
  EXPECT_EQ(config->max_target_tokens, 2048);
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-6f);
}

TEST(Colt5Config, RefusesValuesOutsideTheLimits) {
  const std::pair<const char*, json> cases[] = {
      {"model_type", {}},
      {"model_type", 5},
      {"vocab_size", 0},
      {"vocab_size", 4'194'305},
      {"vocab_size", {}},
      {"hidden_size", 0},
      {"hidden_size", 520},  // no multiple of 16
      {"hidden_size", 16'400},
      {"num_layers", 0},
      {"num_layers", 257},
      {"num_layers", {}},
      {"head_dim", 0},
      {"head_dim", 24},
      {"head_dim", 272},
      {"light_heads", 0},
      {"light_heads", 257},
      {"light_heads", 3},  // two slopes
      {"light_heads", {}},
      {"heavy_heads", {}},
      {"heavy_heads", -1},
      {"light_slopes", 0.5},
      {"light_slopes", json::array()},
      {"light_slopes", {0.5, "x"}},
      {"light_slopes", {0.5, 1.5}},
      {"heavy_slopes", {0.5, 0.5, -0.1}},
      {"heavy_slopes", {0.5, 0.5, nullptr}},
      {"light_radius", 0},
      {"light_radius", 65'537},
      {"light_ff_size", 0},
      {"heavy_ff_size", 131'073},
      {"heavy_ff_size", {}},
      {"query_rate", -0.01},
      {"kv_rate", 1.01},
      {"ff_rate", "1/16"},
      {"ff_rate", 18446744073709551615u},
      {"output_size", -1},
      {"output_size", 16'385},
      {"decoder_layers", -1},
      {"decoder_layers", 257},
      {"decoder_heads", 0},
      {"decoder_heads", {}},
      {"decoder_slopes", {0.5}},
      {"decoder_ff_size", 0},
      {"decoder_ff_size", {}},
      {"max_target_tokens", 0},
      {"max_target_tokens", 65'537},
      {"rms_norm_eps", 0.2},
      {"rms_norm_eps", -1},
      {"rms_norm_eps", "1e-6"},
  };
  for (const auto& [field, value] : cases) {
    json config = Small();
    config[field] = value;
    const auto status = ParseColt5Config(config.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field << " " << value;
    // A wrong number of heads shows at their slopes.
    const std::string named = value == 3 ? "light_slopes has 2 numbers, 3 are needed" : field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(named)) << value;
  }
  // Without decoder layers nobody looks at the rest of the decoder.
  json config = Small();
  config["decoder_layers"] = 0;
  config["decoder_heads"] = 0;
  EXPECT_TRUE(ParseColt5Config(config.dump()).ok());
}

TEST(Colt5Config, RefusesTextThatIsNoConfig) {
  const std::string good = Small().dump();
  for (const std::string& text :
       {std::string(), std::string("[]"), good + good, good.substr(0, good.size() / 2),
        "{\"hidden_size\":512," + good.substr(1), std::string("{\"query_rate\": NaN}")}) {
    EXPECT_EQ(ParseColt5Config(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text.substr(0, 60);
  }
}

TEST(RoutedCount, RoundsHalfUpWithinItsLimits) {
  const struct {
    int64_t n;
    double rate;
    int64_t want;
  } cases[] = {{0, 1, 0},         {0, 0.5, 0},       {1, 0, 0},
               {1'000'000, 0, 0}, {1, 1.0 / 16, 1},  {2, 1.0 / 16, 1},
               {8, 1.0 / 16, 1},  {23, 1.0 / 16, 1}, {24, 1.0 / 16, 2},
               {25, 1.0 / 16, 2}, {40, 1.0 / 16, 3}, {17, 1, 17},
               {3, 0.5, 2},       {5, 0.999, 5},     {100'000, 0.125, 12'500},
               {5, 1e-300, 1},    {1, 0.4, 1}};
  for (const auto& c : cases) EXPECT_EQ(RoutedCount(c.n, c.rate), c.want) << c.n << " " << c.rate;
}

TEST(Colt5Config, CountsParametersAndWork) {
  Colt5Config config;
  config.vocab_size = 100;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.head_dim = 16;
  config.light_heads = 1;
  config.heavy_heads = 3;
  config.light_ff_size = 8;
  config.heavy_ff_size = 64;
  config.output_size = 24;
  // Norms and routers; light and heavy attention; light and heavy feed-forward.
  const int64_t layer = 5 * 32 + 4 * 16 * 32 + 4 * 48 * 32 + 3 * 8 * 32 + 3 * 64 * 32;
  EXPECT_EQ(NumParameters(config), 100 * 32 + 2 * layer + 32 + 24 * 32);
  EXPECT_EQ(DecoderFlopsPerTarget(config), 0);
  EXPECT_EQ(CrossKvFlops(config, 1000), 0);
  // 160 tokens: 10 queries, 20 keys, 10 to the heavy feed-forward.
  const int64_t light = 160 * (3 * 32 + 4 * 16 * 32 + 3 * 8 * 32);
  const int64_t heavy = (10 + 20) * 2 * 48 * 32 + 10 * 3 * 64 * 32;
  EXPECT_EQ(DenseFlops(config, 160), 2.0 * 2 * static_cast<double>(light + heavy));

  config.decoder_layers = 3;
  config.decoder_heads = 4;
  config.decoder_ff_size = 40;
  const int64_t decoder = 3 * 32 + 2 * (2 * 64 * 32 + 2 * 16 * 32) + 3 * 40 * 32;
  EXPECT_EQ(NumParameters(config), 100 * 32 + 2 * layer + 32 + 24 * 32 + 3 * decoder + 32);
  EXPECT_EQ(CrossKvFlops(config, 1000), 2.0 * 3 * 1000 * 2 * 16 * 32);
  // Without the cross-attention's keys and values, with the logits.
  EXPECT_EQ(DecoderFlopsPerTarget(config),
            2.0 * (3 * (4 * 64 * 32 + 2 * 16 * 32 + 3 * 40 * 32) + 100 * 32));
}

// The table of presets in docs/models.md.
TEST(Colt5Config, PresetsHaveTheSizesOfTheDocumentation) {
  const std::pair<const char*, double> sizes[] = {
      {"colt5-small", 54e6}, {"colt5-base", 350e6}, {"colt5-tiny", 2.2e6}};
  for (const auto& [preset, parameters] : sizes) {
    const auto config = std::get<Colt5Config>(*PresetConfig(preset));
    EXPECT_NEAR(static_cast<double>(NumParameters(config)), parameters, 0.01 * parameters)
        << preset;
    EXPECT_EQ(config.heavy_slopes.back(), 0) << preset;
    EXPECT_GT(config.heavy_slopes.front(), 0) << preset;
  }
}

TEST(ModelType, IsReadFromConfigJson) {
  EXPECT_EQ(*ParseModelType(Small().dump()), ModelType::kColt5);
  EXPECT_EQ(*ParseModelType(R"({"model_type": "bert"})"), ModelType::kBert);
  const auto other = ParseModelType(R"({"model_type": "llama"})").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(other.message()), HasSubstr("\"llama\""));
  for (const char* text : {"", "{}", "[]", R"({"model_type": 3})", R"({"model_type": null})"}) {
    EXPECT_EQ(ParseModelType(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  // Each parser refuses the other's.
  EXPECT_EQ(ParseEncoderConfig(Small().dump()).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ParseColt5Config(R"({"model_type": "bert"})").status().code(),
            absl::StatusCode::kUnimplemented);

  const std::string dir = testing::MakeTempDir("type");
  EXPECT_EQ(PeekModelType(dir).status().code(), absl::StatusCode::kNotFound);
  testing::WriteFileOrDie(dir + "/config.json", Small().dump());
  EXPECT_EQ(*PeekModelType(dir), ModelType::kColt5);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace longdoc
