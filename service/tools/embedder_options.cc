#include "service/tools/embedder_options.h"

namespace longdoc::tools {

void AddServerOptions(OptionParser& parser, RemoteOptions* remote) {
  parser.AddString("server", "HOST:PORT", "a longdoc-server", &remote->address);
  parser.AddString("tls-ca", "FILE", "talk TLS; trust this PEM file's authorities",
                   &remote->tls_ca);
  parser.AddString("tls-cert", "FILE", "our certificate (PEM), for mutual TLS", &remote->tls_cert);
  parser.AddString("tls-key", "FILE", "its key (PEM)", &remote->tls_key);
  parser.AddString("tls-server-name", "NAME", "name in the server's certificate, if not HOST",
                   &remote->tls_server_name);
  parser.AddString("token-file", "FILE", "its first line is the bearer token", &remote->token_file);
  parser.AddDouble("timeout", "SECONDS", "for one call", 0.001, 1e6, &remote->timeout_seconds);
}

void AddEmbedderOptions(OptionParser& parser, EmbedderArgs* args) {
  parser.Section("Where the work is done");
  parser.AddString("model", "DIR|NAME",
                   "in-process: the model directory; with --server: the\nmodel's name there "
                   "(default: the server's)",
                   &args->model);
  parser.AddChoice("dtype", {"auto", "f32", "bf16"},
                   "in-process compute type; auto: bf16 where the\nCPU multiplies it natively",
                   &args->dtype);
  parser.AddInt("threads", "N", "in-process worker threads; 0: one per core", 0, 1024,
                &args->threads);
  parser.AddString("device", "NAME",
                   "in-process: auto, cpu, cuda, cuda:N or reference,\nwhich is slow and plain",
                   &args->device);
  parser.AddInt("max-tokens", "N", "in-process limit of a document; see --overflow", 1,
                int64_t{1} << 31, &args->max_tokens);
  AddServerOptions(parser, &args->remote);
}

std::string CheckEmbedderArgs(const OptionParser& parser, const EmbedderArgs& args) {
  if (args.remote.address.empty()) {
    if (args.model.empty()) return "needs --server HOST:PORT or --model DIR";
    for (const char* name : {"tls-ca", "tls-cert", "tls-key", "token-file", "tls-server-name"}) {
      if (parser.WasGiven(name)) return std::string("--") + name + " needs --server";
    }
    return "";
  }
  for (const char* name : {"dtype", "threads", "device", "max-tokens"}) {
    if (parser.WasGiven(name)) {
      return std::string("--") + name + " is for --model DIR; a server has its own configuration";
    }
  }
  return "";
}

ComputeType ParseComputeType(const std::string& dtype) {
  if (dtype == "f32") return ComputeType::kF32;
  return dtype == "bf16" ? ComputeType::kBF16 : ComputeType::kAuto;
}

absl::StatusOr<std::unique_ptr<Embedder>> MakeEmbedder(const EmbedderArgs& args) {
  if (!args.remote.address.empty()) {
    RemoteOptions remote = args.remote;
    remote.model = args.model;
    return NewRemoteEmbedder(remote);
  }
  LocalOptions local;
  local.model_dir = args.model;
  local.max_tokens = args.max_tokens;
  local.engine.device = args.device;
  local.engine.compute_type = ParseComputeType(args.dtype);
  local.engine.num_threads = static_cast<int>(args.threads);
  return NewLocalEmbedder(local);
}

}  // namespace longdoc::tools
