// Multi-query attention of many sequences, told by device memory alone, and as a captured step.
#include "tests/kernels/cuda/mqa_device.h"

namespace longdoc::kernels::cuda::parity {
namespace {

// Sequences of a decoder layer: tokens × heads rows, keys in pages that hold two layers, queries,
// keys and values side by side as a projection leaves them.
class Batch {
 public:
  static constexpr int32_t kHeads = 4, kDim = 64;
  static constexpr int64_t kPageBlocks = 2, kTable = 3, kLayers = 2, kLayer = 1;
  static constexpr int64_t kStride = (kHeads + 2) * kDim;
  static constexpr int64_t kLayerBytes = kPageBlocks * MqaBlockBytes(kDim, DType::kBF16);

  // Sequence s has tokens[s] new tokens that follow on first[s] stored ones.
  Batch(const std::vector<int64_t>& first, const std::vector<int64_t>& tokens)
      : first_(first),
        tokens_(tokens),
        memory_(static_cast<int64_t>(tokens.size()) * kTable * kLayers * kLayerBytes),
        pages_(Pages(memory_.data(), static_cast<int64_t>(tokens.size()) * kTable)),
        slopes_(Slopes()) {
    for (size_t s = 0; s < tokens.size(); ++s) {
      MqaCase c;
      c.rows = (first[s] + tokens[s]) * kHeads;
      c.keys = first[s] + tokens[s];
      c.dim = kDim;
      c.causal = true;
      MqaTensors t = MakeTensors(c, static_cast<uint32_t>(100 + s));
      for (int64_t r = 0; r < c.rows; ++r) {
        t.slopes[r] = Slopes()[r % kHeads];
        t.positions[r] = static_cast<int32_t>(r / kHeads);
      }
      expected_.push_back(RunReference(c, t));
      bound_ = std::max(bound_, MqaTolerance(c) * MaxAbs(t.v));
      tensors_.push_back(std::move(t));
    }
  }

  static std::vector<float> Slopes() { return {0.5f, 0.0f, 0.0625f, 0.25f}; }

  // Rows of the projection of tokens [begin, end) of a sequence.
  void AddTokens(int64_t s, int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const MqaTensors& t = tensors_[s];
      const auto q = t.q.begin() + token * kHeads * kDim;
      qkv_.insert(qkv_.end(), q, q + kHeads * kDim);
      for (const std::vector<float>* x : {&t.k, &t.v}) {
        qkv_.insert(qkv_.end(), x->begin() + token * kDim, x->begin() + (token + 1) * kDim);
      }
      positions_.push_back(static_cast<int32_t>(token));
      sequences_.push_back(static_cast<int32_t>(s));
    }
  }

  void Append(int64_t rows, const float* qkv, const int32_t* positions, const int32_t* sequences,
              cudaStream_t stream) const {
    MqaAppendArgs args;
    args.rows = rows;
    args.head_dim = kDim;
    args.keys = qkv + kHeads * kDim;
    args.values = qkv + (kHeads + 1) * kDim;
    args.stride = kStride;
    args.positions = positions;
    args.sequences = sequences;
    args.pages = pages_.data();
    args.table_stride = kTable;
    args.page_blocks = kPageBlocks;
    args.page_offset = kLayer * kLayerBytes;
    EXPECT(MqaAppend(args, stream) == cudaSuccess);
  }

  // Everything but where rows begin, how many there are, and memory.
  MqaArgs Args(const float* qkv, const int32_t* positions) const {
    MqaArgs args;
    args.partial.keys.keys = kTable * kPageBlocks * kKeyBlock;  // as many as fit
    args.partial.keys.head_dim = kDim;
    args.partial.keys.storage = DType::kBF16;
    args.partial.keys.pages = pages_.data();
    args.partial.keys.page_blocks = kPageBlocks;
    args.partial.scale = 0.125f;
    args.partial.q = qkv;
    args.partial.slopes = slopes_.data();
    args.partial.positions = positions;
    args.heads = kHeads;
    args.q_stride = kStride;
    args.sequences = static_cast<int64_t>(tokens_.size());
    args.table_stride = kTable;
    args.page_offset = kLayer * kLayerBytes;
    return args;
  }

  // `out` is that of tokens [begin, begin + tokens) of sequence s.
  void Expect(int64_t s, int64_t begin, int64_t tokens, const float* out) const {
    const float* expected = expected_[s].data() + begin * kHeads * kDim;
    const int64_t count = tokens * kHeads * kDim;
    EXPECT_CLOSE(std::vector<float>(out, out + count),
                 std::vector<float>(expected, expected + count), bound_, 1);
  }

  std::vector<int64_t> first_, tokens_;
  std::vector<float> qkv_;
  std::vector<int32_t> positions_, sequences_;

 private:
  static std::vector<const void*> Pages(uint8_t* memory, int64_t count) {
    std::vector<const void*> table;
    for (int64_t p = 0; p < count; ++p) {
      table.push_back(memory + p * 5 % count * kLayers * kLayerBytes);  // count is no multiple of 5
    }
    return table;
  }

  const DeviceArray<uint8_t> memory_;
  const DeviceArray<const void*> pages_;
  const DeviceArray<float> slopes_;
  std::vector<MqaTensors> tensors_;
  std::vector<std::vector<float>> expected_;
  double bound_ = 0;
};

PARITY_TEST(decode_mqa_batch_of_sequences) {
  for (const std::vector<int64_t>& tokens :
       {std::vector<int64_t>{1, 1, 1, 1}, std::vector<int64_t>{7, 1, 0, 12},
        std::vector<int64_t>{40, 3, 0, 1}}) {
    Batch batch({0, 100, 64, 270}, tokens);
    std::vector<int64_t> cu_rows{0}, counts;
    for (size_t s = 0; s < tokens.size(); ++s) {
      batch.AddTokens(s, 0, batch.first_[s]);  // the past first
    }
    const int64_t past = static_cast<int64_t>(batch.positions_.size());
    for (size_t s = 0; s < tokens.size(); ++s) {
      batch.AddTokens(s, batch.first_[s], batch.first_[s] + tokens[s]);
      cu_rows.push_back(cu_rows.back() + tokens[s] * Batch::kHeads);
      counts.push_back(batch.first_[s] + tokens[s]);
    }
    const DeviceArray<float> qkv(batch.qkv_);
    const DeviceArray<int32_t> positions(batch.positions_), sequences(batch.sequences_);
    const DeviceArray<int64_t> device_cu_rows(cu_rows), device_counts(counts);
    batch.Append(static_cast<int64_t>(batch.positions_.size()), qkv.data(), positions.data(),
                 sequences.data(), nullptr);

    MqaArgs args = batch.Args(qkv.data() + past * Batch::kStride, positions.data() + past);
    args.partial.rows = cu_rows.back();
    args.max_rows = *std::max_element(tokens.begin(), tokens.end()) * Batch::kHeads;
    args.cu_rows = device_cu_rows.data();
    for (bool counted : {false, true}) {
      args.key_counts = counted ? device_counts.data() : nullptr;  // positions alone are enough
      const DeviceArray<float> out(cu_rows.back() * Batch::kDim);
      args.out = out.data();
      const DeviceArray<uint8_t> workspace(MqaWorkspaceBytes(args));
      args.workspace = workspace.data();
      EXPECT(Mqa(args, nullptr) == cudaSuccess);
      const std::vector<float> result = out.Download();
      for (size_t s = 0; s < tokens.size(); ++s) {
        batch.Expect(s, batch.first_[s], tokens[s], result.data() + cu_rows[s] * Batch::kDim);
      }
    }
  }
}

// A captured decoding step, replayed while sequences grow over block and page borders.
PARITY_TEST(decode_mqa_replayed_step) {
  const int64_t steps = 140;
  Batch batch({0, 0}, {steps, steps});
  const DeviceArray<float> qkv(2 * Batch::kStride);
  const DeviceArray<int32_t> positions(2);
  const DeviceArray<int64_t> cu_rows(std::vector<int64_t>{0, Batch::kHeads, 2 * Batch::kHeads});
  const DeviceArray<float> out(2 * Batch::kHeads * Batch::kDim);
  MqaArgs args = batch.Args(qkv.data(), positions.data());
  args.partial.rows = 2 * Batch::kHeads;
  args.max_rows = Batch::kHeads;
  args.cu_rows = cu_rows.data();
  args.out = out.data();
  const DeviceArray<uint8_t> workspace(MqaWorkspaceBytes(args));
  args.workspace = workspace.data();

  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t step;
  EXPECT(cudaStreamCreate(&stream) == cudaSuccess);
  EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  batch.Append(2, qkv.data(), positions.data(), nullptr, stream);
  EXPECT(Mqa(args, stream) == cudaSuccess);
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  EXPECT(cudaGraphInstantiate(&step, graph, 0) == cudaSuccess);
  for (int64_t token = 0; token < steps; ++token) {
    batch.qkv_.clear();
    batch.positions_.clear();
    batch.AddTokens(0, token, token + 1);
    batch.AddTokens(1, token, token + 1);
    EXPECT(cudaMemcpyAsync(qkv.data(), batch.qkv_.data(), batch.qkv_.size() * sizeof(float),
                           cudaMemcpyHostToDevice, stream) == cudaSuccess);
    EXPECT(cudaMemcpyAsync(positions.data(), batch.positions_.data(), 2 * sizeof(int32_t),
                           cudaMemcpyHostToDevice, stream) == cudaSuccess);
    EXPECT(cudaGraphLaunch(step, stream) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    const std::vector<float> result = out.Download();
    batch.Expect(0, token, 1, result.data());
    batch.Expect(1, token, 1, result.data() + Batch::kHeads * Batch::kDim);
  }
  EXPECT(cudaGraphExecDestroy(step) == cudaSuccess);
  EXPECT(cudaGraphDestroy(graph) == cudaSuccess);
  EXPECT(cudaStreamDestroy(stream) == cudaSuccess);
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
