// Headers nobody should trust: each must be refused with INVALID_ARGUMENT and the reason.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/safetensors.h"

namespace longdoc {
namespace {

using ::testing::HasSubstr;

std::string Tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}

TEST(SafetensorsHeader, ReadsWhatTheFormatAllows) {
  const std::string json = absl::StrCat(
      "{\"__metadata__\":{\"format\":\"pt\"},", Tensor("b", "BF16", "[2,3]", "[8,20]"), ",",
      Tensor("a", "F32", "[2]", "[0,8]"), ",", Tensor("empty", "F16", "[0,7]", "[20,20]"), ",",
      Tensor("scalar", "I64", "[]", "[20,28]"), "}    ");
  const auto tensors = ParseSafetensorsHeader(json, 28);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  const TensorEntry& b = tensors->at("b");
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_EQ(b.dtype_name, "BF16");
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.begin, 8);
  EXPECT_EQ(b.end, 20);
  EXPECT_EQ(tensors->at("scalar").dtype_name, "I64");
  EXPECT_TRUE(tensors->at("scalar").shape.empty());
}

TEST(SafetensorsHeader, ListsEveryTypeOfTheFormat) {
  const std::pair<const char*, int> types[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  for (const auto& [name, bytes] : types) {
    const std::string offsets = absl::StrCat("[0,", 3 * bytes, "]");
    const std::string json = absl::StrCat("{", Tensor("t", name, "[3]", offsets), "}");
    EXPECT_TRUE(ParseSafetensorsHeader(json, 3 * bytes).ok()) << name;
    EXPECT_FALSE(ParseSafetensorsHeader(json, 3 * bytes + 1).ok()) << name;
  }
}

struct Hostile {
  const char* what;
  std::string json;
  const char* reason;  // part of the message
};

// Every case is parsed against a data section of 8 bytes.
std::vector<Hostile> HostileHeaders() {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return absl::StrCat("{", Tensor("t", dtype, shape, offsets), "}");
  };
  return {
      {"empty", "", "begin"},
      {"blank", "   ", "begin"},
      {"leading space", " {}", "begin"},
      {"array", "[]", "begin"},
      {"no tensors", "{}", "cover 0 bytes"},
      {"cut off", "{\"t\":{\"dtype\":\"F32\"", "JSON"},
      {"text after", one("F32", "[2]", "[0,8]") + "x", "JSON"},
      {"second document", one("F32", "[2]", "[0,8]") + "{}", "JSON"},
      {"single quotes", "{'t':{}}", "JSON"},
      {"comment", "{/* */}", "JSON"},
      {"not UTF-8 name", "{\"\xff\xfe\":{}}", "JSON"},
      {"NUL byte", std::string("{\"t\0\":{}}", 10), "JSON"},
      {"number as tensor", "{\"t\":5}", "unexpected a number"},
      {"string as tensor", "{\"t\":\"F32\"}", "unexpected a string"},
      {"null as tensor", "{\"t\":null}", "unexpected null"},
      {"array as tensor", "{\"t\":[]}", "unexpected an array"},
      {"empty tensor", "{\"t\":{}}", "no dtype"},
      {"no shape", "{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "no shape"},
      {"no offsets", "{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", "data_offsets"},
      {"unknown field", "{\"t\":{\"dtype\":\"F32\",\"stride\":[1]}}", "unknown field"},
      {"unknown dtype", one("F33", "[2]", "[0,8]"), "unknown dtype"},
      {"lower-case dtype", one("f32", "[2]", "[0,8]"), "unknown dtype"},
      {"dtype number", "{\"t\":{\"dtype\":32}}", "unexpected a number"},
      {"shape string", "{\"t\":{\"shape\":\"[2]\"}}", "unexpected a string"},
      {"shape object", "{\"t\":{\"shape\":{}}}", "unexpected an object"},
      {"shape nested", one("F32", "[[2]]", "[0,8]"), "nested deeper"},
      {"shape fraction", one("F32", "[2.0]", "[0,8]"), "fraction"},
      {"shape exponent", one("F32", "[2e0]", "[0,8]"), "fraction"},
      {"shape negative", one("F32", "[-2]", "[0,8]"), "negative"},
      {"shape two negatives", one("F32", "[-1,-2]", "[0,8]"), "negative"},
      {"shape null", one("F32", "[null]", "[0,8]"), "null"},
      {"shape over int64", one("U8", "[9223372036854775808]", "[0,8]"), "over the limit"},
      {"shape over uint64", one("U8", "[18446744073709551624]", "[0,8]"), "fraction"},
      {"shape product wraps to 8", one("F32", "[2,4611686018427387905]", "[0,8]"), "over 2^63"},
      {"shape product wraps to 0", one("F32", "[4294967296,4294967296]", "[0,0]"), "over 2^63"},
      {"17 dimensions", one("F32", "[2,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,8]"), "more than 16"},
      {"shape too small", one("F32", "[1]", "[0,8]"), "needs 4 bytes"},
      {"shape too large", one("F32", "[3]", "[0,8]"), "needs 12 bytes"},
      {"offsets reversed", one("F32", "[2]", "[8,0]"), "outside"},
      {"offsets beyond the data", one("F32", "[4]", "[0,16]"), "outside"},
      {"offsets negative", one("F32", "[2]", "[-8,0]"), "negative"},
      {"offsets huge", one("F32", "[2]", "[9223372036854775800,9223372036854775807]"), "outside"},
      {"offsets over int64", one("F32", "[2]", "[0,18446744073709551615]"), "over the limit"},
      {"one offset", one("F32", "[2]", "[0]"), "two data_offsets"},
      {"three offsets", one("F32", "[2]", "[0,8,8]"), "more than 2"},
      {"bytes left over", one("F32", "[1]", "[0,4]"), "cover 4 bytes"},
      {"gap in front", one("F32", "[1]", "[4,8]"), "after the end"},
      {"overlap",
       absl::StrCat("{", Tensor("a", "F32", "[2]", "[0,8]"), ",",
                    Tensor("b", "F32", "[1]", "[4,8]"), "}"),
       "before the end"},
      {"same bytes twice",
       absl::StrCat("{", Tensor("a", "F32", "[2]", "[0,8]"), ",",
                    Tensor("b", "F32", "[2]", "[0,8]"), "}"),
       "before the end"},
      {"name twice",
       absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,4]"), ",",
                    Tensor("a", "F32", "[1]", "[4,8]"), "}"),
       "twice"},
      {"field twice", "{\"t\":{\"dtype\":\"F32\",\"dtype\":\"F16\"}}", "twice"},
      {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", "twice"},
      {"metadata number", "{\"__metadata__\":{\"a\":1}}", "unexpected a number"},
      {"metadata object", "{\"__metadata__\":{\"a\":{}}}", "unexpected an object"},
      {"metadata array", "{\"__metadata__\":{\"a\":[]}}", "unexpected an array"},
      {"metadata string", "{\"__metadata__\":\"pt\"}", "unexpected a string"},
  };
}

TEST(SafetensorsHeader, RefusesHostileOnes) {
  for (const Hostile& hostile : HostileHeaders()) {
    const auto tensors = ParseSafetensorsHeader(hostile.json, 8);
    ASSERT_FALSE(tensors.ok()) << hostile.what;
    EXPECT_EQ(tensors.status().code(), absl::StatusCode::kInvalidArgument) << hostile.what;
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr(hostile.reason)) << hostile.what;
    EXPECT_LT(tensors.status().message().size(), 500u) << hostile.what;
  }
}

TEST(SafetensorsHeader, MillionsOfOpenBracketsCostNothing) {
  const auto status =
      ParseSafetensorsHeader("{\"t\":{\"shape\":" + std::string(10'000'000, '['), 8).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("nested deeper"));
}

TEST(SafetensorsHeader, LimitsTheHeaderAndQuotesLongNamesInPart) {
  std::string big(100'000'001, ' ');
  big[0] = '{';
  EXPECT_THAT(std::string(ParseSafetensorsHeader(big, 0).status().message()),
              HasSubstr("limit is 100000000"));
  const std::string name(1'000'000, 'n');
  const auto status = ParseSafetensorsHeader("{\"" + name + "\":{}}", 0).status();
  EXPECT_LT(status.message().size(), 300u);
}

TEST(SafetensorsHeader, LimitsTheNumberOfTensors) {
  std::string json = "{";
  for (int i = 0; i <= 1'000'000; ++i) {
    absl::StrAppend(&json, i == 0 ? "" : ",", "\"", i,
                    "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}");
  }
  json += "}";
  const auto tensors = ParseSafetensorsHeader(json, 0);
  EXPECT_EQ(tensors.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tensors.status().message()), HasSubstr("1000000 tensors"));
}

}  // namespace
}  // namespace longdoc
