// The options that choose where the work is done, shared by `embed` and `plan`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/tools/embedder.h"
#include "service/tools/options.h"

namespace longdoc::tools {

struct EmbedderArgs {
  RemoteOptions remote;  // with an address: through a server
  std::string model;     // a directory in-process, a name with a server
  std::string dtype = "auto", device = "auto";
  int64_t threads = 0;
  int64_t max_tokens = int64_t{16} << 20;  // of a document, in-process
};

void AddServerOptions(OptionParser& parser, RemoteOptions* remote);
void AddEmbedderOptions(OptionParser& parser, EmbedderArgs* args);
// "" or what is wrong with the combination.
std::string CheckEmbedderArgs(const OptionParser& parser, const EmbedderArgs& args);
absl::StatusOr<std::unique_ptr<Embedder>> MakeEmbedder(const EmbedderArgs& args);

// "auto", "f32" or "bf16", checked by the option.
ComputeType ParseComputeType(const std::string& dtype);

}  // namespace longdoc::tools
