#include "service/grpc_log.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "grpc/support/log.h"
#include "service/log.h"

namespace longdoc::service {
namespace {

void WriteGrpcLine(gpr_log_func_args* args) {
  static LogLimiter* limiter = new LogLimiter(10);  // never destroyed: gRPC logs during exit too
  int64_t suppressed = 0;
  if (!limiter->Allow(&suppressed)) return;
  LogLevel level = LogLevel::kDebug;
  if (args->severity == GPR_LOG_SEVERITY_ERROR) level = LogLevel::kError;
  if (args->severity == GPR_LOG_SEVERITY_INFO) level = LogLevel::kInfo;
  const char* slash = std::strrchr(args->file, '/');
  Log(level, "grpc",
      {{"message", args->message},
       {"source", absl::StrCat(slash ? slash + 1 : args->file, ":", args->line)},
       {"more_since_last", suppressed}});
}

}  // namespace

void RouteGrpcLog() { gpr_set_log_function(&WriteGrpcLine); }

}  // namespace longdoc::service
