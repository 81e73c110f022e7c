// The reference itself, against numbers worked out by hand.
#include "kernels/reference/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace longdoc::kernels {
namespace {

// Two tokens, one head, D = 2 (the reference takes any D).
struct TwoTokens {
  std::vector<int64_t> cu{0, 2};
  std::vector<float> slopes{0.5f};
  std::vector<float> q{1, 0, 0, 2}, k{2, 0, 0, 1}, v{1, 10, 3, 30}, o = std::vector<float>(4);
  AttentionProblem p;
  TwoTokens() {
    p.num_sequences = 1;
    p.cu_seqlens = cu.data();
    p.num_heads = p.num_kv_heads = 1;
    p.head_dim = 2;
    p.scale = 0.5f;
    p.slopes = slopes.data();
  }
  void Run() { reference::Attention(p, q.data(), k.data(), v.data(), o.data()); }
};

TEST(ReferenceAttention, TwoTokensByHand) {
  TwoTokens t;
  t.Run();
  // Scores: row 0: 2·0.5 = 1 and 0 − 0.5; row 1: 0 − 0.5 and 2·0.5 = 1. Weight of the far key:
  // e^-1.5 / (1 + e^-1.5) = 0.182425524.
  EXPECT_NEAR(t.o[0], 1 + 2 * 0.182425524, 1e-6);
  EXPECT_NEAR(t.o[1], 10 + 20 * 0.182425524, 1e-5);
  EXPECT_NEAR(t.o[2], 3 - 2 * 0.182425524, 1e-6);
  EXPECT_NEAR(t.o[3], 30 - 20 * 0.182425524, 1e-5);
}

TEST(ReferenceAttention, MasksByHand) {
  TwoTokens causal;
  causal.p.mask.causal = true;
  causal.Run();
  EXPECT_EQ(causal.o[0], 1);
  EXPECT_EQ(causal.o[1], 10);
  EXPECT_NEAR(causal.o[2], 3 - 2 * 0.182425524, 1e-6);

  TwoTokens self;
  self.p.mask.window_radius = 0;
  self.Run();
  EXPECT_EQ(self.o, (std::vector<float>{1, 10, 3, 30}));

  TwoTokens global = self;
  global.p.cu_seqlens = global.cu.data();
  global.p.slopes = global.slopes.data();
  global.p.mask.num_global = 1;  // row 0 sees all; all see key 0
  global.Run();
  EXPECT_NEAR(global.o[0], 1 + 2 * 0.182425524, 1e-6);
  EXPECT_NEAR(global.o[2], 3 - 2 * 0.182425524, 1e-6);

  TwoTokens list;
  const int64_t offsets[] = {0, 0};  // one block row, nothing listed
  list.p.mask.block_tokens = 64;
  list.p.mask.block_row_offsets = offsets;
  list.Run();
  EXPECT_EQ(list.o, (std::vector<float>{0, 0, 0, 0}));
}

TEST(ReferenceAttention, SequencesAndGroupedHeads) {
  // Two sequences of one token each: every output is the value; heads 0,1 read kv head 0.
  const std::vector<int64_t> cu{0, 1, 2};
  const std::vector<float> slopes{1, 1, 1, 1}, q(2 * 4, 1.0f), k(2 * 2, 1.0f), v{5, 6, 7, 8};
  std::vector<float> o(8);
  AttentionProblem p;
  p.num_sequences = 2;
  p.cu_seqlens = cu.data();
  p.num_heads = 4;
  p.num_kv_heads = 2;
  p.head_dim = 1;
  p.scale = 1;
  p.slopes = slopes.data();
  reference::Attention(p, q.data(), k.data(), v.data(), o.data());
  EXPECT_EQ(o, (std::vector<float>{5, 5, 6, 6, 7, 7, 8, 8}));
}

TEST(ReferenceOps, ByHand) {
  const std::vector<float> a{1, 2, 3, 4}, w{1, 0, 0, 1, 1, 1}, bias{10, 20, 30};
  std::vector<float> c(6);
  reference::Gemm(2, 3, 2, a.data(), w.data(), bias.data(), c.data());
  EXPECT_EQ(c, (std::vector<float>{11, 22, 33, 13, 24, 37}));

  const std::vector<float> x{1, 3}, residual{0, 2}, gamma{2, 2}, beta{1, 1};
  std::vector<float> y(2);
  AddLayerNormArgs norm;  // 1 and 5: mean 3, variance 4
  norm.rows = 1;
  norm.dim = norm.a_stride = norm.out_stride = 2;
  norm.a = x.data();
  norm.residual = residual.data();
  norm.gamma = gamma.data();
  norm.beta = beta.data();
  norm.out = y.data();
  reference::AddLayerNorm(norm);
  EXPECT_EQ(y, (std::vector<float>{-1, 3}));

  const std::vector<float> gate{1, -2, 3, 0.5f};
  GatedGeluArgs gelu;
  gelu.rows = 1;
  gelu.dim = 2;
  gelu.in = gate.data();
  gelu.out = y.data();
  reference::GatedGelu(gelu);  // gelu(1) = 0.841344746, gelu(−2) = −0.045500264
  EXPECT_NEAR(y[0], 3 * 0.841344746, 1e-6);
  EXPECT_NEAR(y[1], 0.5 * -0.045500264, 1e-8);
  gelu.activate_second_half = true;
  reference::GatedGelu(gelu);  // gelu(3) = 2.995950307, gelu(0.5) = 0.345731231
  EXPECT_NEAR(y[0], 2.995950307, 1e-6);
  EXPECT_NEAR(y[1], -2 * 0.345731231, 1e-7);

  const std::vector<float> rows{1, 2, 3, 4, 5, 6};
  reference::MeanPool(rows.data(), 2, 1, 3, y.data());
  EXPECT_EQ(y, (std::vector<float>{4, 5}));
}

}  // namespace
}  // namespace longdoc::kernels
