// Token vectors of a document as late interaction reads them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/encode_pass.h"
#include "engine/kept_memory.h"

namespace longdoc {

// bf16 [tokens, dimensions] in one piece of the backend's memory, rows of unit length (a zero
// vector stays zero).
struct TokenVectors : KeptMemory {
  static absl::StatusOr<std::shared_ptr<TokenVectors>> Allocate(MemoryPool& memory, int64_t tokens,
                                                                int64_t dimensions);
  static int64_t Bytes(int64_t tokens, int64_t dimensions) { return 2 * tokens * dimensions; }

  uint16_t* data() const { return layers[0].as<uint16_t>(); }

  int64_t tokens = 0;
  int64_t dimensions = 0;
};

// A phase of an encode: makes them for those sequences of a pass that are to be kept. Distinct
// steps may run at once.
class TokenVectorsToKeep {
 public:
  // Arguments by reference outlive this.
  TokenVectorsToKeep(Backend& backend, const PassPacking& packing, int64_t dimensions)
      : backend_(backend), packing_(packing), dimensions_(dimensions) {}
  absl::Status Allocate();
  int64_t bytes() const;  // as allocated

  int64_t num_steps() const;  // 0 when nothing is to be kept
  // `vectors`: fp32 [tokens of the pass, dimensions].
  void Run(int64_t step, const float* vectors);
  // Null for a sequence that keeps none.
  std::shared_ptr<const TokenVectors> Take(size_t sequence);

 private:
  Backend& backend_;
  const PassPacking& packing_;
  const int64_t dimensions_;
  std::vector<std::shared_ptr<TokenVectors>> kept_;  // by sequence; empty when nobody keeps any
};

}  // namespace longdoc
