// Drives a session of EmbedDocument, and one of EncodeDocument, with arbitrary events, in arbitrary
// order, as far as a transport could deliver them. The harness aborts when the session breaks the
// rules of gRPC's reactors, or when something holds on to it after the end.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "service/log.h"
#include "tests/support/session_harness.h"

namespace {

// Takes the input apart from the front; zeros when it is used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t Byte() { return at_ < size_ ? data_[at_++] : 0; }
  std::string Bytes(size_t count) {
    count = std::min(count, size_ - at_);
    std::string out(reinterpret_cast<const char*>(data_) + at_, count);
    at_ += count;
    return out;
  }

 private:
  const uint8_t* const data_;
  const size_t size_;
  size_t at_ = 0;
};

void Step(longdoc::testing::SessionHarness& h, Input& in, int64_t* offset) {
  using longdoc::v1::EmbedDocumentRequest;
  const uint8_t kind = in.Byte() % 16;
  const bool reading = h.transport().reading();
  switch (kind) {
    case 0: {  // a message from arbitrary bytes
      EmbedDocumentRequest message;
      if (reading && message.ParseFromString(in.Bytes(in.Byte()))) h.Message(std::move(message));
      break;
    }
    case 1: {  // a header from arbitrary bytes
      longdoc::v1::DocumentHeader header;
      if (reading && header.ParseFromString(in.Bytes(in.Byte()))) h.Header(header);
      break;
    }
    case 2: {  // a header that will do
      longdoc::v1::DocumentHeader header;
      const uint8_t bits = in.Byte();
      header.set_token_vectors(bits & 1);
      if (bits & 2) header.add_passages()->set_tokens(1 + bits % 5);
      if (bits & 4) header.add_passages()->mutable_breaks();
      if (bits & 8) header.add_passages()->mutable_sentences();
      header.set_overflow(static_cast<longdoc::v1::Overflow>(bits >> 6));
      if (reading) h.Header(header);
      break;
    }
    case 3:
    case 4: {  // the next text, mostly at the right offset
      const int64_t at = *offset + (kind == 4 && in.Byte() == 255 ? 1 : 0);
      std::string text = in.Bytes(in.Byte());
      *offset = at + static_cast<int64_t>(text.size());
      if (reading) h.Text(at, std::move(text));
      break;
    }
    case 5:
      if (reading) h.Ids(*offset, {in.Byte(), in.Byte()});
      *offset += 2;
      break;
    case 6:
      if (reading) h.Break();
      break;
    case 7:
      if (reading) h.HalfClose();
      break;
    case 8:
      if (h.transport().writing()) h.WriteDone(in.Byte() % 8 != 0);
      break;
    case 9:
      h.RunOneJob();
      break;
    case 10:
      h.RunJobs();
      break;
    case 11:
      h.engine().Complete(in.Byte() % 4 != 0 ? absl::OkStatus() : absl::InternalError("fuzz"));
      break;
    case 12:
      h.engine().Progress(in.Byte() / 255.0);
      break;
    case 13:
      h.timers().Advance(in.Byte() / 8.0);
      break;
    case 14:
      h.session().OnCancel();
      break;
    default:
      h.context().draining = in.Byte() % 2 == 0;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longdoc::service::Limits limits;
  limits.document = {.max_tokens = 60, .max_bytes = 400, .max_passages = 40};
  limits.max_frame_bytes = 256;
  limits.read_high_watermark_bytes = 128;
  // The same events to both RPCs; a budget that some documents pass.
  using longdoc::service::MakeEmbedCall;
  using longdoc::service::MakeEncodeCall;
  for (const longdoc::testing::MakeCall make_call : {&MakeEmbedCall, &MakeEncodeCall}) {
    const auto test = std::make_shared<longdoc::testing::TestContext>(limits, 1500);
    {
      longdoc::testing::SessionHarness harness(test, /*deadline_seconds=*/100, make_call);
      harness.Start();
      Input in(data, size);
      int64_t offset = 0;
      while (!in.empty()) Step(harness, in, &offset);
    }
    const longdoc::DocumentStoreStats stats = test->documents.stats();
    LD_CHECK(test->context.open_streams == 0);
    LD_CHECK(stats.reserved_bytes == 0 && stats.pinned_documents == 0);
    LD_CHECK(stats.held.total() <= stats.budget_bytes);
  }
  return 0;
}
