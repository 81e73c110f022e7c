#include "engine/cuda_mqa.h"

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/runtime.h"

namespace longdoc {
namespace {

namespace cuda = kernels::cuda;

cuda::MqaArgs Translate(const WholeMqaArgs& args) {
  cuda::MqaArgs mqa;
  mqa.partial.keys = args.keys;
  mqa.partial.scale = args.scale;
  mqa.partial.rows = args.rows * args.heads;
  mqa.partial.q = args.q;
  mqa.heads = args.heads;
  mqa.q_stride = args.q_stride;
  mqa.out_type = args.out_type;
  mqa.out = args.out;
  mqa.workspace = args.workspace;
  if (args.cached == nullptr) return mqa;
  const CachedRows& c = *args.cached;
  mqa.partial.keys.keys = c.max_keys;
  mqa.partial.keys.head_dim = c.head_dim;
  mqa.partial.keys.storage = c.storage;
  mqa.partial.keys.pages = c.pages;
  mqa.partial.keys.page_blocks = c.page_blocks;
  mqa.partial.slopes = args.slopes;
  mqa.partial.positions = c.positions;
  mqa.sequences = c.sequences;
  mqa.max_rows = c.max_rows * args.heads;
  mqa.cu_rows = c.cu_query_rows;
  mqa.key_counts = c.key_counts;
  mqa.table_stride = c.table_stride;
  mqa.page_offset = args.layer * c.layer_bytes;
  return mqa;
}

}  // namespace

void CudaMqa::Append(const AppendKeysArgs& args) {
  const CachedRows& c = *args.cached;
  cuda::MqaAppendArgs append;
  append.rows = args.rows;
  append.head_dim = c.head_dim;
  append.storage = c.storage;
  append.keys = args.keys;
  append.values = args.values;
  append.stride = args.stride;
  append.positions = c.positions + args.begin;
  append.sequences = c.sequence_of + args.begin;
  append.pages = c.pages;
  append.table_stride = c.table_stride;
  append.page_blocks = c.page_blocks;
  append.page_offset = args.layer * c.layer_bytes;
  rt_.Note(cuda::MqaAppend(append, rt_.stream()), "storing keys");
}

int64_t CudaMqa::WorkspaceBytes(const WholeMqaArgs& args) const {
  return cuda::MqaWorkspaceBytes(Translate(args));
}

void CudaMqa::Attend(const WholeMqaArgs& args) {
  rt_.Note(cuda::Mqa(Translate(args), rt_.stream()), "multi-query attention");
}

}  // namespace longdoc
