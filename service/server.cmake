# longdoc::log      JSON lines logger; no gRPC
# longdoc::metrics  everything measured, and its text exposition; no gRPC
# longdoc::service_config  the configuration as checked structs; no gRPC
# longdoc::endpoint  credentials, HTTP port
# longdoc::service  server life cycle, over all of these and longdoc::rpc
# longdoc-server    the binary
longdoc_add_library(log ${CMAKE_CURRENT_LIST_DIR}/log.cc)
target_link_libraries(longdoc_log PUBLIC absl::strings absl::str_format absl::time)

longdoc_add_library(metrics
  ${CMAKE_CURRENT_LIST_DIR}/metrics.cc
  ${CMAKE_CURRENT_LIST_DIR}/metrics_collectors.cc
)
target_compile_definitions(longdoc_metrics PUBLIC LONGDOC_VERSION="${PROJECT_VERSION}")
target_link_libraries(longdoc_metrics
  PUBLIC longdoc::engine absl::status absl::statusor
  PRIVATE prometheus-cpp::core)

longdoc_add_library(service_config
  ${CMAKE_CURRENT_LIST_DIR}/config.cc
  ${CMAKE_CURRENT_LIST_DIR}/config_files.cc
  ${CMAKE_CURRENT_LIST_DIR}/config_format.cc
)
target_link_libraries(longdoc_service_config
  PUBLIC longdoc::log absl::status absl::statusor absl::strings absl::time
  PRIVATE longdoc::base longdoc::proto_config)

longdoc_add_library(endpoint
  ${CMAKE_CURRENT_LIST_DIR}/credentials.cc
  ${CMAKE_CURRENT_LIST_DIR}/grpc_log.cc
  ${CMAKE_CURRENT_LIST_DIR}/http_endpoint.cc
)
target_link_libraries(longdoc_endpoint
  PUBLIC longdoc::base longdoc::log longdoc::metrics longdoc::service_config
  PRIVATE gRPC::grpc++ civetweb::civetweb)

longdoc_add_library(service ${CMAKE_CURRENT_LIST_DIR}/server.cc)
target_link_libraries(longdoc_service
  PUBLIC longdoc::metrics longdoc::service_config
  PRIVATE longdoc::endpoint longdoc::rpc gRPC::grpc++ gRPC::grpc++_reflection)

longdoc_add_executable(longdoc_server longdoc-server ${CMAKE_CURRENT_LIST_DIR}/main.cc)
target_link_libraries(longdoc_server PRIVATE
  longdoc::service longdoc::engine absl::flags absl::flags_parse absl::flags_usage)
