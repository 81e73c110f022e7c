#include "service/response_frames.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace longdoc::service {
namespace {

constexpr int64_t kDim = 16;

struct Encoded {
  EncodeResult result;
  TokenizedDocument document;
};

Encoded Make(int64_t tokens, int64_t passages) {
  Encoded e;
  e.result.document.assign(kDim, 0.5f);
  for (int64_t i = 0; i < passages * kDim; ++i) e.result.passages.push_back(float(i % 97) - 40);
  auto all = std::make_shared<std::vector<float>>();
  for (int64_t i = 0; i < tokens * kDim; ++i) all->push_back(float(i % 89) - 30);
  e.result.token_vectors = all->data();
  e.result.token_owner = all;
  e.result.stats.tokens = tokens;
  for (int64_t i = 0; i < tokens; ++i)
    e.document.bytes.push_back({i * 1'000'000, i * 1'000'000 + 9});
  for (int64_t i = 0; i < passages; ++i) {
    e.document.passages.push_back(
        {15, static_cast<int32_t>(i), {i, i + 1}, {i * 1'000'000, i * 1'000'000 + 9}});
  }
  return e;
}

// Names of the frames: p, t, r with the number of vectors.
struct Sequence {
  std::string kinds;
  int64_t passages = 0, tokens = 0;
  size_t largest = 0;
};

Sequence BuildAll(ResponseFrames& frames) {
  Sequence out;
  v1::EmbedDocumentResponse response;
  bool last = false;
  while (!last) {
    last = frames.Next(&response);
    if (!last) out.largest = std::max(out.largest, response.ByteSizeLong());
    if (response.has_passages()) {
      out.kinds += 'p';
      out.passages += response.passages().passages_size();
    } else if (response.has_tokens()) {
      out.kinds += 't';
      EXPECT_EQ(response.tokens().first_token(), out.tokens);
      out.tokens += response.tokens().token_count();
    } else if (response.has_result()) {
      out.kinds += 'r';
    }
    EXPECT_EQ(last, response.has_result());
  }
  return out;
}

TEST(ResponseFrames, AreBoundedAndComplete) {
  for (const int64_t limit : {1, 400, 1000, 64 << 10}) {
    for (const VectorEncoding encoding : {VectorEncoding::kFloat32, VectorEncoding::kFloat16,
                                          VectorEncoding::kInt8, VectorEncoding::kBinary}) {
      Encoded e = Make(333, 100);
      DocumentOptions options;
      options.token_vectors = true;
      options.vector.encoding = encoding;
      ResponseFrames frames(std::move(e.result), std::move(e.document), options, kDim, limit, {});
      const Sequence sequence = BuildAll(frames);
      EXPECT_EQ(sequence.passages, 100);
      EXPECT_EQ(sequence.tokens, 333);
      // Passages, then tokens, then the result.
      EXPECT_EQ(sequence.kinds.find_first_not_of('p'), sequence.kinds.find('t'));
      EXPECT_EQ(sequence.kinds.find('r'), sequence.kinds.size() - 1);
      // One vector may be larger than an absurd limit; otherwise the limit holds.
      EXPECT_LE(sequence.largest, static_cast<size_t>(std::max<int64_t>(limit, 250))) << limit;
      if (limit == 64 << 10) {
        EXPECT_LE(sequence.kinds.size(), 3u) << "frames are filled";
      }
    }
  }
}

TEST(ResponseFrames, OnlyWhatWasAskedFor) {
  Encoded e = Make(5, 0);
  DocumentOptions options;
  options.document_vector = false;
  options.token_vectors = true;
  ResponseFrames frames(std::move(e.result), std::move(e.document), options, kDim, 1 << 20, {});
  v1::EmbedDocumentResponse response;
  EXPECT_FALSE(frames.Next(&response));
  EXPECT_TRUE(frames.Next(&response));
  EXPECT_FALSE(response.result().has_vector());
  EXPECT_EQ(response.result().passage_count(), 0);
}

TEST(ResponseFrames, VectorsAreNormalisedByDefault) {
  std::vector<float> in(kDim, 3.0f);
  v1::Vector out;
  FillVector(in, {}, &out);
  ASSERT_EQ(out.data().size(), kDim * sizeof(float));
  float first;
  std::memcpy(&first, out.data().data(), sizeof(first));
  EXPECT_FLOAT_EQ(first, 0.25f);  // 3 / (3 · √16)
  EXPECT_EQ(out.dimensions(), kDim);
  EXPECT_EQ(out.scale(), 1);
}

TEST(ResponseFrames, TileFractionOfNothingIsOne) {
  v1::EncodeStats stats;
  FillEncodeStats({}, &stats);
  EXPECT_EQ(stats.tile_fraction(), 1);
  EncodeStats engine;
  engine.tiles_computed = 1;
  engine.tiles_dense = 4;
  FillEncodeStats(engine, &stats);
  EXPECT_EQ(stats.tile_fraction(), 0.25);
}

}  // namespace
}  // namespace longdoc::service
