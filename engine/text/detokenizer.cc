#include "engine/text/detokenizer.h"

#include <string_view>

#include "engine/text/byte_level.h"

namespace longdoc {
namespace {

constexpr std::string_view kContinuation = "##";

bool ClingsToWord(std::string_view token) {
  return token == "." || token == "," || token == "!" || token == "?";
}

}  // namespace

std::string Detokenizer::Next(int32_t id) {
  const SpecialTokens& special = tokenizer_.special();
  if (id == special.pad || id == special.cls || id == special.sep || id == special.mask) return "";
  std::string_view token = tokenizer_.TokenText(id);
  if (tokenizer_.byte_level()) {
    std::string bytes;
    // An added token is spelled as it is.
    return ByteLevelBytes(token, &bytes) ? bytes : std::string(token);
  }
  if (token.empty()) return "";
  const bool joined =
      token.size() > kContinuation.size() && token.substr(0, kContinuation.size()) == kContinuation;
  if (joined) token.remove_prefix(kContinuation.size());
  std::string text;
  if (after_text_ && !joined && !ClingsToWord(token)) text = " ";
  after_text_ = true;
  return text.append(token);
}

}  // namespace longdoc
