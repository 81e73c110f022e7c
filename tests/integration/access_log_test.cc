// Over loopback: request ids, traces and the access log of every RPC, whatever its outcome.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/integration/rpc_harness.h"
#include "tests/integration/scoring_client.h"
#include "tests/support/log_capture.h"

namespace longdoc::testing {
namespace {

using nlohmann::json;

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kCallersSpan[] = "00f067aa0ba902b7";
// A word of every document, text, query, candidate and prompt here, and in the wrong places, too.
constexpr char kSecret[] = "xyzzysecret";

std::string InitialValue(const grpc::ClientContext& context, const std::string& key) {
  const auto& metadata = context.GetServerInitialMetadata();
  const auto it = metadata.find(key);
  return it == metadata.end() ? "" : std::string(it->second.data(), it->second.size());
}

// A call of one RPC. `good`: it succeeds, else it is refused for what it says.
struct Case {
  std::string method;
  std::function<grpc::Status(RpcHarness&, grpc::ClientContext*, bool good)> call;
};

template <typename Response, typename Stream>
grpc::Status ReadAll(Stream& stream) {
  Response response;
  while (stream.Read(&response)) {
  }
  return stream.Finish();
}

std::string Text() { return "the quick " + std::string(kSecret) + " fox"; }

// What a refused call names: no model, no document.
std::string ModelName(bool good) { return good ? "" : kSecret; }

std::vector<Case> UnaryCases(const std::string& kept) {
  return {
      {"EmbedTexts",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::EmbedTextsRequest request;
         request.set_model(ModelName(good));
         for (int i = 0; i < 3; ++i) request.add_inputs()->set_text(Text());
         v1::EmbedTextsResponse response;
         return h.embeddings().EmbedTexts(context, request, &response);
       }},
      {"GetModel",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::GetModelRequest request;
         request.set_model(ModelName(good));
         v1::GetModelResponse response;
         return h.models().GetModel(context, request, &response);
       }},
      {"Tokenize",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::TokenizeRequest request;
         request.set_model(ModelName(good));
         request.set_text(Text());
         v1::TokenizeResponse response;
         return h.models().Tokenize(context, request, &response);
       }},
      {"EstimateDocument",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::EstimateDocumentRequest request;
         request.set_model(ModelName(good));
         request.set_tokens(100);
         v1::EstimateDocumentResponse response;
         return h.models().EstimateDocument(context, request, &response);
       }},
      {"GetDocument",
       [kept](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::GetDocumentRequest request;
         request.set_name(good ? kept : kSecret);
         v1::Document response;
         return h.documents().GetDocument(context, request, &response);
       }},
      {"ListDocuments",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::ListDocumentsRequest request;
         if (!good) request.set_page_token(kSecret);
         v1::ListDocumentsResponse response;
         return h.documents().ListDocuments(context, request, &response);
       }},
      {"RankDocuments",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::RankDocumentsRequest request;
         request.set_model(ModelName(good));
         request.mutable_query()->set_text(Text());
         for (int i = 0; i < 2; ++i) request.add_documents()->mutable_text()->set_text(Text());
         v1::RankDocumentsResponse response;
         return h.scoring().RankDocuments(context, request, &response);
       }},
  };
}

std::vector<Case> StreamCases(const std::string& kept) {
  return {
      {"EmbedDocument",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         auto stream = h.embeddings().EmbedDocument(context);
         v1::EmbedDocumentRequest request;
         request.mutable_header()->set_document_id("doc 1");
         request.mutable_header()->add_passages()->set_tokens(2);
         stream->Write(request);
         request.mutable_chunk()->set_text(Text() + (good ? "" : "\xff"));
         stream->Write(request);
         stream->WritesDone();
         return ReadAll<v1::EmbedDocumentResponse>(*stream);
       }},
      {"EncodeDocument",
       [](RpcHarness& h, grpc::ClientContext* context, bool good) {
         auto stream = h.documents().EncodeDocument(context);
         v1::EncodeDocumentRequest request;
         request.mutable_header()->mutable_document()->set_model(ModelName(good));
         stream->Write(request);
         request.mutable_chunk()->set_text("another " + Text());
         stream->Write(request);
         stream->WritesDone();
         return ReadAll<v1::EncodeDocumentResponse>(*stream);
       }},
      {"ScoreCandidates",
       [kept](RpcHarness& h, grpc::ClientContext* context, bool good) {
         auto stream = h.scoring().ScoreCandidates(context);
         v1::ScoreCandidatesRequest request;
         request.mutable_header()->set_name(good ? kept : kSecret);
         stream->Write(request);
         for (int i = 0; i < 4; ++i) {
           request.mutable_candidate()->set_text(Text());
           request.mutable_candidate()->set_id(kSecret);
           stream->Write(request);
         }
         stream->WritesDone();
         return ReadAll<v1::ScoreCandidatesResponse>(*stream);
       }},
      {"GenerateText",
       [kept](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::GenerateTextRequest request;
         request.set_document(good ? kept : kSecret);
         request.mutable_prompt()->set_text(Text());
         request.set_max_new_tokens(3);
         auto stream = h.scoring().GenerateText(context, request);
         return ReadAll<v1::GenerateTextResponse>(*stream);
       }},
      {"ListModels",
       [](RpcHarness& h, grpc::ClientContext* context, bool) {
         v1::ListModelsResponse response;
         return h.models().ListModels(context, v1::ListModelsRequest(), &response);
       }},
      {"DeleteDocument",
       [kept](RpcHarness& h, grpc::ClientContext* context, bool good) {
         v1::DeleteDocumentRequest request;
         request.set_name(good ? kept : kSecret);
         v1::DeleteDocumentResponse response;
         return h.documents().DeleteDocument(context, request, &response);
       }},
  };
}

class AccessLog : public ::testing::Test {
 protected:
  void SetUp() override {
    harness_ = RpcHarness::WithEngine({}, {}, "colt5-tiny");
    v1::Document kept;
    ASSERT_TRUE(KeepText(*harness_, Text() + " jumps", &kept).ok());
    ASSERT_TRUE(harness_->WaitUntilIdle());
    cases_ = StreamCases(kept.name());
    // Before the last one, which deletes the document.
    for (Case& c : UnaryCases(kept.name())) cases_.insert(cases_.begin(), std::move(c));
  }

  // Calls, and checks what comes back and the one line in the log.
  json LineOf(const Case& c, bool good) {
    SCOPED_TRACE(c.method + (good ? " good" : " bad"));
    LogCapture log;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    context.AddMetadata("x-request-id", "request-" + c.method);
    context.AddMetadata("traceparent", std::string("00-") + kTraceId + "-" + kCallersSpan + "-01");
    const grpc::Status status = c.call(*harness_, &context, good);
    EXPECT_EQ(status.ok(), good) << status.error_message();
    const auto lines = log.WaitForEvents("rpc", 1);
    EXPECT_TRUE(harness_->WaitUntilIdle());
    EXPECT_EQ(log.Events("rpc").size(), 1u);
    EXPECT_EQ(log.Text().find(kSecret), std::string::npos) << log.Text();
    if (lines.empty()) return json::object();
    const json& line = lines[0];
    // A refusal is nothing but its end: otherwise gRPC's retry policies would not retry it.
    if (!good) {
      EXPECT_TRUE(context.GetServerInitialMetadata().empty()) << c.method;
    }
    const auto value = [&](const char* key) {
      return good ? InitialValue(context, key) : TrailingValue(context, key);
    };
    EXPECT_EQ(value("x-request-id"), "request-" + c.method);
    EXPECT_EQ(value("traceparent"),
              std::string("00-") + kTraceId + "-" + line.value("span_id", "none") + "-01");
    EXPECT_EQ(line["method"], c.method);
    EXPECT_EQ(line["request_id"], "request-" + c.method);
    EXPECT_EQ(line["trace_id"], kTraceId);
    EXPECT_EQ(line["parent_span_id"], kCallersSpan);
    EXPECT_EQ(line.value("peer", "").substr(0, 15), "ipv4:127.0.0.1:");
    EXPECT_EQ(line["reason"], TrailingValue(context, "longdoc-reason"));
    return line;
  }

  std::unique_ptr<RpcHarness> harness_;
  std::vector<Case> cases_;
};

TEST_F(AccessLog, EveryRpcEchoesWhoCallsAndHasOneLineWithoutText) {
  ASSERT_EQ(cases_.size(), 13u) << "every RPC";
  for (const Case& c : cases_) {
    if (c.method != "ListModels") {  // nothing in it can be wrong
      const json bad = LineOf(c, false);
      EXPECT_NE(bad["code"], "OK") << c.method;
      EXPECT_NE(bad["reason"], "") << c.method;
    }
    const json good = LineOf(c, true);
    EXPECT_EQ(good["code"], "OK") << c.method;
    EXPECT_GT(good["bytes_sent"].get<int64_t>() + (c.method == "DeleteDocument"), 0) << c.method;
    EXPECT_GT(good["total_seconds"].get<double>(), 0) << c.method;
  }
}

TEST_F(AccessLog, LinesCountWhatWasDone) {
  std::map<std::string, json> lines;
  for (const Case& c : cases_) lines[c.method] = LineOf(c, true);
  for (const char* method : {"EmbedTexts", "EmbedDocument", "EncodeDocument", "ScoreCandidates",
                             "RankDocuments", "GenerateText", "Tokenize"}) {
    EXPECT_GT(lines[method]["tokens"], 0) << method;
    EXPECT_GT(lines[method]["bytes_received"], 0) << method;
  }
  for (const char* method : {"EmbedTexts", "EmbedDocument", "EncodeDocument", "RankDocuments"}) {
    const json& line = lines[method];
    EXPECT_GT(line["tokenize_seconds"], 0) << method;
    EXPECT_GT(line["encode_seconds"], 0) << method;
    EXPECT_GE(line["total_seconds"], line["encode_seconds"]) << method;
    EXPECT_EQ(line["model"], "colt5-tiny") << method;
  }
  for (const char* method : {"ScoreCandidates", "RankDocuments", "GenerateText"}) {
    EXPECT_GT(lines[method]["score_seconds"], 0) << method;
  }
  EXPECT_EQ(lines["EmbedTexts"]["items"], 3);
  EXPECT_EQ(lines["ScoreCandidates"]["items"], 4);
  EXPECT_EQ(lines["RankDocuments"]["items"], 2);
  EXPECT_EQ(lines["EmbedDocument"]["document_id"], "doc 1");
  EXPECT_GT(lines["EmbedDocument"]["passages"], 1);
  EXPECT_GT(lines["EmbedDocument"]["receive_seconds"], 0);
}

TEST_F(AccessLog, RejectionsAreAnsweredAndLoggedLikeAllOthers) {
  std::thread drain([this] { harness_->server().Drain(); });
  ASSERT_TRUE(WaitFor([this] { return harness_->server().context().draining.load(); }));
  const json line = LineOf(cases_.front(), false);
  EXPECT_EQ(line["code"], "UNAVAILABLE");
  EXPECT_EQ(line["reason"], "DRAINING");
  drain.join();
}

TEST_F(AccessLog, WhatIsNoRequestIdOrTraceIsReplaced) {
  LogCapture log;
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "two words");
  context.AddMetadata("traceparent", "00-nonsense");
  v1::ListModelsResponse response;
  ASSERT_TRUE(harness_->models().ListModels(&context, v1::ListModelsRequest(), &response).ok());
  EXPECT_EQ(InitialValue(context, "x-request-id").size(), 32u);
  const auto lines = log.WaitForEvents("rpc", 1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["request_id"], InitialValue(context, "x-request-id"));
  EXPECT_EQ(lines[0]["parent_span_id"], "");
  EXPECT_EQ(InitialValue(context, "traceparent"),
            "00-" + lines[0].value("trace_id", "") + "-" + lines[0].value("span_id", "") + "-00");
  EXPECT_TRUE(harness_->WaitUntilIdle());
}

}  // namespace
}  // namespace longdoc::testing
