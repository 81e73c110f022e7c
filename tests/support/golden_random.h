// The pseudo-random numbers of tests/golden/make_encoder_goldens.py: FNV-1a of a name, then
// SplitMix64 of a counter. Written out again on purpose: a test must not share them with the code
// under test.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longdoc::testing {

// (base + amplitude·u) / 1024, u uniform in [-1, 1) on a grid of 2^-23; rounded once.
std::vector<float> GoldenUniform(const std::string& name, int64_t count, int64_t base,
                                 int64_t amplitude);

// The document of `length` ids of the stream `name`: [CLS] and [SEP] (101, 102) at its ends from
// two tokens on.
std::vector<int32_t> GoldenIds(const std::string& name, int64_t length, int64_t vocab_size);

}  // namespace longdoc::testing
