#include "engine/vector_output.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace longdoc {
namespace {

std::string Encode(const std::vector<float>& v, VectorOptions options, float* scale = nullptr) {
  std::string out;
  float s = 0;
  EncodeVector(v, options, &out, &s);
  if (scale != nullptr) *scale = s;
  return out;
}

float HalfValue(const std::string& bytes, size_t i) {
  uint16_t h;
  std::memcpy(&h, bytes.data() + 2 * i, 2);
  const int exponent = (h >> 10) & 31;
  const double mantissa = h & 1023;
  if (exponent == 31) {
    return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN()
                         : (h & 0x8000 ? -1 : 1) * std::numeric_limits<float>::infinity();
  }
  const double magnitude =
      exponent == 0 ? mantissa * 0x1p-24 : (1 + mantissa / 1024) * std::ldexp(1.0, exponent - 15);
  return static_cast<float>(h & 0x8000 ? -magnitude : magnitude);
}

TEST(VectorOutput, TruncatesBeforeItNormalises) {
  VectorOptions options;
  options.dimensions = 2;
  const std::string bytes = Encode({3, 4, 100, 100}, options);
  ASSERT_EQ(bytes.size(), 8u);
  float v[2];
  std::memcpy(v, bytes.data(), 8);
  EXPECT_FLOAT_EQ(v[0], 0.6f);
  EXPECT_FLOAT_EQ(v[1], 0.8f);
}

TEST(VectorOutput, RawKeepsTheBits) {
  VectorOptions options;
  options.normalize = false;
  const std::vector<float> in = {1.5f, -2.25f, 1e-30f, 0};
  const std::string bytes = Encode(in, options);
  EXPECT_EQ(std::memcmp(bytes.data(), in.data(), 16), 0);
}

TEST(VectorOutput, ZeroVectorStaysZero) {
  for (VectorEncoding e : {VectorEncoding::kFloat32, VectorEncoding::kFloat16,
                           VectorEncoding::kInt8, VectorEncoding::kBinary}) {
    VectorOptions options;
    options.encoding = e;
    float scale = 0;
    for (char c : Encode(std::vector<float>(8, 0.0f), options, &scale)) EXPECT_EQ(c, 0);
    EXPECT_EQ(scale, 1);
  }
}

TEST(VectorOutput, HalfRoundsToNearestEven) {
  VectorOptions options;
  options.normalize = false;
  options.encoding = VectorEncoding::kFloat16;
  const std::vector<float> in = {
      1.0f,     -2.5f,      65504.0f,        65519.0f,          65520.0f, 1e10f,       0x1p-24f,
      0x1p-25f, 0x1.8p-24f, 1.0f + 0x1p-11f, 1.0f + 0x1.8p-10f, 6.1e-5f,  0x1.ffcp-15f};
  const std::string bytes = Encode(in, options);
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> want = {
      1.0f, -2.5f,    65504.0f, 65504.0f,       inf,     inf,     0x1p-24f,
      0.0f, 0x1p-23f, 1.0f,     1.0f + 0x1p-9f, 6.1e-5f, 0x1p-14f};
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == 6.1e-5f) {
      EXPECT_NEAR(HalfValue(bytes, i), in[i], 0x1p-25);
    } else {
      EXPECT_EQ(HalfValue(bytes, i), want[i]) << in[i];
    }
  }
}

TEST(VectorOutput, Int8KeepsTheDirection) {
  VectorOptions options;
  options.encoding = VectorEncoding::kInt8;
  std::vector<float> in(512);
  for (size_t i = 0; i < in.size(); ++i) in[i] = std::sin(static_cast<float>(i * i));
  float scale = 0;
  const std::string bytes = Encode(in, options, &scale);
  ASSERT_EQ(bytes.size(), in.size());
  std::vector<float> unit(in.size());
  FinishVector(in, options, unit.data());
  double dot = 0, norm = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const double v = static_cast<int8_t>(bytes[i]) * scale;
    EXPECT_NEAR(v, unit[i], 0.51 * scale);
    dot += v * unit[i];
    norm += v * v;
  }
  EXPECT_GT(dot / std::sqrt(norm), 0.9999);
}

TEST(VectorOutput, BinaryPutsTheFirstDimensionIntoTheHighestBit) {
  VectorOptions options;
  options.encoding = VectorEncoding::kBinary;
  const std::string bytes = Encode({1, -1, 0, 2, -1, -1, -1, 3, -1, 1, 1, 1, 1, 1, 1, 1}, options);
  ASSERT_EQ(bytes.size(), 2u);
  EXPECT_EQ(static_cast<uint8_t>(bytes[0]), 0b10010001);
  EXPECT_EQ(static_cast<uint8_t>(bytes[1]), 0b01111111);
}

TEST(VectorOutput, ChecksOptions) {
  VectorOptions options;
  EXPECT_TRUE(CheckVectorOptions(options, 512).ok());
  options.dimensions = 513;
  EXPECT_FALSE(CheckVectorOptions(options, 512).ok());
  options.dimensions = -1;
  EXPECT_FALSE(CheckVectorOptions(options, 512).ok());
  options.dimensions = 100;
  EXPECT_TRUE(CheckVectorOptions(options, 512).ok());
  options.encoding = VectorEncoding::kBinary;
  EXPECT_FALSE(CheckVectorOptions(options, 512).ok());
}

}  // namespace
}  // namespace longdoc
