#include "service/credentials.h"

#include <fstream>
#include <string>

#include "engine/base/error_reason.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longdoc::service {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/credentials_" + name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

TEST(ReadBearerToken, TakesTheFirstLine) {
  for (const char* text : {"secret-1", "secret-1\n", "secret-1\r\n", "secret-1\nother\n"}) {
    const auto token = ReadBearerToken(WriteFile("token", text));
    ASSERT_TRUE(token.ok()) << token.status();
    EXPECT_EQ(*token, "secret-1");
  }
}

TEST(ReadBearerToken, RefusesBadFilesWithoutShowingThem) {
  for (const std::string& text :
       {std::string(), std::string("\nsecret-1"), std::string("secret 1"),
        std::string("secret\xc3\xa9"), std::string(5000, 's'), std::string(2 << 20, 's')}) {
    const auto token = ReadBearerToken(WriteFile("bad", text));
    ASSERT_FALSE(token.ok());
    EXPECT_EQ(token.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(token.status().message()), HasSubstr("bearer_token_file"));
    EXPECT_THAT(std::string(token.status().message()), Not(HasSubstr("secret")));
  }
  EXPECT_FALSE(ReadBearerToken("/nowhere/token").ok());
}

TEST(CheckAuthorization, OnlyTheWholeTokenPasses) {
  EXPECT_TRUE(CheckAuthorization("abcdef", "Bearer abcdef").ok());
  EXPECT_TRUE(CheckAuthorization("abcdef", "bearer abcdef").ok());  // RFC 7235: any case
  for (const char* bad : {"", "Bearer", "Bearer ", "abcdef", "Basic abcdef", "Bearer abcde",
                          "Bearer abcdefg", "Bearer abcdef ", "Bearer abcdeg", "Bearer bbcdef",
                          "Bearer abcdefabcdef", "Bearer  abcdef"}) {
    const absl::Status status = CheckAuthorization("abcdef", bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << bad;
    EXPECT_EQ(ReasonOf(status), "UNAUTHENTICATED");
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("abcdef")));
  }
}

TEST(MakeServerCredentials, NamesTheBadFile) {
  SecurityConfig security;
  EXPECT_TRUE(MakeServerCredentials(security).ok()) << "plain text";
  security.tls_certificate_file = "/nowhere/cert.pem";
  security.tls_key_file = WriteFile("key", "not a key");
  auto made = MakeServerCredentials(security);
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(std::string(made.status().message()), HasSubstr("tls_certificate_file"));
  security.tls_certificate_file = WriteFile("cert", "-----BEGIN CERTIFICATE-----");
  made = MakeServerCredentials(security);
  ASSERT_FALSE(made.ok());
  EXPECT_THAT(std::string(made.status().message()), HasSubstr("tls_key_file"));
}

TEST(MakeAuthorizer, NullWithoutATokenFile) {
  const auto none = MakeAuthorizer(SecurityConfig());
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(*none, nullptr);
}

}  // namespace
}  // namespace longdoc::service
