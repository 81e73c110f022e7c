// longdoc-bench decode --device cuda:N.
#include <cmath>
#include <iostream>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/whole_mqa.h"
#include "service/tools/bench/device.h"
#include "service/tools/bench/device_sections.h"

namespace longdoc::tools {
namespace {

using kernels::DType;

struct Times {
  double one = 0, all = 0;  // seconds, with one key/value head and with one for each
};

// Keys and values of one document, several times over, and rows that attend to it.
class Document {
 public:
  static absl::StatusOr<Document> Create(Backend& backend, const DecodeArgs& args, int64_t keys,
                                         int64_t copies) {
    Document d;
    d.keys_.keys = keys;
    d.keys_.head_dim = static_cast<int32_t>(args.head_dim);
    d.keys_.storage = DType::kBF16;
    const int64_t blocks = kernels::CeilDiv(keys, kernels::kKeyBlock);
    d.bytes_ = blocks * kernels::MqaBlockBytes(d.keys_.head_dim, DType::kBF16);
    std::minstd_rand random(7);
    std::vector<uint16_t> values(static_cast<size_t>(d.bytes_ / 2));
    for (uint16_t& v : values) {  // of either sign, from 1/4 to 1
      const auto bits = static_cast<uint16_t>(random() >> 8);
      v = static_cast<uint16_t>((0x3e80u + (bits & 0xffu)) | (bits & 0x8000u));
    }
    for (int64_t i = 0; i < copies; ++i) {
      ASSIGN_OR_RETURN(Buffer copy, ToDevice(backend, values));
      d.copies_.push_back(std::move(copy));
    }
    return d;
  }
  kernels::MqaKeys Keys(int64_t copy) const {
    kernels::MqaKeys keys = keys_;
    keys.blocks = copies_[static_cast<size_t>(copy) % copies_.size()].data();
    return keys;
  }
  int64_t bytes() const { return bytes_; }
  static int64_t Bytes(const DecodeArgs& args, int64_t keys) {
    return kernels::CeilDiv(keys, kernels::kKeyBlock) *
           kernels::MqaBlockBytes(static_cast<int32_t>(args.head_dim), DType::kBF16);
  }

 private:
  kernels::MqaKeys keys_;
  int64_t bytes_ = 0;
  std::vector<Buffer> copies_;
};

absl::StatusOr<Times> TimeStep(Backend& backend, const DecodeArgs& args, const Document& document,
                               int64_t targets) {
  const int64_t width = args.heads * args.head_dim;
  const std::vector<float> ones(static_cast<size_t>(targets * width), 0.1f);
  ASSIGN_OR_RETURN(const Buffer q, ToDevice(backend, ones));
  ASSIGN_OR_RETURN(const Buffer out, ToDevice(backend, ones));
  WholeMqaArgs call;
  call.keys = document.Keys(0);
  call.rows = targets;
  call.heads = static_cast<int32_t>(args.heads);
  call.scale = 1 / std::sqrt(static_cast<float>(args.head_dim));
  call.q = q.as<float>();
  call.q_stride = width;
  call.out_type = DType::kF32;
  call.out = out.data();
  WholeMqa& mqa = *backend.whole_mqa();
  ASSIGN_OR_RETURN(const Buffer workspace,
                   backend.memory().Allocate(mqa.WorkspaceBytes(call), /*zeroed=*/false));
  call.workspace = workspace.data();
  Times times;
  ASSIGN_OR_RETURN(times.one, TimeOnDevice(backend, args.repeat, [&](int64_t i) {
                     WholeMqaArgs next = call;
                     next.keys = document.Keys(i);
                     mqa.Attend(next);
                   }));
  std::vector<float> result(ones.size());
  RETURN_IF_ERROR(
      backend.CopyToHost(result.data(), out.data(), static_cast<int64_t>(4 * result.size())));
  for (const float v : result) {
    // Means of values between -1 and 1.
    if (std::isfinite(v) && std::fabs(v) <= 1 && v != 0.1f) continue;
    return absl::InternalError(absl::StrFormat("a result of attention is %g", v));
  }
  ASSIGN_OR_RETURN(times.all, TimeOnDevice(backend, args.repeat, [&](int64_t i) {
                     WholeMqaArgs next = call;
                     next.heads = 1;
                     for (int64_t h = 0; h < args.heads; ++h) {
                       next.keys = document.Keys(i * args.heads + h);
                       next.q = call.q + h * args.head_dim;
                       mqa.Attend(next);
                     }
                   }));
  return times;
}

}  // namespace

absl::Status BenchDecodeOnDevice(const DecodeArgs& args) {
  RETURN_IF_ERROR(CheckDeviceKeeps(args.dtype, args.head_dim));
  ASSIGN_OR_RETURN(const BenchDevice device, BenchDevice::Open(args.device));
  std::cout << FormatDevice(device)
            << absl::StrFormat("%d query heads of %d, keys in bf16\n", args.heads, args.head_dim)
            << absl::StrFormat("%9s %8s %10s %8s %8s %12s %8s\n", "keys", "targets", "1 kv us",
                               "GB/s", "of copy", "all kv us", "ratio");
  Json results = Json::array();
  for (const int64_t keys : args.keys) {
    // A head each reads as many documents as there are heads, none of them twice in a row.
    const int64_t copies = std::max(RotatedCopies(Document::Bytes(args, keys)), 2 * args.heads);
    ASSIGN_OR_RETURN(const Document document,
                     Document::Create(*device.backend, args, keys, copies));
    for (const int64_t targets : args.targets) {
      ASSIGN_OR_RETURN(const Times t, TimeStep(*device.backend, args, document, targets));
      const double rate = static_cast<double>(document.bytes()) / t.one;
      const double share = rate / device.copy_bytes_per_second;
      std::cout << absl::StrFormat("%9d %8d %10.2f %8.1f %7.1f%% %12.2f %8.2f\n", keys, targets,
                                   1e6 * t.one, rate / 1e9, 100 * share, 1e6 * t.all, t.all / t.one)
                << std::flush;
      results.push_back({{"keys", keys},
                         {"targets", targets},
                         {"seconds", t.one},
                         {"bytes_per_second", rate},
                         {"share_of_copy", share},
                         {"multi_head_seconds", t.all},
                         {"multi_head_ratio", t.all / t.one}});
    }
  }
  return WriteJson(args.json, {{"bench", "decode"},
                               {"heads", args.heads},
                               {"head_dim", args.head_dim},
                               {"dtype", args.dtype},
                               {"device", DeviceToJson(device)},
                               {"results", results}});
}

}  // namespace longdoc::tools
