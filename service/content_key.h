// The key under which a kept document is found by its content: SHA-256 over everything that its
// encoded form depends on. However the content was cut into messages, the key is the same.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/types/span.h"
#include "engine/engine.h"
#include "service/request_options.h"

namespace longdoc::service {

class Sha256 {
 public:
  Sha256();
  void Update(std::string_view bytes);
  // The digest, 32 bytes; empty when the library failed (out of memory). Once.
  std::string Finish();

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
  bool ok_;
};

// Not thread-safe; one per document, fed as its content comes. Memory: two hash states.
class ContentKey {
 public:
  void AddText(std::string_view bytes);
  void AddIds(absl::Span<const int32_t> ids);
  // A passage border at the current end of the content.
  void AddBreak();
  // 32 bytes; empty when the library failed. Once.
  std::string Finish(const Model& model, const DocumentOptions& options);

 private:
  Sha256 content_, breaks_;
  int64_t length_ = 0;  // bytes, or ids
  bool ids_ = false;
};

}  // namespace longdoc::service
