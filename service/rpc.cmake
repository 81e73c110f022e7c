# longdoc::session  the handlers without gRPC: protocol, tokenization, answers
# longdoc::rpc      the gRPC services over it
longdoc_add_library(session
  ${CMAKE_CURRENT_LIST_DIR}/content_key.cc
  ${CMAKE_CURRENT_LIST_DIR}/content_order.cc
  ${CMAKE_CURRENT_LIST_DIR}/context.cc
  ${CMAKE_CURRENT_LIST_DIR}/document_info.cc
  ${CMAKE_CURRENT_LIST_DIR}/document_intake.cc
  ${CMAKE_CURRENT_LIST_DIR}/embed_call.cc
  ${CMAKE_CURRENT_LIST_DIR}/encode_call.cc
  ${CMAKE_CURRENT_LIST_DIR}/generate_job.cc
  ${CMAKE_CURRENT_LIST_DIR}/inline_document.cc
  ${CMAKE_CURRENT_LIST_DIR}/item_status.cc
  ${CMAKE_CURRENT_LIST_DIR}/model_info.cc
  ${CMAKE_CURRENT_LIST_DIR}/rank_job.cc
  ${CMAKE_CURRENT_LIST_DIR}/request_options.cc
  ${CMAKE_CURRENT_LIST_DIR}/response_frames.cc
  ${CMAKE_CURRENT_LIST_DIR}/rpc_timer.cc
  ${CMAKE_CURRENT_LIST_DIR}/score_machine.cc
  ${CMAKE_CURRENT_LIST_DIR}/score_session.cc
  ${CMAKE_CURRENT_LIST_DIR}/score_strand.cc
  ${CMAKE_CURRENT_LIST_DIR}/scoring.cc
  ${CMAKE_CURRENT_LIST_DIR}/stream_machine.cc
  ${CMAKE_CURRENT_LIST_DIR}/stream_session.cc
  ${CMAKE_CURRENT_LIST_DIR}/stream_work.cc
  ${CMAKE_CURRENT_LIST_DIR}/text_job.cc
  ${CMAKE_CURRENT_LIST_DIR}/timer_queue.cc
  ${CMAKE_CURRENT_LIST_DIR}/trace_context.cc
)
target_link_libraries(longdoc_session
  PUBLIC longdoc::engine longdoc::proto_messages longdoc::metrics longdoc::log
         absl::status absl::statusor absl::strings absl::str_format absl::time OpenSSL::Crypto)

longdoc_add_library(rpc
  ${CMAKE_CURRENT_LIST_DIR}/document_service.cc
  ${CMAKE_CURRENT_LIST_DIR}/embedding_service.cc
  ${CMAKE_CURRENT_LIST_DIR}/model_service.cc
  ${CMAKE_CURRENT_LIST_DIR}/scoring_service.cc
  ${CMAKE_CURRENT_LIST_DIR}/status.cc
)
target_link_libraries(longdoc_rpc PUBLIC longdoc::session longdoc::proto gRPC::grpc++)
