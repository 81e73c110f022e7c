#include "service/content_key.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace longdoc::service {
namespace {

std::string_view BytesOf(const void* data, size_t size) {
  return {static_cast<const char*>(data), size};
}

// Texts of which none is the beginning of another, so that no two requests look alike.
void AddField(std::string_view value, Sha256* hash) {
  hash->Update(absl::StrCat(value.size(), ":"));
  hash->Update(value);
}

// What of the options changes the encoded document. Neither the client's id nor the declared sizes
// do, nor how often it wants to hear of progress.
std::string Canonical(const DocumentOptions& options) {
  uint32_t epsilon;
  std::memcpy(&epsilon, &options.attention.epsilon, sizeof(epsilon));
  std::string text = absl::StrCat(
      "overflow ", static_cast<int>(options.overflow), " attention ",
      static_cast<int>(options.attention.mode), " ", epsilon, " ", options.attention.window_radius,
      " ", options.attention.num_global, " tokens ", options.token_vectors ? 1 : 0);
  for (const PassageSpec& spec : options.passages) {
    absl::StrAppend(&text, " passages ", static_cast<int>(spec.kind), " ", spec.size);
    for (const longdoc::ByteRange& range : spec.ranges) {
      absl::StrAppend(&text, " ", range.begin, "-", range.end);
    }
  }
  return text;
}

}  // namespace

Sha256::Sha256()
    : context_(EVP_MD_CTX_new()),
      ok_(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1) {}

void Sha256::Update(std::string_view bytes) {
  ok_ = ok_ && EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
}

std::string Sha256::Finish() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  ok_ = ok_ && EVP_DigestFinal_ex(context_.get(), digest, &size) == 1;
  return ok_ ? std::string(BytesOf(digest, size)) : "";
}

void ContentKey::AddText(std::string_view bytes) {
  content_.Update(bytes);
  length_ += static_cast<int64_t>(bytes.size());
}

void ContentKey::AddIds(absl::Span<const int32_t> ids) {
  ids_ = true;
  content_.Update(BytesOf(ids.data(), ids.size() * sizeof(int32_t)));
  length_ += static_cast<int64_t>(ids.size());
}

void ContentKey::AddBreak() { breaks_.Update(BytesOf(&length_, sizeof(length_))); }

std::string ContentKey::Finish(const Model& model, const DocumentOptions& options) {
  const std::string content = content_.Finish(), breaks = breaks_.Finish();
  if (content.empty() || breaks.empty()) return "";
  Sha256 all;
  AddField("longdoc kept document 1", &all);
  AddField(model.name(), &all);
  AddField(model.revision(), &all);
  AddField(Canonical(options), &all);
  AddField(absl::StrCat(ids_ ? "ids " : "text ", length_), &all);
  AddField(content, &all);
  AddField(breaks, &all);
  return all.Finish();
}

}  // namespace longdoc::service
