# Code generation, for the build of longdoc and for the installed package alike. Needs the targets
# protobuf::protoc and, for stubs, gRPC::grpc_cpp_plugin.

# longdoc_proto_generate(ROOT dir OUT dir MESSAGES variable [GRPC variable] PROTOS name...)
# Rules that make OUT/NAME.pb.{cc,h} and OUT/NAME.grpc.pb.{cc,h} of ROOT/NAME.proto, and the lists of
# those files in the variables. DEPENDS: further files whose change makes everything anew.
function(longdoc_proto_generate)
  cmake_parse_arguments(arg "" "ROOT;OUT;MESSAGES;GRPC" "PROTOS;DEPENDS" ${ARGN})
  file(MAKE_DIRECTORY ${arg_OUT})
  set(all_messages "")
  set(all_grpc "")
  foreach(proto IN LISTS arg_PROTOS)
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    set(messages ${arg_OUT}/${stem}.pb.cc ${arg_OUT}/${stem}.pb.h)
    add_custom_command(
      OUTPUT ${messages}
      COMMAND protobuf::protoc -I${arg_ROOT} --cpp_out=${arg_OUT} ${arg_ROOT}/${proto}
      DEPENDS ${arg_ROOT}/${proto} ${arg_DEPENDS} protobuf::protoc
      COMMENT "protoc ${proto}"
      VERBATIM)
    list(APPEND all_messages ${messages})
    if(arg_GRPC)
      set(grpc ${arg_OUT}/${stem}.grpc.pb.cc ${arg_OUT}/${stem}.grpc.pb.h)
      add_custom_command(
        OUTPUT ${grpc}
        COMMAND protobuf::protoc -I${arg_ROOT} --grpc_out=${arg_OUT}
                --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin> ${arg_ROOT}/${proto}
        DEPENDS ${arg_ROOT}/${proto} ${arg_DEPENDS} protobuf::protoc gRPC::grpc_cpp_plugin
        COMMENT "protoc --grpc_out ${proto}"
        VERBATIM)
      list(APPEND all_grpc ${grpc})
    endif()
  endforeach()
  set(${arg_MESSAGES} ${all_messages} PARENT_SCOPE)
  if(arg_GRPC)
    set(${arg_GRPC} ${all_grpc} PARENT_SCOPE)
  endif()
endfunction()
