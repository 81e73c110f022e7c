// Opening model directories, whole and broken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/model/create_model.h"
#include "engine/model/encoder_weights.h"
#include "engine/model/random_weights.h"
#include "tests/support/golden_model.h"
#include "tests/support/safetensors_writer.h"

namespace longdoc {
namespace {

using ::testing::HasSubstr;
using testing::SafetensorsBytes;
using testing::SafetensorsWriter;
using testing::WriteFileOrDie;

// A temporary directory with a small model of either variant in it, as tensors to play with.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : dir_(testing::MakeTempDir("checkpoint")) {}
  ~CheckpointTest() override { std::filesystem::remove_all(dir_); }

  static EncoderConfig TinyConfig(EncoderFamily family) {
    EncoderConfig config;
    config.family = family;
    config.vocab_size = 32;
    config.hidden_size = 32;
    config.num_layers = 2;
    config.num_heads = 2;
    config.intermediate_size = 48;
    return config;
  }

  SafetensorsWriter TinyTensors(EncoderFamily family, const std::string& prefix = "") const {
    SafetensorsWriter writer;
    for (const auto& [name, tensor] : MakeRandomWeights(TinyConfig(family), 1)) {
      writer.AddF32(prefix + name, tensor.shape, tensor.values);
    }
    return writer;
  }

  void WriteConfig() const {
    WriteFileOrDie(dir_ + "/config.json",
                   R"({"model_type":"bert","vocab_size":32,"hidden_size":32,"num_hidden_layers":2,
                       "num_attention_heads":2,"intermediate_size":48,
                       "position_embedding_type":"alibi","feed_forward_type":"geglu"})");
  }

  absl::StatusOr<EncoderCheckpoint> Load(const SafetensorsWriter& writer) const {
    WriteConfig();
    writer.WriteFile(dir_ + "/model.safetensors");
    return LoadEncoderCheckpoint(dir_);
  }

  absl::Status OpenBytes(const std::string& bytes) const {
    WriteFileOrDie(dir_ + "/model.safetensors", bytes);
    return Checkpoint::Open(dir_).status();
  }

  std::string dir_;
};

void ExpectInvalid(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST_F(CheckpointTest, LoadsBothVariantsByTheirTensorNames) {
  const auto a = Load(TinyTensors(EncoderFamily::kJinaBertA));
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(a->config.family, EncoderFamily::kJinaBertA);
  ASSERT_EQ(a->weights.layers.size(), 2u);
  EXPECT_EQ(a->weights.token_type.shape, (std::vector<int64_t>{32}));
  EXPECT_EQ(a->weights.layers[1].gated.shape, (std::vector<int64_t>{96, 32}));
  EXPECT_EQ(a->weights.layers[1].query_norm.gamma.data, nullptr);
  const auto b = Load(TinyTensors(EncoderFamily::kJinaBertB));
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(b->config.family, EncoderFamily::kJinaBertB);
  EXPECT_NE(b->weights.layers[1].query_norm.gamma.data, nullptr);
  EXPECT_NE(a->revision, b->revision);
}

TEST_F(CheckpointTest, ViewsHoldTheValuesOfTheFile) {
  const SafetensorsWriter writer = TinyTensors(EncoderFamily::kJinaBertA);
  const auto model = Load(writer);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<float> want = writer.F32("encoder.layer.1.mlp.wo.weight");
  const TensorView& got = model->weights.layers[1].down;
  ASSERT_EQ(got.bytes(), static_cast<int64_t>(want.size() * 4));
  EXPECT_EQ(std::memcmp(got.data, want.data(), want.size() * 4), 0);
  // Released pages come back from the file.
  model->checkpoint->Release("encoder.layer.1.mlp.wo.weight");
  EXPECT_EQ(std::memcmp(got.data, want.data(), want.size() * 4), 0);
}

TEST_F(CheckpointTest, AcceptsThePrefixAndIgnoresHeads) {
  SafetensorsWriter writer = TinyTensors(EncoderFamily::kJinaBertA, "bert.");
  writer.AddF32("bert.pooler.dense.weight", {32, 32}, std::vector<float>(1024, NAN));
  writer.AddF32("classifier.weight", {3, 32}, std::vector<float>(96));
  writer.AddF32("cls.predictions.bias", {32}, std::vector<float>(32));
  const auto model = Load(writer);
  ASSERT_TRUE(model.ok()) << model.status();
}

TEST_F(CheckpointTest, NamesMissingAndMisshapenTensors) {
  const std::vector<std::string> names = TinyTensors(EncoderFamily::kJinaBertB).Names();
  for (const std::string& name : names) {
    SafetensorsWriter without = TinyTensors(EncoderFamily::kJinaBertB);
    without.Remove(name);
    const auto status = Load(without).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    SafetensorsWriter misshapen = TinyTensors(EncoderFamily::kJinaBertB);
    misshapen.AddF32(name, {3, 5}, std::vector<float>(15));
    ExpectInvalid(Load(misshapen).status(), name);
  }
}

TEST_F(CheckpointTest, NamesTensorsThatAreNotFinite) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), -NAN,
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  for (float value : bad) {
    SafetensorsWriter writer = TinyTensors(EncoderFamily::kJinaBertA);
    std::vector<float> values = writer.F32("encoder.layer.1.attention.self.key.weight");
    values[777] = value;
    writer.AddF32("encoder.layer.1.attention.self.key.weight", {32, 32}, values);
    const auto status = Load(writer).status();
    ExpectInvalid(status, "encoder.layer.1.attention.self.key.weight");
    ExpectInvalid(status, "777");
    EXPECT_TRUE(LoadEncoderCheckpoint(dir_, /*check_finite=*/false).ok());
  }
  SafetensorsWriter writer = TinyTensors(EncoderFamily::kJinaBertA);
  writer.AddF32("embeddings.LayerNorm.bias", {32},
                std::vector<float>(32, std::numeric_limits<float>::max()));
  EXPECT_TRUE(Load(writer).ok());  // large is not infinite
}

TEST_F(CheckpointTest, ChecksHalfPrecisionToo) {
  const auto with_bits = [this](const std::string& dtype, uint16_t bits) {
    std::string bytes(64, '\0');
    std::memcpy(bytes.data() + 62, &bits, 2);
    SafetensorsWriter writer = TinyTensors(EncoderFamily::kJinaBertA);
    writer.AddRaw("embeddings.LayerNorm.bias", dtype, {32}, bytes);
    return Load(writer).status();
  };
  EXPECT_TRUE(with_bits("BF16", 0x7f7f).ok());
  EXPECT_TRUE(with_bits("F16", 0x7bff).ok());
  ExpectInvalid(with_bits("BF16", 0x7f80), "embeddings.LayerNorm.bias");
  ExpectInvalid(with_bits("BF16", 0xffc0), "element 31");
  ExpectInvalid(with_bits("F16", 0x7c00), "embeddings.LayerNorm.bias");
  ExpectInvalid(with_bits("F16", 0xfe00), "element 31");
}

TEST_F(CheckpointTest, RefusesTypesThatAreNoFloats) {
  SafetensorsWriter writer = TinyTensors(EncoderFamily::kJinaBertA);
  writer.AddRaw("embeddings.LayerNorm.bias", "I32", {32}, std::string(128, '\0'));
  writer.AddRaw("position_ids", "I64", {1, 4}, std::string(32, '\0'));
  ExpectInvalid(Load(writer).status(), "I32");
  const auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok());
  ASSERT_NE((*checkpoint)->Find("position_ids"), nullptr);
  EXPECT_EQ((*checkpoint)->Find("position_ids")->dtype_name, "I64");
  EXPECT_EQ((*checkpoint)->Find("nothing"), nullptr);
  ExpectInvalid((*checkpoint)->Get("position_ids", {1, 4}).status(), "I64");
  EXPECT_EQ((*checkpoint)->Get("nothing", {1}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, RefusesOtherArchitectures) {
  SafetensorsWriter more = TinyTensors(EncoderFamily::kJinaBertA);
  more.AddF32("encoder.layer.2.attention.self.query.weight", {32, 32}, std::vector<float>(1024));
  ExpectInvalid(Load(more).status(), "num_hidden_layers 2");

  SafetensorsWriter both = TinyTensors(EncoderFamily::kJinaBertA);
  both.AddF32("encoder.layer.0.mlp.up_gated_layer.weight", {1}, {0});
  ExpectInvalid(Load(both).status(), "both");

  SafetensorsWriter plain = TinyTensors(EncoderFamily::kJinaBertA);
  plain.Remove("encoder.layer.0.mlp.gated_layers.weight");
  ExpectInvalid(Load(plain).status(), "neither");
  plain.AddF32("encoder.layer.0.intermediate.dense.weight", {1}, {0});
  EXPECT_EQ(Load(plain).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(CheckpointTest, RevisionFollowsWeightsAndConfig) {
  const std::string first = Load(TinyTensors(EncoderFamily::kJinaBertA))->revision;
  EXPECT_EQ(Load(TinyTensors(EncoderFamily::kJinaBertA))->revision, first);
  SafetensorsWriter writer = TinyTensors(EncoderFamily::kJinaBertA);
  std::vector<float> values = writer.F32("encoder.layer.0.mlp.wo.bias");
  values[0] += 1;
  writer.AddF32("encoder.layer.0.mlp.wo.bias", {32}, values);
  EXPECT_NE(Load(writer)->revision, first);
  EXPECT_EQ(first.size(), 16u);
}

TEST_F(CheckpointTest, RefusesTruncatedFilesAtEveryLength) {
  WriteConfig();
  TinyTensors(EncoderFamily::kJinaBertA).WriteFile(dir_ + "/model.safetensors");
  const std::string whole = testing::ReadFileOrDie(dir_ + "/model.safetensors");
  size_t length = 0;
  while (length < whole.size()) {
    const absl::Status status = OpenBytes(whole.substr(0, length));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << length;
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors")) << length;
    length += length < 64 ? 1 : 997;
  }
  ExpectInvalid(OpenBytes(whole + "x"), "cover");
  EXPECT_TRUE(OpenBytes(whole).ok());
}

TEST_F(CheckpointTest, RefusesHostileHeaderLengths) {
  const auto with_length = [](uint64_t length) {
    std::string bytes = SafetensorsBytes("{}", "");
    std::memcpy(bytes.data(), &length, 8);
    return bytes;
  };
  EXPECT_TRUE(OpenBytes(with_length(2)).ok());
  ExpectInvalid(OpenBytes(with_length(0)), "begin");
  ExpectInvalid(OpenBytes(with_length(1)), "JSON");
  ExpectInvalid(OpenBytes(with_length(3)), "exceeds");
  ExpectInvalid(OpenBytes(with_length(100'000'001)), "limit");
  for (uint64_t length : {uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    ExpectInvalid(OpenBytes(with_length(length)), "limit");
  }
}

TEST_F(CheckpointTest, CopesWithUnalignedData) {
  // Data begin at byte 8 + 59: floats at odd addresses, as old writers left them.
  std::string header = R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  header.resize(59, ' ');
  const float values[2] = {1.5f, -2.5f};
  std::string data(8, '\0');
  std::memcpy(data.data(), values, 8);
  ASSERT_TRUE(OpenBytes(SafetensorsBytes(header, data)).ok());
  const auto checkpoint = Checkpoint::Open(dir_);
  const auto view = (*checkpoint)->Get("t", {2});
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % 4, 0u);
  EXPECT_EQ(static_cast<const float*>(view->data)[1], -2.5f);
  EXPECT_EQ((*checkpoint)->Get("t", {2})->data, view->data);  // one copy only
}

TEST_F(CheckpointTest, SaysWhatIsMissing) {
  EXPECT_EQ(Checkpoint::Open(dir_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Checkpoint::Open(dir_ + "/nowhere").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadEncoderCheckpoint(dir_).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_directory(dir_ + "/model.safetensors");
  ExpectInvalid(Checkpoint::Open(dir_).status(), "regular file");
}

class ShardedTest : public CheckpointTest {
 protected:
  // Writes variant A in two shards and the index `index`, or the right one when that is empty.
  absl::StatusOr<EncoderCheckpoint> LoadSharded(const std::string& index = "") {
    WriteConfig();
    SafetensorsWriter parts[2];
    std::string right = R"({"metadata":{"total_size":1,"note":["x",null]},"weight_map":{)";
    int count = 0;
    for (const auto& [name, tensor] : MakeRandomWeights(TinyConfig(EncoderFamily::kJinaBertA), 1)) {
      const int part = count % 2;
      parts[part].AddF32(name, tensor.shape, tensor.values);
      absl::StrAppend(&right, count == 0 ? "" : ",", "\"", name, "\":\"model-0000", part + 1,
                      "-of-00002.safetensors\"");
      ++count;
    }
    right += "}}";
    parts[0].WriteFile(dir_ + "/model-00001-of-00002.safetensors");
    parts[1].WriteFile(dir_ + "/model-00002-of-00002.safetensors");
    WriteFileOrDie(dir_ + "/model.safetensors.index.json", index.empty() ? right : index);
    return LoadEncoderCheckpoint(dir_);
  }
};

TEST_F(ShardedTest, LoadsLikeOneFile) {
  const auto sharded = LoadSharded();
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  std::string other = testing::MakeTempDir("single");
  std::swap(dir_, other);
  const auto single = Load(TinyTensors(EncoderFamily::kJinaBertA));
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_EQ(sharded->checkpoint->Names(), single->checkpoint->Names());
  const TensorView &a = sharded->weights.layers[1].gated, &b = single->weights.layers[1].gated;
  EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(b.bytes())), 0);
  std::filesystem::remove_all(other);
}

TEST_F(ShardedTest, RefusesBrokenIndexes) {
  const std::pair<std::string, const char*> cases[] = {
      {"{", "JSON"},
      {"[]", "object"},
      {"{}", "weight_map"},
      {R"({"weight_map":[]})", "array"},
      {R"({"weight_map":"x"})", "string"},
      {R"({"weight_map":{"a":5}})", "number"},
      {R"({"weight_map":{"a":null}})", "null"},
      {R"({"weight_map":{"a":{"b":"c"}}})", "object"},
      {R"({"weight_map":{"a":""}})", "plain file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "plain file name"},
      {R"({"weight_map":{"a":"../model.safetensors"}})", "plain file name"},
      {R"({"weight_map":{"a":".."}})", "plain file name"},
      {R"({"weight_map":{"a":"sub/model.safetensors"}})", "plain file name"},
      {R"({"weight_map":{"a":"a\\b"}})", "plain file name"},
      {R"({"weight_map":{"a":"x\u0000.safetensors"}})", "plain file name"},
      {R"({"weight_map":{"a":"missing.safetensors"}})", "missing.safetensors"},
      {R"({"weight_map":{"nothing":"model-00001-of-00002.safetensors"}})", "nothing"},
      {R"({"weight_map":{"a":"x","a":"x"}})", "twice"},
      {R"({"weight_map":{},"weight_map":{}})", "twice"},
      {R"({"weight_map":{"a":"config.json"}})", "config.json"},
  };
  for (const auto& [index, reason] : cases) {
    const auto status = LoadSharded(index).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << index << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason)) << index;
  }
}

TEST(MappedFile, EmptyFilesAndDirectories) {
  const std::string dir = testing::MakeTempDir("mapped");
  WriteFileOrDie(dir + "/empty", "");
  const auto empty = MappedFile::Open(dir + "/empty");
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->size(), 0);
  EXPECT_TRUE(empty->bytes().empty());
  empty->Release(0, 100);
  EXPECT_EQ(MappedFile::Open(dir).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(dir + "/none").status().code(), absl::StatusCode::kNotFound);
  WriteFileOrDie(dir + "/ten", "0123456789");
  EXPECT_EQ(ReadSmallFile(dir + "/ten", 10).value(), "0123456789");
  ExpectInvalid(ReadSmallFile(dir + "/ten", 9).status(), "limit is 9");
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace longdoc
