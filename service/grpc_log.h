// gRPC's own log lines, through our logger.
#pragma once

namespace longdoc::service {

// For the whole process; may be called again. What gRPC logs follows GRPC_VERBOSITY (errors only by
// default), at most ten lines a second: clients can provoke them.
void RouteGrpcLog();

}  // namespace longdoc::service
