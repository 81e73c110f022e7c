#include "service/status.h"

#include <grpcpp/server_context.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/base/error_reason.h"

namespace longdoc::service {
namespace {

TEST(Status, CodesAreTheSameNumbers) {
  grpc::CallbackServerContext context;
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status =
        ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(code), "why"), context);
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "why");
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus(), context).ok());
  EXPECT_EQ(absl::StatusCode::kResourceExhausted,
            static_cast<absl::StatusCode>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_EQ(absl::StatusCode::kUnauthenticated,
            static_cast<absl::StatusCode>(grpc::StatusCode::UNAUTHENTICATED));
}

TEST(Status, LongMessagesAreCutBetweenCharacters) {
  EXPECT_EQ(TruncateUtf8("short", 10), "short");
  EXPECT_EQ(TruncateUtf8("0123456789", 4), "0123");
  EXPECT_EQ(TruncateUtf8("ab\xc3\xa9", 3), "ab");  // é is two bytes
  EXPECT_EQ(TruncateUtf8("ab\xc3\xa9z", 4), "ab\xc3\xa9");
  EXPECT_EQ(TruncateUtf8("\xf0\x9f\x98\x80", 3), "");      // an emoji is four
  EXPECT_EQ(TruncateUtf8(std::string(9, '\x80'), 4), "");  // no character at all
  grpc::CallbackServerContext context;
  const grpc::Status status = ToGrpcStatus(absl::InternalError(std::string(5000, 'x')), context);
  EXPECT_EQ(status.error_message().size(), kMaxStatusMessageBytes);
}

}  // namespace
}  // namespace longdoc::service
