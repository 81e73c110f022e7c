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
