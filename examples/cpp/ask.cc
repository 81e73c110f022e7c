// Streams a document to longdoc, keeps it and asks it questions.
//
//   ask TARGET DOCUMENT MODEL QUESTION...
//
// TARGET is HOST:PORT, or dns:///HOST:PORT for all servers behind a name.
#include <grpcpp/security/credentials.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "longdoc_client.h"

namespace {

namespace v1 = longdoc::v1;
constexpr LongdocClient::Seconds kDeadline{600};

// Components of a FLOAT32 vector, the default encoding: little-endian on the wire.
std::vector<float> Floats(const v1::Vector& vector) {
  std::vector<float> numbers;
  for (size_t i = 0; i + 4 <= vector.data().size(); i += 4) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 4; ++k) {
      bits |= static_cast<uint32_t>(static_cast<uint8_t>(vector.data()[i + k])) << (8 * k);
    }
    float number;
    std::memcpy(&number, &bits, sizeof(number));
    numbers.push_back(number);
  }
  return numbers;
}

// Of unit vectors, the default.
double Cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

int Fail(const Outcome& outcome) {
  std::fprintf(stderr, "ask: code %d %s: %s (request %s)\n", outcome.code, outcome.reason.c_str(),
               outcome.message.c_str(), outcome.request_id.c_str());
  return 1;
}

int Embed(LongdocClient& client, const OpenDocument& open, const std::string& model,
          const std::vector<std::string>& questions) {
  v1::DocumentHeader header;
  header.set_model(model);
  header.add_passages()->set_tokens(256);
  EmbeddedDocument answer;
  Outcome outcome = client.EmbedDocument(header, open, kDeadline, &answer);
  if (!outcome.ok()) return Fail(outcome);
  const std::vector<float> whole = Floats(answer.result.vector());
  std::printf("document %lld tokens, %zu dimensions, %zu passages\n",
              static_cast<long long>(answer.result.stats().encoded_tokens()), whole.size(),
              answer.passages.size());

  v1::EmbedTextsRequest request;
  request.set_model(model);
  for (const std::string& question : questions) request.add_inputs()->set_text(question);
  v1::EmbedTextsResponse response;
  outcome = client.EmbedTexts(request, kDeadline, &response);
  if (!outcome.ok()) return Fail(outcome);
  for (int i = 0; i < response.items_size(); ++i) {
    const v1::EmbedTextsResponse::Item& item = response.items(i);
    if (item.status().code() != 0) {  // one bad text does not spoil the others
      std::printf("text failed %s: %s\n", item.status().reason().c_str(),
                  item.status().message().c_str());
      continue;
    }
    const std::vector<float> vector = Floats(item.vector());
    double best = -2;
    v1::ByteRange near;
    for (const v1::PassageVector& passage : answer.passages) {
      const double cosine = Cosine(vector, Floats(passage.vector()));
      if (cosine > best) {
        best = cosine;
        near = passage.bytes();
      }
    }
    std::printf("cosine %.5f nearest bytes %lld-%lld: %s\n", Cosine(vector, whole),
                static_cast<long long>(near.begin()), static_cast<long long>(near.end()),
                questions[static_cast<size_t>(i)].c_str());
  }
  return 0;
}

int Ask(LongdocClient& client, const OpenDocument& open, const std::string& model,
        const std::vector<std::string>& questions) {
  v1::DocumentHeader header;
  header.set_model(model);
  std::vector<v1::CandidateScore> scores;
  Outcome outcome;
  // Expired, evicted, or kept by a process that is no more: encode it again.
  constexpr int kRounds = 3;
  for (int round = 0; round < kRounds; ++round) {
    v1::Document document;
    outcome = client.KeepDocument(header, open, kDeadline, &document);
    if (!outcome.ok()) return Fail(outcome);
    outcome = client.ScoreCandidates(document.name(), questions, kDeadline, &scores);
    if (outcome.code != grpc::StatusCode::NOT_FOUND) break;
  }
  if (!outcome.ok()) return Fail(outcome);
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i].status().code() != 0) {
      std::printf("score failed %s: %s\n", scores[i].status().reason().c_str(),
                  scores[i].status().message().c_str());
      continue;
    }
    std::printf("score %.5f: %s\n", scores[i].scores(0).score(), questions[i].c_str());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: ask TARGET DOCUMENT MODEL QUESTION...\n");
    return 2;
  }
  const std::string path = argv[2];
  const OpenDocument open = [&path] {
    return std::make_unique<std::ifstream>(path, std::ios::binary);
  };
  if (!std::ifstream(path)) {
    std::fprintf(stderr, "ask: cannot read %s\n", path.c_str());
    return 1;
  }
  const std::vector<std::string> questions(argv + 4, argv + argc);
  LongdocClient client(argv[1], grpc::InsecureChannelCredentials());
  const int failed = Embed(client, open, argv[3], questions);
  return failed != 0 ? failed : Ask(client, open, argv[3], questions);
}
