// What a caller asks of an encode, independent of how it travelled here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

enum class AttentionMode {
  kTolerance,  // skip tiles that move the output by at most 2·epsilon·max‖v‖ (default)
  kExact,      // skip only tiles that change no bit
  kWindow,     // |i−j| <= radius, plus global tokens
  kDense,      // skip nothing; for measurements
};

struct AttentionPolicy {
  AttentionMode mode = AttentionMode::kTolerance;
  float epsilon = 1e-4f;
  int64_t window_radius = 0;
  int64_t num_global = 0;
  bool operator==(const AttentionPolicy&) const = default;
};

// One granularity of passages.
struct PassageSpec {
  enum class Kind {
    kTokens,      // runs of `size` tokens (the last one shorter)
    kSentences,   // groups of `size` sentences
    kByteRanges,  // `ranges`, in the document's bytes; may overlap, need not cover
    kBreaks,      // between the marks that the client put into the stream (and the ends)
  };
  Kind kind = Kind::kTokens;
  int64_t size = 256;
  std::vector<ByteRange> ranges;
};

enum class Overflow { kError, kTruncateEnd, kTruncateStart };

struct TokenSpan {
  int64_t begin = 0, end = 0;
  bool operator==(const TokenSpan&) const = default;
};

// A passage as it is pooled: a run of tokens of the sequence (special tokens included: [CLS]
// belongs to the first passage of a granularity and [SEP] to its last when they touch the
// document's ends).
struct Passage {
  int32_t granularity = 0;  // index into the request's PassageSpecs
  int32_t index = 0;        // within the granularity
  TokenSpan tokens;         // positions in the encoded sequence
  ByteRange bytes;          // of the original text
};

enum class VectorEncoding { kFloat32, kFloat16, kInt8, kBinary };

struct VectorOptions {
  int32_t dimensions = 0;  // 0: all; else the first ones (Matryoshka)
  bool normalize = true;   // to unit L2 norm, after truncation
  VectorEncoding encoding = VectorEncoding::kFloat32;
};

}  // namespace longdoc
