// --config with several files: which are read, in which order, and how they combine.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/config.h"

namespace longdoc::service {
namespace {

using ::testing::HasSubstr;

class ConfigFiles : public ::testing::Test {
 protected:
  ConfigFiles()
      : directory_(testing::TempDir() + "longdoc_config_files_" + std::to_string(getpid())) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~ConfigFiles() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name) << text;
  }
  absl::StatusOr<ServerOptions> Read() {
    const auto texts = ReadConfigFiles(directory_);
    return texts.ok() ? ParseServerConfig(*texts) : texts.status();
  }

  const std::string directory_;
};

TEST_F(ConfigFiles, LaterNamesWinFieldByField) {
  Write("50-tls.textproto", "security { allow_insecure: false }");
  Write("10-server.textproto",
        "listen_address: '127.0.0.1:1' models { name: 'a' directory: '/a' } "
        "limits { max_texts: 5 max_passages: 7 } security { allow_insecure: true }");
  Write("20-sizing.textproto",
        "models { name: 'b' directory: '/b' } limits { max_texts: 6 } engine { threads: 3 }");
  const auto options = Read();
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->listen_address, "127.0.0.1:1");
  EXPECT_EQ(options->limits.max_texts, 6);
  EXPECT_EQ(options->limits.document.max_passages, 7);
  EXPECT_EQ(options->engine.num_threads, 3);
  EXPECT_FALSE(options->security.allow_insecure) << "false, the proto's default, wins, too";
  ASSERT_EQ(options->models.size(), 2u);
  EXPECT_EQ(options->models[0].name, "a");
  EXPECT_EQ(options->models[1].name, "b");
}

// As Kubernetes mounts a ConfigMap: NAME -> ..data/NAME, ..data -> ..VERSION.
TEST_F(ConfigFiles, FollowsLinksAndLeavesOtherFilesOut) {
  std::filesystem::create_directory(directory_ + "/..version");
  Write("..version/a.textproto", "limits { max_texts: 5 }");
  std::filesystem::create_symlink("..version", directory_ + "/..data");
  std::filesystem::create_symlink("..data/a.textproto", directory_ + "/a.textproto");
  Write("README", "not a configuration");
  Write("b.textproto.bak", "nor this");
  Write(".hidden.textproto", "nor this");
  const auto options = Read();
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->limits.max_texts, 5);
}

TEST_F(ConfigFiles, ErrorsNameTheFile) {
  Write("10-a.textproto", "limits { max_texts: 5 }");
  Write("20-b.textproto", "limits {\n no_such_field: 1 }");
  const auto unknown = Read();
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(unknown.status().message(), HasSubstr("20-b.textproto, line 2 column"));
  Write("20-b.textproto", "limits { max_texts: 1 max_texts: 2 }");
  const auto twice = Read();
  ASSERT_FALSE(twice.ok());
  EXPECT_THAT(twice.status().message(), HasSubstr("20-b.textproto, line 1"));
}

TEST_F(ConfigFiles, RefusesWhatHoldsNoConfiguration) {
  EXPECT_THAT(ReadConfigFiles(directory_).status().message(), HasSubstr("no files *.textproto"));
  EXPECT_THAT(ReadConfigFiles("/nowhere/file").status().message(), HasSubstr("/nowhere/file"));
  std::filesystem::create_symlink("nowhere", directory_ + "/a.textproto");
  EXPECT_THAT(ReadConfigFiles(directory_).status().message(), HasSubstr("a.textproto"));
  std::filesystem::remove(directory_ + "/a.textproto");
  for (int i = 0; i < 65; ++i) Write(std::to_string(i) + ".textproto", "");
  EXPECT_THAT(ReadConfigFiles(directory_).status().message(), HasSubstr("more than 64"));
}

}  // namespace
}  // namespace longdoc::service
