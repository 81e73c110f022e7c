// Multi-query attention on the device against the reference: shapes, numbers, pages.
#include <limits>

#include "kernels/cuda/mqa_plan.h"
#include "tests/kernels/cuda/mqa_device.h"

namespace longdoc::kernels::cuda::parity {
namespace {

void ExpectParity(const MqaCase& c, uint32_t seed) {
  const MqaTensors t = MakeTensors(c, seed);
  if (!ExpectMqa(RunDevice(c, t), c, t)) {
    Failed(__FILE__, __LINE__, "rows %lld keys %lld dim %d fp16 %d causal %d",
           static_cast<long long>(c.rows), static_cast<long long>(c.keys), c.dim,
           c.storage == DType::kF16, c.causal);
  }
}

// ---- shapes --------------------------------------------------------------------------------

PARITY_TEST(decode_mqa_few_rows) {
  for (DType storage : {DType::kBF16, DType::kF16}) {
    for (bool causal : {false, true}) {
      for (int32_t dim : {16, 32, 48, 64, 80, 128}) {
        for (int64_t rows : {1, 8, 15, 16}) {
          for (int64_t keys : {0, 1, 63, 64, 65, 200}) {
            MqaCase c;
            c.rows = rows;
            c.keys = keys;
            c.dim = dim;
            c.storage = storage;
            c.causal = causal;
            ExpectParity(c, static_cast<uint32_t>(rows * 1000 + keys));
          }
        }
      }
    }
  }
}

PARITY_TEST(decode_mqa_many_rows) {
  for (DType storage : {DType::kBF16, DType::kF16}) {
    for (bool causal : {false, true}) {
      for (int32_t dim : {32, 48, 64, 128}) {
        for (int64_t rows : {17, 64, 65, 130}) {
          for (int64_t keys : {0, 1, 64, 65, 200}) {
            MqaCase c;
            c.rows = rows;
            c.keys = keys;
            c.dim = dim;
            c.storage = storage;
            c.causal = causal;
            ExpectParity(c, static_cast<uint32_t>(rows * 1000 + keys + 7));
          }
        }
      }
    }
  }
}

PARITY_TEST(decode_mqa_long_keys) {
  for (int32_t dim : {64, 128}) {
    for (bool causal : {false, true}) {
      MqaCase c;
      c.dim = dim;
      c.causal = causal;
      c.keys = SmallShapes() ? 3000 : 100000;
      ExpectParity(c, 1);
      c.rows = SmallShapes() ? 40 : 60;
      c.keys = SmallShapes() ? 900 : 30000;
      ExpectParity(c, 2);
      c.rows = SmallShapes() ? 300 : 1000;
      c.keys = SmallShapes() ? 130 : 5000;
      c.score_scale = 8;  // sharp
      ExpectParity(c, 3);
    }
  }
}

// ---- numbers -------------------------------------------------------------------------------

PARITY_TEST(decode_mqa_extreme_scores) {
  for (int64_t rows : {7, 70}) {
    for (DType storage : {DType::kBF16, DType::kF16}) {
      MqaCase c;
      c.rows = rows;
      c.keys = 300;
      c.dim = 16;
      c.storage = storage;
      MqaTensors t = MakeTensors(c, 4);
      // Powers of two, so that scores are exact whatever the order of their sums.
      for (float& x : t.q) x = x > 0 ? 64.0f : -64.0f;
      for (float& x : t.k) x = x > 0 ? 32.0f : -32.0f;  // scores in [-8192, 8192]
      ExpectMqa(RunDevice(c, t), c, t);
      std::fill(t.k.begin(), t.k.end(), -32.0f);  // all the same, far below zero
      std::fill(t.q.begin(), t.q.end(), 64.0f);
      ExpectMqa(RunDevice(c, t), c, t);
    }
  }
}

// Scores near the ends of what a float holds: one key has all the weight.
PARITY_TEST(decode_mqa_largest_scores) {
  MqaCase c;
  c.rows = 3;
  c.keys = 130;
  c.dim = 16;
  MqaTensors t = MakeTensors(c, 5);
  std::fill(t.q.begin(), t.q.end(), 0.0f);
  std::fill(t.k.begin(), t.k.end(), 0.0f);
  for (int64_t r = 0; r < c.rows; ++r) t.q[r * c.dim] = 0x1p60f;
  for (int64_t j = 0; j < c.keys; ++j) t.k[j * c.dim] = j == 77 ? 0x1p60f : -0x1p66f;
  const std::vector<float> out = RunDevice(c, t);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t d = 0; d < c.dim; ++d) EXPECT(out[r * c.dim + d] == t.v[77 * c.dim + d]);
  }
}

PARITY_TEST(decode_mqa_rows_without_any_key_give_zero) {
  for (int64_t rows : {3, 20}) {
    for (int64_t keys : {70, 1000}) {  // in one split and in several
      MqaCase c;
      c.rows = rows;
      c.keys = keys;
      c.causal = true;
      MqaTensors t = MakeTensors(c, 10);
      for (int64_t r = 0; r < rows; ++r) t.positions[r] = static_cast<int32_t>(r % 3) - 1;
      const std::vector<float> out = RunDevice(c, t);
      for (int64_t d = 0; d < c.dim; ++d) {
        EXPECT(out[d] == 0.0f);
        EXPECT(out[c.dim + d] == t.v[d]);  // sees the first key alone
      }
      ExpectMqa(out, c, t);
    }
  }
}

PARITY_TEST(decode_mqa_nan_stays_in_its_row) {
  for (int64_t rows : {10, 40}) {
    MqaCase c;
    c.rows = rows;
    c.keys = 500;
    MqaTensors t = MakeTensors(c, 12);
    const std::vector<float> clean = RunDevice(c, t);
    t.q[3 * c.dim + 5] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> out = RunDevice(c, t);
    for (int64_t i = 0; i < rows * c.dim; ++i) {
      EXPECT(i / c.dim == 3 ? std::isnan(out[i]) : out[i] == clean[i]);
    }
  }
}

PARITY_TEST(decode_mqa_output_types) {
  for (int64_t rows : {8, 30}) {
    for (int64_t keys : {100, 2000}) {  // written by the attention kernel, and by the merge
      for (DType type : {DType::kBF16, DType::kF16}) {
        MqaCase c;
        c.rows = rows;
        c.keys = keys;
        const MqaTensors t = MakeTensors(c, 11);
        const std::vector<float> exact = RunDevice(c, t);
        c.out_type = type;
        const std::vector<float> rounded = RunDevice(c, t);
        for (size_t i = 0; i < exact.size(); ++i) EXPECT(rounded[i] == RoundTo(type, exact[i]));
      }
    }
  }
}

// ---- storing -------------------------------------------------------------------------------

// Rows from any memory, aligned for vectors or not, to any place, over the border of a block: bit
// for bit the reference's rounding, and nothing else is touched.
PARITY_TEST(decode_mqa_store) {
  for (DType storage : {DType::kBF16, DType::kF16}) {
    for (int32_t dim : {16, 80, 256}) {
      for (int64_t first : {0, 1, 63}) {
        for (int64_t rows : {1, 2, 64, 130}) {
          for (int64_t odd : {0, 1}) {
            const int64_t stride = 2 * dim + 4 + odd;
            std::vector<float> in = RandomFloats(rows * stride + odd, 21, 3.0f);
            in[odd] = 1e-6f;  // subnormal in fp16
            in[odd + 1] = 60000.0f;
            const DeviceArray<float> device_in(in);
            const int64_t blocks = CeilDiv(first + rows, kKeyBlock);
            const DeviceArray<uint16_t> out(blocks * 2 * kKeyBlock * dim);
            MqaStoreArgs args;
            args.first = first;
            args.rows = rows;
            args.head_dim = dim;
            args.storage = storage;
            args.keys = device_in.data() + odd;
            args.values = args.keys + dim;
            args.stride = stride;
            args.block = out.data();
            EXPECT_OK(MqaStore(args, nullptr));
            const std::vector<uint16_t> bits = out.Download();
            int64_t wrong = 0;
            for (int64_t i = 0; i < blocks * 2 * kKeyBlock * dim; ++i) {
              const int64_t block = i / (2 * kKeyBlock * dim), part = i / (kKeyBlock * dim) % 2;
              const int64_t row = block * kKeyBlock + i / dim % kKeyBlock - first;
              if (row < 0 || row >= rows) {
                wrong += bits[i] != 0xffff;
              } else {
                const float x = in[odd + row * stride + part * dim + i % dim];
                wrong += reference::LoadAs(storage, bits.data(), i) != RoundTo(storage, x);
              }
            }
            EXPECT(wrong == 0);
          }
        }
      }
    }
  }
}

// ---- where keys are ------------------------------------------------------------------------

PARITY_TEST(decode_mqa_pages_and_repetition_change_no_bit) {
  for (int64_t rows : {8, 30, 100}) {
    for (bool causal : {false, true}) {
      MqaCase c;
      c.rows = rows;
      c.keys = 777;
      c.causal = causal;
      const MqaTensors t = MakeTensors(c, 5);
      const std::vector<float> contiguous = RunDevice(c, t);
      for (int64_t page_blocks : {0, 1, 2, 5}) {
        c.page_blocks = page_blocks;
        EXPECT(RunDevice(c, t) == contiguous);
      }
    }
  }
}

// A cache that was cut back: what lies beyond the last key must not matter, NaN included.
PARITY_TEST(decode_mqa_keys_beyond_the_last_are_not_seen) {
  for (int64_t rows : {8, 30}) {
    MqaCase c;
    c.rows = rows;
    c.keys = 256;
    MqaTensors t = MakeTensors(c, 8);
    for (int64_t keys : {1, 64, 77, 255}) {
      MqaCase cut = c;
      cut.keys = keys;
      const std::vector<float> expected = RunDevice(cut, t);
      MqaTensors dirty = t;
      std::fill(dirty.k.begin() + keys * c.dim, dirty.k.end(), NAN);
      std::fill(dirty.v.begin() + keys * c.dim, dirty.v.end(), NAN);
      const DeviceKeys full(c, dirty);
      MqaKeys shorter = full.keys();
      shorter.keys = keys;
      EXPECT(Attend(c, t, shorter) == expected);
    }
  }
}

// ---- arguments and host decisions ----------------------------------------------------------

PARITY_TEST(decode_mqa_refuses_bad_arguments) {
  const auto refused = [](void (*change)(MqaArgs&)) {
    MqaArgs args;
    args.partial.rows = 1;
    args.partial.scale = 1;
    args.partial.keys.head_dim = 64;
    args.partial.keys.storage = DType::kBF16;
    change(args);
    return Mqa(args, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT(refused([](MqaArgs& a) { a.partial.keys.head_dim = 144; }));
  EXPECT(refused([](MqaArgs& a) { a.partial.keys.head_dim = 40; }));
  EXPECT(refused([](MqaArgs& a) { a.partial.keys.storage = DType::kF32; }));
  EXPECT(refused([](MqaArgs& a) { a.partial.keys.keys = int64_t{1} << 31; }));
  EXPECT(refused([](MqaArgs& a) { a.partial.scale = 0; }));
  EXPECT(refused([](MqaArgs& a) { a.partial.scale = NAN; }));
  EXPECT(refused([](MqaArgs& a) { a.sequences = 2; }));
  EXPECT(refused([](MqaArgs& a) { a.q_stride = 3; }));
}

PARITY_TEST(decode_mqa_plan_fills_the_device) {
  // 100,000 keys on 132 multiprocessors: one wave of nearly equal splits, none of them empty.
  const MqaPlan one = PlanMqa(8, 1, 100000, 132);
  EXPECT(one.row_tile == 16);
  EXPECT(one.splits >= 125 && one.splits <= 132);
  // As many tiles as multiprocessors already, or few keys: whole.
  EXPECT(PlanMqa(8, 132, 2000, 132).splits == 1);
  EXPECT(PlanMqa(8, 1, 300, 132).splits == 1);
  EXPECT(PlanMqa(0, 1, 100000, 132).row_tiles == 0);
  EXPECT(PlanMqa(64, 1, 100000, 132).row_tile == 64);
  EXPECT(PlanMqa(65, 1, 100000, 132).row_tile == 128);
  // 1000 rows are 8 tiles: 16 splits each are one wave of 128.
  EXPECT(PlanMqa(1000, 1, 100000, 132).splits == 16);
  for (int multiprocessors : {1, 20, 108, 132}) {
    for (int64_t sequences : {1, 3, 50, 1000}) {
      for (int64_t keys = 0; keys < 200000; keys = keys * 3 + 1) {
        const MqaPlan plan = PlanMqa(8, sequences, keys, multiprocessors);
        const int64_t blocks = CeilDiv(keys, kKeyBlock);
        EXPECT(plan.splits >= 1 && plan.splits <= std::max<int64_t>(blocks, 1));
        EXPECT(plan.splits == 1 || plan.splits * sequences <= 8 * multiprocessors);
      }
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
