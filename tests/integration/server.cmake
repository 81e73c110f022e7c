# The server's life cycle, in-process and as a process of its own. Included by tests/CMakeLists.txt.
set(dir ${CMAKE_CURRENT_LIST_DIR})
longdoc_add_test(server_test
  LABELS integration
  SOURCES ${dir}/raw_stream.cc ${dir}/server_process.cc ${dir}/server_process_test.cc
          ${dir}/server_test.cc
  LIBS longdoc::rpc_harness longdoc::service longdoc::service_config longdoc::log longdoc::proto
       longdoc::fake_engine nlohmann_json::nlohmann_json)
target_compile_definitions(server_test PRIVATE
  LONGDOC_SERVER_BINARY="$<TARGET_FILE:longdoc_server>")
add_dependencies(server_test longdoc_server)
