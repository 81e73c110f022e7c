# longdoc::log      JSON lines logger; no gRPC.
longdoc_add_library(log ${CMAKE_CURRENT_LIST_DIR}/log.cc)
target_link_libraries(longdoc_log PUBLIC absl::strings absl::str_format absl::time)
