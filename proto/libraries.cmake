# C++ code generated from the .proto files. Three targets, so that whoever needs only messages does
# not link gRPC:
#   longdoc::proto_messages  longdoc.v1 messages          (protobuf)
#   longdoc::proto_config    longdoc.config.v1 messages   (protobuf)
#   longdoc::proto           longdoc.v1 messages + stubs  (protobuf, gRPC)
# Includes are "longdoc/v1/....pb.h"; the include directory is SYSTEM, because generated code is not
# held to our warnings.
include(generate.cmake)
set(PROTO_OUT ${CMAKE_CURRENT_BINARY_DIR}/generated)

# A file may import any other: a dozen small ones, regenerated together.
longdoc_proto_generate(ROOT ${PROTO_ROOT} OUT ${PROTO_OUT} PROTOS ${API_PROTOS}
  MESSAGES API_SOURCES GRPC GRPC_SOURCES DEPENDS ${API_PROTO_FILES})
longdoc_proto_generate(ROOT ${PROTO_ROOT} OUT ${PROTO_OUT} PROTOS ${CONFIG_PROTOS}
  MESSAGES CONFIG_SOURCES DEPENDS ${API_PROTO_FILES})

function(proto_library target alias)
  add_library(${target} STATIC ${ARGN})
  add_library(${alias} ALIAS ${target})
  target_include_directories(${target} SYSTEM PUBLIC ${PROTO_OUT})
  target_compile_options(${target} PRIVATE -w)
  target_link_libraries(${target} PUBLIC protobuf::libprotobuf Threads::Threads)
  if(LONGDOC_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${LONGDOC_SANITIZE})
  endif()
endfunction()

proto_library(longdoc_proto_messages longdoc::proto_messages ${API_SOURCES})
proto_library(longdoc_proto_config longdoc::proto_config ${CONFIG_SOURCES})
proto_library(longdoc_proto longdoc::proto ${GRPC_SOURCES})
target_link_libraries(longdoc_proto PUBLIC longdoc_proto_messages gRPC::grpc++)
