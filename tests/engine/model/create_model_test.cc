#include "engine/model/create_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/model/calibration.h"
#include "engine/model/colt5_weights.h"
#include "engine/model/encoder_weights.h"
#include "engine/model/model_files.h"
#include "engine/model/plain_colt5.h"
#include "engine/model/plain_encoder.h"
#include "engine/text/tokenizer.h"
#include "tests/support/golden_model.h"
#include "tests/support/safetensors_writer.h"

namespace longdoc {
namespace {

using ::testing::HasSubstr;
using testing::ReadFileOrDie;

const char* const kFiles[] = {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt",
                              "tokenizer_config.json"};

// About 20 sentences of everyday English, so that the test needs no file beside it.
std::string Prose() {
  return "The harbour lay quiet in the first light, and the boats had not yet gone out. An old man "
         "sat on the wall mending a net that had been mended many times before. He worked without "
         "looking at his hands. A girl came down the steps with a basket of bread and asked him "
         "whether the wind would turn. He said that it would, though not before noon, and that the "
         "fish knew it better than he did. She laughed and gave him a loaf. Behind them the town "
         "was waking: shutters were opened, a dog barked, somebody swept the yard of the inn. The "
         "bell of the chapel struck six. Nobody hurried. When the sun stood over the hill the "
         "water turned from grey to green, and the first of the boats, a small one with a patched "
         "brown sail, moved slowly away from the quay. Its owner had quarrelled with his brother "
         "the night before and wanted to be alone. He steered by the white rock, as his father had "
         "taught him, then straight out until the houses were no larger than shells. There he let "
         "the sail down and waited. For an hour nothing happened. Gulls sat on the water and rose "
         "again. He thought about the roof that had to be mended, about the price of rope, about "
         "the letter that lay unopened on the table. At last the line grew taut. He pulled, gave "
         "way, pulled again, and felt that whatever hung there was heavier than any fish he had "
         "caught this year. It might have been a log, or a piece of one of the ships that had gone "
         "down in the great storm. He did not want to cut the line. So he made it fast and sat "
         "down, and the boat began, against the wind, to move.";
}

// Letters and common pieces: enough vocabulary for any English text.
std::string SmallVocabulary() {
  std::string vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
  for (char c = 'a'; c <= 'z'; ++c) absl::StrAppend(&vocab, std::string(1, c), "\n");
  for (char c = 'a'; c <= 'z'; ++c) absl::StrAppend(&vocab, "##", std::string(1, c), "\n");
  for (const char* word :
       {"the", "of",    "to",     "and",  "or", "in", "for", "that", "this", "any",
        "you", "##ing", "##tion", "##ed", ".",  ",",  "(",   ")",    "\"",   "-"}) {
    absl::StrAppend(&vocab, word, "\n");
  }
  return vocab;
}

// Two halves of a text are different texts of the same kind.
std::string Half(const std::string& text, int half) {
  const size_t middle = text.find(' ', text.size() / 2);
  return half == 0 ? text.substr(0, middle) : text.substr(middle);
}

CreateModelOptions TinyOptions(const std::string& preset) {
  CreateModelOptions options;
  options.config = *PresetConfig(preset);
  // As small as the vocabulary.
  std::visit([](auto& config) { config.vocab_size = 0; }, options.config);
  options.calibration_text = Half(Prose(), 0);
  options.vocab_txt = SmallVocabulary();
  return options;
}

class CreateModelTest : public ::testing::Test {
 protected:
  CreateModelTest() : root_(testing::MakeTempDir("create")) {}
  ~CreateModelTest() override { std::filesystem::remove_all(root_); }
  std::string Dir(const std::string& name) const { return absl::StrCat(root_, "/", name); }
  std::string root_;
};

TEST_F(CreateModelTest, WritesAModelThatLoads) {
  for (const char* preset : {"tiny", "tiny-b"}) {
    ASSERT_TRUE(CreateModel(Dir(preset), TinyOptions(preset)).ok());
    for (const char* file : kFiles) {
      EXPECT_TRUE(std::filesystem::exists(Dir(preset) + "/" + file)) << file;
    }
    const auto model = LoadEncoderCheckpoint(Dir(preset));
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->config.family, std::get<EncoderConfig>(*PresetConfig(preset)).family);
    EXPECT_EQ(model->config.vocab_size % 16, 0);
    int64_t parameters = 0;
    for (const std::string& name : model->checkpoint->Names()) {
      int64_t count = 1;
      for (int64_t dim : model->checkpoint->Find(name)->shape) count *= dim;
      parameters += count;
    }
    EXPECT_EQ(parameters, NumParameters(model->config));
    // Nothing half-written stays behind.
    for (const auto& entry : std::filesystem::directory_iterator(Dir(preset))) {
      EXPECT_NE(entry.path().extension(), ".tmp");
    }
  }
}

TEST_F(CreateModelTest, IsDeterministicInSeedAndOptions) {
  CreateModelOptions options = TinyOptions("tiny");
  ASSERT_TRUE(CreateModel(Dir("a"), options).ok());
  ASSERT_TRUE(CreateModel(Dir("b"), options).ok());
  for (const char* file : kFiles) {
    EXPECT_EQ(ReadFileOrDie(Dir("a") + "/" + file), ReadFileOrDie(Dir("b") + "/" + file)) << file;
  }
  options.seed = 2;
  ASSERT_TRUE(CreateModel(Dir("c"), options).ok());
  EXPECT_NE(ReadFileOrDie(Dir("a") + "/model.safetensors"),
            ReadFileOrDie(Dir("c") + "/model.safetensors"));
  EXPECT_NE(LoadEncoderCheckpoint(Dir("a"))->revision, LoadEncoderCheckpoint(Dir("c"))->revision);
}

// The bits themselves: another machine, compiler or C library must make the same model.
TEST_F(CreateModelTest, MakesTheSameBitsEverywhere) {
  ASSERT_TRUE(CreateModel(Dir("a"), TinyOptions("tiny")).ok());
  EXPECT_EQ(Fnv1a(ReadFileOrDie(Dir("a") + "/model.safetensors")), 13330996360283279439u);
  ASSERT_TRUE(CreateModel(Dir("b"), TinyOptions("tiny-b")).ok());
  EXPECT_EQ(Fnv1a(ReadFileOrDie(Dir("b") + "/model.safetensors")), 3969661738162704443u);
}

TEST_F(CreateModelTest, BothTokenizerFilesAgree) {
  ASSERT_TRUE(CreateModel(Dir("m"), TinyOptions("tiny")).ok());
  const auto from_json = ParseTokenizerJson(ReadFileOrDie(Dir("m") + "/tokenizer.json"));
  const auto from_vocab = ParseVocabTxt(ReadFileOrDie(Dir("m") + "/vocab.txt"));
  ASSERT_TRUE(from_json.ok()) << from_json.status();
  ASSERT_TRUE(from_vocab.ok()) << from_vocab.status();
  const auto a = (*from_json)->Encode(Prose(), true), b = (*from_vocab)->Encode(Prose(), true);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_GT(a->ids.size(), 500u);
  EXPECT_EQ(a->ids, b->ids);
}

// The bound holds exactly on the calibration text, and nearly so on another one.
TEST_F(CreateModelTest, LogitsReachTheBound) {
  for (const char* preset : {"tiny", "tiny-b"}) {
    const CreateModelOptions options = TinyOptions(preset);
    ASSERT_TRUE(CreateModel(Dir(preset), options).ok());
    const auto model = LoadEncoderCheckpoint(Dir(preset));
    ASSERT_TRUE(model.ok()) << model.status();
    const auto tokenizer = LoadTokenizer(Dir(preset));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto calibration = CalibrationIds(**tokenizer, options.calibration_text, 512);
    for (const auto& layer : MeasureLogitBounds(model->config, model->weights, *calibration)) {
      for (double bound : layer) EXPECT_NEAR(bound, 20, 0.01);
    }
    const auto other = CalibrationIds(**tokenizer, Half(Prose(), 1), 512);
    for (const auto& layer : MeasureLogitBounds(model->config, model->weights, *other)) {
      double log_sum = 0;
      for (double bound : layer) {
        log_sum += std::log(bound);
        EXPECT_NEAR(bound, 20, 7);  // one head: the largest of few norms in 16 dimensions
      }
      EXPECT_NEAR(std::exp(log_sum / static_cast<double>(layer.size())), 20, 2);
    }
  }
}

TEST_F(CreateModelTest, WithoutABoundNeedsNoText) {
  CreateModelOptions options = TinyOptions("tiny");
  options.logit_bound = 0;
  options.calibration_text.clear();
  ASSERT_TRUE(CreateModel(Dir("plain"), options).ok());
  const auto model = LoadEncoderCheckpoint(Dir("plain"));
  const auto tokenizer = LoadTokenizer(Dir("plain"));
  const auto ids = CalibrationIds(**tokenizer, Prose(), 512);
  for (const auto& layer : MeasureLogitBounds(model->config, model->weights, *ids)) {
    for (double bound : layer) EXPECT_GT(std::abs(bound - 20), 1);
  }
}

TEST_F(CreateModelTest, WritesARerankerThatLoads) {
  CreateModelOptions options = TinyOptions("reranker-tiny");
  options.merges_txt = "h e\nt he\n\u0120 the\n\u0120 a\n";
  ASSERT_TRUE(CreateModel(Dir("m"), options).ok());
  const auto model = LoadEncoderCheckpoint(Dir("m"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->config.num_labels, 1);
  EXPECT_EQ(model->config.pad_token_id, 1);
  EXPECT_EQ(model->config.vocab_size, 272);  // 5 + 256 + 4, rounded up
  EXPECT_NE(model->weights.head.classifier.data, nullptr);
  EXPECT_TRUE(model->checkpoint->Has("bert.pooler.dense.weight"));
  EXPECT_FALSE(model->checkpoint->Has("pooler.dense.weight"));
  int64_t parameters = 0;
  for (const std::string& name : model->checkpoint->Names()) {
    int64_t count = 1;
    for (int64_t dim : model->checkpoint->Find(name)->shape) count *= dim;
    parameters += count;
  }
  EXPECT_EQ(parameters, NumParameters(model->config));

  const auto tokenizer = LoadTokenizer(Dir("m"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto from_merges = ParseVocabMerges(ReadFileOrDie(Dir("m") + "/vocab.json"),
                                            ReadFileOrDie(Dir("m") + "/merges.txt"));
  ASSERT_TRUE(from_merges.ok()) << from_merges.status();
  const std::string text = "the theatre <mask> of the \u00e9t\u00e9 a</s>";
  const auto a = (*tokenizer)->Encode(text, true), b = (*from_merges)->Encode(text, true);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ((*tokenizer)->TokenText(a->ids[1]), "the");
  EXPECT_EQ(a->ids, b->ids);
  EXPECT_EQ(a->bytes, b->bytes);
  EXPECT_EQ((*tokenizer)->pair().middle, std::vector<int32_t>({2, 2}));
}

TEST_F(CreateModelTest, BadMergesAreNamed) {
  CreateModelOptions options = TinyOptions("reranker-tiny");
  for (const char* merges : {"h e\nthe", "h e\nhe r e", "h e\nhe xy", "h e\n e"}) {
    options.merges_txt = merges;
    const absl::Status status = CreateModel(Dir("bad"), options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << merges;
    EXPECT_THAT(std::string(status.message()), HasSubstr("merges, line 2"));
  }
  EXPECT_FALSE(std::filesystem::exists(Dir("bad")));
}

TEST_F(CreateModelTest, WritesALongdocColt5ThatLoads) {
  ASSERT_TRUE(CreateModel(Dir("m"), TinyOptions("colt5-tiny")).ok());
  for (const char* file : kFiles) EXPECT_TRUE(std::filesystem::exists(Dir("m") + "/" + file));
  const auto model = LoadColt5Checkpoint(Dir("m"));
  ASSERT_TRUE(model.ok()) << model.status();
  auto want = std::get<Colt5Config>(*PresetConfig("colt5-tiny"));
  want.vocab_size = model->config.vocab_size;
  EXPECT_EQ(ConfigJson(model->config), ConfigJson(want));
  EXPECT_EQ(model->config.vocab_size % 16, 0);
  EXPECT_EQ(model->config.heavy_slopes.back(), 0);
  // The same bits on every machine.
  EXPECT_EQ(Fnv1a(ReadFileOrDie(Dir("m") + "/model.safetensors")), 642892431537454057u);
}

void ExpectBounds(const std::vector<std::vector<double>>& layers, size_t heads, double tolerance) {
  ASSERT_EQ(layers.size(), 2u);
  for (const std::vector<double>& layer : layers) {
    EXPECT_EQ(layer.size(), heads);
    for (double bound : layer) EXPECT_NEAR(bound, 20, tolerance);
  }
}

// Bounds of every attention, and the spread of every router, hold on the calibration text, and
// nearly so on another one.
TEST_F(CreateModelTest, LongdocColt5IsCalibratedThroughout) {
  const CreateModelOptions options = TinyOptions("colt5-tiny");
  ASSERT_TRUE(CreateModel(Dir("m"), options).ok());
  const auto model = LoadColt5Checkpoint(Dir("m"));
  ASSERT_TRUE(model.ok()) << model.status();
  const auto tokenizer = LoadTokenizer(Dir("m"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const int half : {0, 1}) {
    const auto ids = CalibrationIds(**tokenizer, Half(Prose(), half), 512);
    const Colt5Spread spread = MeasureSpread(model->config, model->weights, *ids);
    const double tolerance = half == 0 ? 0.01 : 10;
    ExpectBounds(spread.light, 1, tolerance);
    // Its largest norms are those of few tokens, and of those that the router likes most.
    ExpectBounds(spread.heavy, 3, half == 0 ? 0.01 : 18);
    ExpectBounds(spread.self_attention, 4, tolerance);
    ExpectBounds(spread.cross_attention, 4, tolerance);
    ASSERT_EQ(spread.routers.size(), 2u);
    for (const std::vector<double>& layer : spread.routers) {
      ASSERT_EQ(layer.size(), 3u);
      for (double deviation : layer) EXPECT_NEAR(deviation, 1, half == 0 ? 1e-4 : 0.3);
    }
  }
}

// Deep models must not drown their input, nor let it vanish.
TEST_F(CreateModelTest, LongdocColt5KeepsItsActivationsOfOrderOne) {
  CreateModelOptions options = TinyOptions("colt5-tiny");
  auto& config = std::get<Colt5Config>(options.config);
  config.num_layers = 12;
  ASSERT_TRUE(CreateModel(Dir("m"), options).ok());
  const auto model = LoadColt5Checkpoint(Dir("m"));
  ASSERT_TRUE(model.ok()) << model.status();
  const auto tokenizer = LoadTokenizer(Dir("m"));
  const auto ids = CalibrationIds(**tokenizer, Half(Prose(), 1), 512);
  PlainColt5Encoder encoder(model->config, model->weights, *ids);
  for (int64_t l = 0; l < 12; ++l) {
    encoder.RunLayer(l);
    double squares = 0;
    for (float x : encoder.hidden()) squares += static_cast<double>(x) * x;
    const double rms = std::sqrt(squares / static_cast<double>(encoder.hidden().size()));
    EXPECT_GT(rms, 0.9) << l;
    EXPECT_LT(rms, 2.5) << l;
  }
}

// Mean-pooled vectors of different passages must differ, or every similarity would be one.
TEST_F(CreateModelTest, PassagesDiffer) {
  ASSERT_TRUE(CreateModel(Dir("m"), TinyOptions("tiny")).ok());
  const auto model = LoadEncoderCheckpoint(Dir("m"));
  const auto tokenizer = LoadTokenizer(Dir("m"));
  const auto ids = (*tokenizer)->Encode(Prose(), true);
  PlainEncoder encoder(model->config, model->weights, ids->ids);
  for (int64_t l = 0; l < model->config.num_layers; ++l) {
    encoder.ProjectLayer(l);
    encoder.FinishLayer(l);
  }
  const size_t c = 64, passage = 128;
  const auto mean = [&](size_t index) {
    std::vector<double> sum(c);
    for (size_t t = index * passage; t < (index + 1) * passage; ++t) {
      for (size_t i = 0; i < c; ++i) sum[i] += encoder.hidden()[t * c + i];
    }
    return sum;
  };
  const std::vector<double> a = mean(0), b = mean(3);
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < c; ++i) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  EXPECT_LT(ab / std::sqrt(aa * bb), 0.99);
}

TEST_F(CreateModelTest, RefusesToOverwrite) {
  ASSERT_TRUE(CreateModel(Dir("m"), TinyOptions("tiny")).ok());
  const std::string before = ReadFileOrDie(Dir("m") + "/model.safetensors");
  CreateModelOptions options = TinyOptions("tiny");
  options.seed = 9;
  EXPECT_EQ(CreateModel(Dir("m"), options).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReadFileOrDie(Dir("m") + "/model.safetensors"), before);
  std::filesystem::remove(Dir("m") + "/config.json");
  EXPECT_EQ(CreateModel(Dir("m"), options).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CreateModelTest, RefusesBadOptionsAndLeavesNothing) {
  const auto refused = [this](CreateModelOptions options, const std::string& part) {
    const absl::Status status = CreateModel(Dir("bad"), options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    EXPECT_FALSE(std::filesystem::exists(Dir("bad")));
  };
  CreateModelOptions options = TinyOptions("tiny");
  options.calibration_text = "two words";
  refused(options, "calibration text");
  options.calibration_text = "\xff" + Prose();
  refused(options, "UTF-8");
  for (double bound : {-1.0, 1e6, std::nan("")}) {
    options = TinyOptions("tiny");
    options.logit_bound = bound;
    refused(options, "logit_bound");
  }
  options = TinyOptions("tiny");
  std::get<EncoderConfig>(options.config).vocab_size = 16;
  refused(options, "vocab_size");
  options = TinyOptions("tiny");
  std::get<EncoderConfig>(options.config).num_heads = 3;
  refused(options, "num_attention_heads");
  options = TinyOptions("tiny");
  options.vocab_txt = "[PAD]\n[UNK]\na\nb\n";
  refused(options, "[CLS]");
}

TEST_F(CreateModelTest, SaysWhenItCannotWrite) {
  testing::WriteFileOrDie(Dir("file"), "x");
  EXPECT_EQ(CreateModel(Dir("file"), TinyOptions("tiny")).code(),
            absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace longdoc
