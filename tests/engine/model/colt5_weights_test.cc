// Opening longdoc-CoLT5 directories, whole and broken.
#include "engine/model/colt5_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/model/model_files.h"
#include "engine/model/random_weights.h"
#include "tests/support/colt5_golden.h"
#include "tests/support/golden_model.h"
#include "tests/support/safetensors_writer.h"

namespace longdoc {
namespace {

using ::testing::HasSubstr;
using testing::SafetensorsWriter;

class Colt5WeightsTest : public ::testing::Test {
 protected:
  Colt5WeightsTest() : dir_(testing::MakeTempDir("colt5")) {}
  ~Colt5WeightsTest() override { std::filesystem::remove_all(dir_); }

  // All dimensions differ, so that no shape passes for another.
  static Colt5Config TinyConfig() {
    Colt5Config config;
    config.vocab_size = 40;
    config.hidden_size = 32;
    config.num_layers = 2;
    config.head_dim = 16;
    config.light_heads = 1;
    config.heavy_heads = 3;
    config.light_slopes = {0.5f};
    config.heavy_slopes = {0.5f, 0.25f, 0.0f};
    config.light_ff_size = 20;
    config.heavy_ff_size = 56;
    config.output_size = 24;
    config.decoder_layers = 2;
    config.decoder_heads = 4;
    config.decoder_slopes = {0.5f, 0.25f, 0.125f, 0.0625f};
    config.decoder_ff_size = 28;
    return config;
  }

  static SafetensorsWriter Tensors(const Colt5Config& config) {
    SafetensorsWriter writer;
    for (const auto& [name, tensor] : MakeRandomWeights(config, 1)) {
      writer.AddF32(name, tensor.shape, tensor.values);
    }
    return writer;
  }

  absl::StatusOr<Colt5Checkpoint> Load(const Colt5Config& config, const SafetensorsWriter& writer,
                                       bool check_finite = true) const {
    testing::WriteFileOrDie(dir_ + "/config.json", ConfigJson(config));
    writer.WriteFile(dir_ + "/model.safetensors");
    return LoadColt5Checkpoint(dir_, check_finite);
  }

  std::string dir_;
};

void ExpectInvalid(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST_F(Colt5WeightsTest, EveryTensorHasItsRole) {
  const SafetensorsWriter writer = Tensors(TinyConfig());
  const auto model = Load(TinyConfig(), writer);
  ASSERT_TRUE(model.ok()) << model.status();
  const Colt5Weights& w = model->weights;
  ASSERT_EQ(w.encoder_layers.size(), 2u);
  ASSERT_EQ(w.decoder_layers.size(), 2u);
  const Colt5EncoderLayerWeights& e = w.encoder_layers[1];
  const Colt5DecoderLayerWeights& d = w.decoder_layers[1];
  const std::pair<const char*, const TensorView*> roles[] = {
      {"embeddings.weight", &w.embeddings},
      {"encoder.final_norm.weight", &w.encoder_final_norm},
      {"encoder.output.weight", &w.output},
      {"decoder.final_norm.weight", &w.decoder_final_norm},
      {"encoder.layers.1.attention_norm.weight", &e.attention_norm},
      {"encoder.layers.1.attention_router.query.weight", &e.query_router},
      {"encoder.layers.1.attention_router.kv.weight", &e.kv_router},
      {"encoder.layers.1.light_attention.query.weight", &e.light_attention.query},
      {"encoder.layers.1.light_attention.key.weight", &e.light_attention.key},
      {"encoder.layers.1.light_attention.value.weight", &e.light_attention.value},
      {"encoder.layers.1.light_attention.output.weight", &e.light_attention.output},
      {"encoder.layers.1.heavy_attention.query.weight", &e.heavy_attention.query},
      {"encoder.layers.1.heavy_attention.key.weight", &e.heavy_attention.key},
      {"encoder.layers.1.heavy_attention.value.weight", &e.heavy_attention.value},
      {"encoder.layers.1.heavy_attention.output.weight", &e.heavy_attention.output},
      {"encoder.layers.1.ff_norm.weight", &e.ff_norm},
      {"encoder.layers.1.ff_router.weight", &e.ff_router},
      {"encoder.layers.1.light_ff.gate_up.weight", &e.light_ff.gate_up},
      {"encoder.layers.1.light_ff.down.weight", &e.light_ff.down},
      {"encoder.layers.1.heavy_ff.gate_up.weight", &e.heavy_ff.gate_up},
      {"encoder.layers.1.heavy_ff.down.weight", &e.heavy_ff.down},
      {"decoder.layers.1.self_attention_norm.weight", &d.self_attention_norm},
      {"decoder.layers.1.self_attention.query.weight", &d.self_attention.query},
      {"decoder.layers.1.self_attention.key.weight", &d.self_attention.key},
      {"decoder.layers.1.self_attention.value.weight", &d.self_attention.value},
      {"decoder.layers.1.self_attention.output.weight", &d.self_attention.output},
      {"decoder.layers.1.cross_attention_norm.weight", &d.cross_attention_norm},
      {"decoder.layers.1.cross_attention.query.weight", &d.cross_attention.query},
      {"decoder.layers.1.cross_attention.key.weight", &d.cross_attention.key},
      {"decoder.layers.1.cross_attention.value.weight", &d.cross_attention.value},
      {"decoder.layers.1.cross_attention.output.weight", &d.cross_attention.output},
      {"decoder.layers.1.ff_norm.weight", &d.ff_norm},
      {"decoder.layers.1.ff.gate_up.weight", &d.ff.gate_up},
      {"decoder.layers.1.ff.down.weight", &d.ff.down},
  };
  for (const auto& [name, view] : roles) {
    const std::vector<float> want = writer.F32(name);
    ASSERT_EQ(view->num_elements(), static_cast<int64_t>(want.size())) << name;
    EXPECT_EQ(std::memcmp(view->data, want.data(), want.size() * 4), 0) << name;
  }
  // All of them, and nothing else.
  EXPECT_EQ(writer.Names().size(), 4 + 2 * 17 + 2 * 13u);
  EXPECT_EQ(e.heavy_attention.key.shape, (std::vector<int64_t>{48, 32}));
  EXPECT_EQ(d.cross_attention.key.shape, (std::vector<int64_t>{16, 32}));
  EXPECT_EQ(d.cross_attention.output.shape, (std::vector<int64_t>{32, 64}));
}

TEST_F(Colt5WeightsTest, AnEncoderAloneHasNoDecoderTensors) {
  Colt5Config config = TinyConfig();
  config.decoder_layers = 0;
  config.output_size = 0;
  const SafetensorsWriter writer = Tensors(config);
  EXPECT_EQ(writer.Names().size(), 2 + 2 * 17u);
  const auto model = Load(config, writer);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->weights.decoder_layers.empty());
  EXPECT_EQ(model->weights.decoder_final_norm.data, nullptr);
  EXPECT_EQ(model->weights.output.data, nullptr);
}

TEST_F(Colt5WeightsTest, NamesMissingAndMisshapenTensors) {
  const Colt5Config config = TinyConfig();
  for (const std::string& name : Tensors(config).Names()) {
    SafetensorsWriter without = Tensors(config);
    without.Remove(name);
    ExpectInvalid(Load(config, without).status(), name);
    SafetensorsWriter misshapen = Tensors(config);
    misshapen.AddF32(name, {3, 5}, std::vector<float>(15));
    ExpectInvalid(Load(config, misshapen).status(), name);
  }
}

TEST_F(Colt5WeightsTest, RefusesLayersThatTheConfigDoesNotCount) {
  Colt5Config config = TinyConfig();
  const SafetensorsWriter writer = Tensors(config);
  config.num_layers = 1;
  ExpectInvalid(Load(config, writer).status(), "num_layers 1");
  config = TinyConfig();
  config.decoder_layers = 0;
  ExpectInvalid(Load(config, writer).status(), "decoder_layers 0");
}

TEST_F(Colt5WeightsTest, NamesTensorsThatAreNotFinite) {
  const Colt5Config config = TinyConfig();
  const std::string name = "decoder.layers.1.cross_attention.key.weight";
  SafetensorsWriter writer = Tensors(config);
  std::vector<float> values = writer.F32(name);
  values[77] = NAN;
  writer.AddF32(name, {16, 32}, values);
  ExpectInvalid(Load(config, writer).status(), name);
  ExpectInvalid(Load(config, writer).status(), "element 77");
  EXPECT_TRUE(Load(config, writer, /*check_finite=*/false).ok());
}

TEST_F(Colt5WeightsTest, RevisionTellsModelsApart) {
  Colt5Config config = TinyConfig();
  const SafetensorsWriter writer = Tensors(config);
  const std::string first = Load(config, writer)->revision;
  EXPECT_EQ(Load(config, writer)->revision, first);
  config.kv_rate = 0.5;
  EXPECT_NE(Load(config, writer)->revision, first);
  SafetensorsWriter changed = Tensors(TinyConfig());
  std::vector<float> values = changed.F32("encoder.final_norm.weight");
  values[0] += 1;
  changed.AddF32("encoder.final_norm.weight", {32}, values);
  EXPECT_NE(Load(TinyConfig(), changed)->revision, first);
}

// Names and shapes that PyTorch gave its parameters.
TEST_F(Colt5WeightsTest, OpensTheGoldenModels) {
  for (const std::string& name : testing::GoldenColt5Names()) {
    const std::string dir = absl::StrCat(dir_, "/", name);
    std::filesystem::create_directory(dir);
    testing::WriteGoldenColt5(name, dir);
    const auto model = LoadColt5Checkpoint(dir);
    ASSERT_TRUE(model.ok()) << name << ": " << model.status();
    int64_t parameters = 0;
    for (const std::string& tensor : model->checkpoint->Names()) {
      int64_t count = 1;
      for (int64_t dim : model->checkpoint->Find(tensor)->shape) count *= dim;
      parameters += count;
    }
    EXPECT_EQ(parameters, NumParameters(model->config)) << name;
  }
}

TEST_F(Colt5WeightsTest, SaysWhatIsMissing) {
  EXPECT_EQ(LoadColt5Checkpoint(dir_).status().code(), absl::StatusCode::kNotFound);
  testing::WriteFileOrDie(dir_ + "/config.json", ConfigJson(TinyConfig()));
  EXPECT_EQ(LoadColt5Checkpoint(dir_).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace longdoc
