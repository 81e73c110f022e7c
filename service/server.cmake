# longdoc::log      JSON lines logger; no gRPC
# longdoc::metrics  everything measured, and its text exposition; no gRPC
# longdoc::service  configuration, HTTP endpoint, server life cycle
# longdoc-server    the binary
longdoc_add_library(log ${CMAKE_CURRENT_LIST_DIR}/log.cc)
target_link_libraries(longdoc_log PUBLIC absl::strings absl::str_format absl::time)

longdoc_add_library(metrics
  ${CMAKE_CURRENT_LIST_DIR}/metrics.cc
  ${CMAKE_CURRENT_LIST_DIR}/metrics_collectors.cc
)
target_compile_definitions(longdoc_metrics PUBLIC LONGDOC_VERSION="${PROJECT_VERSION}")
target_link_libraries(longdoc_metrics
  PUBLIC longdoc::base absl::status absl::statusor
  PRIVATE prometheus-cpp::core)

longdoc_add_library(service_config
  ${CMAKE_CURRENT_LIST_DIR}/config.cc
  ${CMAKE_CURRENT_LIST_DIR}/config_format.cc
)
target_link_libraries(longdoc_service_config
  PUBLIC longdoc::log absl::status absl::statusor absl::strings absl::time
  PRIVATE longdoc::base longdoc::proto_config)

if(NOT EXISTS ${CMAKE_CURRENT_LIST_DIR}/rpc.cmake)
  return()  # the handlers are not there yet
endif()

longdoc_add_library(service
  ${CMAKE_CURRENT_LIST_DIR}/credentials.cc
  ${CMAKE_CURRENT_LIST_DIR}/grpc_log.cc
  ${CMAKE_CURRENT_LIST_DIR}/http_endpoint.cc
  ${CMAKE_CURRENT_LIST_DIR}/server.cc
)
target_link_libraries(longdoc_service
  PUBLIC longdoc::base longdoc::log longdoc::metrics longdoc::service_config
  PRIVATE longdoc::rpc gRPC::grpc++ gRPC::grpc++_reflection civetweb::civetweb)

longdoc_add_executable(longdoc_server longdoc-server ${CMAKE_CURRENT_LIST_DIR}/main.cc)
target_link_libraries(longdoc_server PRIVATE
  longdoc::service longdoc::engine absl::flags absl::flags_parse absl::flags_usage)
