# find_package(longdoc_proto): the API of longdoc as .proto files, which fit whatever protobuf and
# gRPC the client is built with.
#
#   longdoc_proto_add_library(TARGET)  a static library of messages and stubs; headers are
#                                      "longdoc/v1/….pb.h" and "longdoc/v1/….grpc.pb.h"
#   LONGDOC_PROTO_ROOT                 where longdoc/v1/*.proto lie; for other languages
#   LONGDOC_PROTO_DESCRIPTOR_SET       all of them as one FileDescriptorSet, comments included
#   LONGDOC_PROTO_SERVICE_CONFIG       gRPC service configuration for clients, JSON
include(CMakeFindDependencyMacro)
find_dependency(Threads)
find_dependency(Protobuf)
find_dependency(gRPC CONFIG)

get_filename_component(LONGDOC_PROTO_ROOT "${CMAKE_CURRENT_LIST_DIR}/../../longdoc_proto" ABSOLUTE)
set(LONGDOC_PROTO_DESCRIPTOR_SET "${LONGDOC_PROTO_ROOT}/longdoc_api.pb")
set(LONGDOC_PROTO_SERVICE_CONFIG "${LONGDOC_PROTO_ROOT}/service_config.json")
include("${CMAKE_CURRENT_LIST_DIR}/generate.cmake")

function(longdoc_proto_add_library target)
  file(GLOB protos RELATIVE ${LONGDOC_PROTO_ROOT} ${LONGDOC_PROTO_ROOT}/longdoc/v1/*.proto)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/${target})
  longdoc_proto_generate(ROOT ${LONGDOC_PROTO_ROOT} OUT ${out} MESSAGES messages GRPC grpc
                         PROTOS ${protos})
  add_library(${target} STATIC ${messages} ${grpc})
  target_include_directories(${target} SYSTEM PUBLIC ${out})
  target_link_libraries(${target} PUBLIC protobuf::libprotobuf gRPC::grpc++ Threads::Threads)
endfunction()
