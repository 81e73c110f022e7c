// The list of golden models in one folder of tests/golden, and where their stored numbers lie.
#pragma once

#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/safetensors.h"

namespace longdoc::testing {

// Aborts when the committed files are missing or broken: a test cannot go on without them.
class GoldenManifest {
 public:
  explicit GoldenManifest(const std::string& folder)
      : dir_(absl::StrCat(LONGDOC_SOURCE_DIR, "/tests/golden/", folder)) {
    std::ifstream in(dir_ + "/manifest.json");
    LD_CHECK(in.good());
    json_ = nlohmann::json::parse(in);
  }

  const nlohmann::json& operator[](const char* key) const { return json_[key]; }
  const nlohmann::json& Model(const std::string& name) const {
    for (const nlohmann::json& model : json_["models"]) {
      if (model["name"] == name) return model;
    }
    LD_CHECK(!"no golden model of this name");
    std::abort();
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const nlohmann::json& model : json_["models"]) {
      names.push_back(model["name"].get<std::string>());
    }
    return names;
  }
  // The numbers of one model. PyTorch wrote them with the format's own library, so this reads real
  // files too.
  std::unique_ptr<const Checkpoint> OpenNumbers(const std::string& name) const {
    auto checkpoint = Checkpoint::Open(absl::StrCat(dir_, "/", name));
    LD_CHECK(checkpoint.ok());
    return *std::move(checkpoint);
  }

 private:
  std::string dir_;
  nlohmann::json json_;
};

}  // namespace longdoc::testing
