# The server's life cycle, in-process and as a process of its own. Included by tests/CMakeLists.txt.
set(dir ${CMAKE_CURRENT_LIST_DIR})
longdoc_add_test(server_test
  LABELS integration
  SOURCES ${dir}/connection_test.cc ${dir}/raw_stream.cc ${dir}/server_process.cc ${dir}/server_process_test.cc
          ${dir}/server_test.cc
  LIBS longdoc::rpc_harness longdoc::service longdoc::service_config longdoc::log longdoc::proto
       longdoc::fake_engine nlohmann_json::nlohmann_json)
target_compile_definitions(server_test PRIVATE
  LONGDOC_SERVER_BINARY="$<TARGET_FILE:longdoc_server>")
add_dependencies(server_test longdoc_server)

# longdoc-server on the emulated CUDA device, which a test can take away.
if(TARGET longdoc_engine_cuda_emulated)
  add_executable(emulated_server ${CMAKE_SOURCE_DIR}/service/main.cc ${dir}/losing_device.cc)
  target_link_libraries(emulated_server PRIVATE longdoc_engine_cuda_emulated
    longdoc::service absl::flags absl::flags_parse absl::flags_usage)
  set_target_properties(emulated_server PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  longdoc_add_test(lost_device_test
    LABELS integration
    SOURCES ${dir}/lost_device_test.cc ${dir}/raw_stream.cc ${dir}/server_process.cc
    LIBS longdoc::rpc_harness longdoc::proto nlohmann_json::nlohmann_json)
  target_compile_definitions(lost_device_test PRIVATE
    LONGDOC_SERVER_BINARY="$<TARGET_FILE:longdoc_server>"
    LONGDOC_EMULATED_SERVER="$<TARGET_FILE:emulated_server>")
  add_dependencies(lost_device_test emulated_server)
endif()
