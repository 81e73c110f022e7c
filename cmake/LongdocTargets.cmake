# Helpers that give every target the same warnings, sanitizers and include root.

add_library(longdoc_options INTERFACE)
target_include_directories(longdoc_options INTERFACE ${CMAKE_SOURCE_DIR})
# C++ only: nvcc takes other flags, see longdoc_cuda_options.
target_compile_options(longdoc_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
if(LONGDOC_WERROR)
  target_compile_options(longdoc_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(LONGDOC_SANITIZE)
  target_compile_options(longdoc_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:
    -fsanitize=${LONGDOC_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(longdoc_options INTERFACE -fsanitize=${LONGDOC_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 warns of overlapping copies inside std::string and of uninitialised variables inside
    # <regex> when it instruments them: false.
    target_compile_options(longdoc_options INTERFACE
      $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict -Wno-maybe-uninitialized>)
  endif()
endif()
if(LONGDOC_FUZZ)
  target_compile_options(longdoc_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link>)
endif()
# Debian's packages are built with NOMINMAX semantics on Linux anyway; threads are always needed.
target_link_libraries(longdoc_options INTERFACE Threads::Threads)

# longdoc_add_library(NAME SOURCES... ) : a static library longdoc_NAME with alias longdoc::NAME.
function(longdoc_add_library name)
  add_library(longdoc_${name} STATIC ${ARGN})
  add_library(longdoc::${name} ALIAS longdoc_${name})
  target_link_libraries(longdoc_${name} PUBLIC longdoc_options)
endfunction()

# longdoc_add_executable(TARGET OUTPUT_NAME SOURCES...): a binary build/bin/OUTPUT_NAME.
function(longdoc_add_executable target output)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE longdoc_options)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${output})
endfunction()

# longdoc_add_test(NAME LABELS l... SOURCES s... LIBS t... [DATA_DIR]) : one GoogleTest executable,
# every test of it registered with ctest. Tests find files through the macro LONGDOC_SOURCE_DIR.
function(longdoc_add_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "LABELS;SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE longdoc_options ${ARG_LIBS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE LONGDOC_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 120
    PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

# longdoc_add_fuzz_target(NAME SOURCE CORPUS_DIR LIBS...): replays the corpus as a plain test
# (label fuzz); with LONGDOC_FUZZ also builds NAME for libFuzzer.
function(longdoc_add_fuzz_target name source corpus)
  add_executable(${name}_replay ${source} ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.cc)
  target_link_libraries(${name}_replay PRIVATE longdoc_options ${ARGN})
  set_target_properties(${name}_replay PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME fuzz.${name} COMMAND ${name}_replay ${corpus})
  set_tests_properties(fuzz.${name} PROPERTIES LABELS "fuzz" TIMEOUT 300)
  if(LONGDOC_FUZZ)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE longdoc_options ${ARGN})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  endif()
endfunction()
