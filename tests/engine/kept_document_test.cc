#include "engine/kept_document.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace longdoc {
namespace {

class WideModel final : public Model {
 public:
  WideModel() { info_.dimensions = 64; }
  const std::string& name() const override { return name_; }
  const ModelInfo& info() const override { return info_; }
  const Tokenizer& tokenizer() const override { std::abort(); }
  const std::string& revision() const override { return name_; }
  ComputeType compute_type() const override { return ComputeType::kF32; }
  int64_t weight_bytes() const override { return 0; }

 private:
  ModelInfo info_;
  std::string name_ = "wide";
};

float FromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

EncodeResult Encoded(size_t tokens, size_t passages) {
  static MemoryPool& pool = *new MemoryPool(0);
  EncodeResult result;
  result.kept_token_vectors = *TokenVectors::Allocate(pool, static_cast<int64_t>(tokens), 64);
  result.document.assign(64, 0.5f);
  result.passages.resize(passages * 64);
  for (size_t i = 0; i < result.passages.size(); ++i) {
    result.passages[i] = static_cast<float>(std::sin(static_cast<double>(i)));
  }
  auto vectors = std::make_shared<std::vector<float>>(tokens * 64, 1.0f);
  result.token_vectors = vectors->data();
  result.token_owner = std::move(vectors);
  return result;
}

TEST(KeptDocument, TakesWhatWasPlanned) {
  const auto model = std::make_shared<WideModel>();
  for (const bool token_vectors : {false, true}) {
    for (const size_t id_size : {0, 3, 15, 16, 256}) {
      EncodeResult encoded = Encoded(100, 7);
      if (!token_vectors) encoded.kept_token_vectors = nullptr;
      std::vector<int32_t> ids;
      std::vector<Passage> passages;
      for (int i = 0; i < 100; ++i) ids.push_back(i);  // with room to grow
      for (int i = 0; i < 7; ++i) passages.push_back({});
      const KeptDocument document = KeepEncoded(model, std::move(ids), std::move(passages),
                                                std::string(id_size, 'd'), std::move(encoded));
      const int64_t planned =
          KeptBytesWithoutCrossKv(100, 7, 64, token_vectors, static_cast<int64_t>(id_size));
      EXPECT_LE(document.bytes(), planned);
      EXPECT_GE(document.bytes(), planned - 64) << "and little less";
    }
  }
}

TEST(KeptDocument, VectorsAreOfUnitLengthAndTheFp32OnesAreFreed) {
  EncodeResult encoded = Encoded(3, 2);
  const std::vector<float> passages = encoded.passages;
  std::weak_ptr<const void> owner = encoded.token_owner;
  const auto token_vectors = encoded.kept_token_vectors;
  const KeptDocument document =
      KeepEncoded(std::make_shared<WideModel>(), {1, 2, 3}, {{}, {}}, "", std::move(encoded));
  EXPECT_TRUE(owner.expired());
  EXPECT_EQ(document.token_vectors, token_vectors);
  EXPECT_EQ(document.vector, std::vector<float>(64, 0.5f));
  ASSERT_EQ(document.passage_vectors.size(), 128u);
  for (size_t p = 0; p < 2; ++p) {
    double norm = 0;
    for (size_t c = 0; c < 64; ++c) norm += std::pow(passages[p * 64 + c], 2);
    for (size_t c = 0; c < 64; ++c) {
      const double expected = passages[p * 64 + c] / std::sqrt(norm);
      // Rounded to the nearest: half of the last of 8 bits.
      EXPECT_NEAR(FromBf16(document.passage_vectors[p * 64 + c]), expected,
                  std::abs(expected) / 256 + 1e-9);
    }
  }
}

TEST(KeptDocument, ZerosStayAndWhatIsNotFiniteShows) {
  EncodeResult encoded = Encoded(1, 2);
  std::fill(encoded.passages.begin(), encoded.passages.begin() + 64, 0.0f);
  encoded.passages[100] = std::numeric_limits<float>::quiet_NaN();
  const KeptDocument document =
      KeepEncoded(std::make_shared<WideModel>(), {1}, {{}, {}}, "", std::move(encoded));
  for (size_t c = 0; c < 64; ++c) EXPECT_EQ(document.passage_vectors[c], 0);
  EXPECT_TRUE(std::isnan(FromBf16(document.passage_vectors[100])));
}

}  // namespace
}  // namespace longdoc
