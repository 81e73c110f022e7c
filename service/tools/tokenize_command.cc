// longdoc tokenize
#include <cstdint>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/tokenizer.h"
#include "service/tools/command.h"
#include "service/tools/embedded.h"
#include "service/tools/input.h"
#include "service/tools/options.h"

namespace longdoc::tools {
namespace {

constexpr size_t kChunkBytes = 64 << 10;
constexpr int64_t kMaxVocabularyBytes = 64 << 20;

struct TokenizeArgs {
  std::string model, vocab, format = "ids";
  std::string input = "-";
  bool no_special = false;
  int64_t max_tokens = 0;  // 0: all
};

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const TokenizeArgs& args) {
  if (!args.model.empty()) return LoadTokenizer(args.model);
  if (args.vocab.empty()) return ParseVocabTxt(EmbeddedVocabulary());
  ASSIGN_OR_RETURN(const std::string text, ReadAll(args.vocab, kMaxVocabularyBytes));
  return ParseVocabTxt(text);
}

// Writes tokens as they come; every format streams.
class TokenWriter {
 public:
  TokenWriter(const Tokenizer& tokenizer, const TokenizeArgs& args)
      : tokenizer_(tokenizer), args_(args) {}

  void Write(int32_t id, ByteRange bytes) {
    if (args_.format == "ids") {
      std::cout << (count_ == 0 ? "" : " ") << id;
    } else if (args_.format == "json") {
      const nlohmann::ordered_json json = {{"id", id},
                                           {"text", std::string(tokenizer_.TokenText(id))},
                                           {"byte_range", {bytes.begin, bytes.end}}};
      std::cout << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    }
    ++count_;
    end_ = bytes.end;
  }
  int64_t count() const { return count_; }
  int64_t end() const { return end_; }  // byte behind the last token

 private:
  const Tokenizer& tokenizer_;
  const TokenizeArgs& args_;
  int64_t count_ = 0;
  int64_t end_ = 0;
};

// Passes the source's tokens, at most `room` of them, to the writer. With the format "text", keeps
// the text in *text.
absl::Status Stream(const Tokenizer& tokenizer, ByteSource& source, int64_t room,
                    TokenWriter* writer, std::string* text) {
  std::unique_ptr<StreamingTokenizer> stream = tokenizer.NewStream();
  std::string chunk;
  bool more = true;
  while (more && room > 0) {
    RETURN_IF_ERROR(source.Read(kChunkBytes, &chunk));
    more = !chunk.empty();
    RETURN_IF_ERROR(more ? stream->Append(chunk) : stream->Finish());
    if (text != nullptr) text->append(chunk);
    const TokenSequence tokens = stream->Take();
    for (size_t i = 0; i < tokens.ids.size() && room > 0; ++i, --room) {
      writer->Write(tokens.ids[i], tokens.bytes[i]);
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenize(const TokenizeArgs& args) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, MakeTokenizer(args));
  ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenSource(args.input));
  const bool special = !args.no_special;
  const int32_t cls = tokenizer->special().cls, sep = tokenizer->special().sep;
  int64_t room = args.max_tokens > 0 ? args.max_tokens : INT64_MAX;
  if (special) room -= (cls >= 0) + (sep >= 0);

  TokenWriter writer(*tokenizer, args);
  std::string text;
  const bool want_text = args.format == "text";
  if (special && cls >= 0) writer.Write(cls, {});
  RETURN_IF_ERROR(Stream(*tokenizer, *source, room, &writer, want_text ? &text : nullptr));
  const int64_t end = writer.end();
  if (special && sep >= 0) writer.Write(sep, {end, end});
  if (want_text) std::cout << text.substr(0, static_cast<size_t>(end));
  if (args.format == "count") std::cout << writer.count();
  if (args.format == "ids" || args.format == "count") std::cout << '\n';
  std::cout.flush();
  return std::cout ? absl::OkStatus() : absl::DataLossError("cannot write to standard output");
}

}  // namespace

int RunTokenize(const std::vector<std::string>& words) {
  TokenizeArgs args;
  OptionParser parser(
      "longdoc tokenize", "[OPTIONS] [FILE]",
      "Prints the WordPiece tokens of a UTF-8 text (FILE, or standard input).",
      "  longdoc tokenize book.txt > book.ids\n"
      "  echo 'Hello, world' | longdoc tokenize --format json\n"
      "  longdoc tokenize --max-tokens 100000 --format text book.txt > beginning.txt");
  parser.AddString("model", "DIR", "use this model's tokenizer instead of our vocabulary",
                   &args.model);
  parser.AddString("vocab", "FILE", "use this vocab.txt", &args.vocab);
  parser.AddChoice("format", {"ids", "json", "text", "count"},
                   "ids on one line; a JSON object a token; the text\nthat the tokens cover; or "
                   "their number",
                   &args.format);
  parser.AddFlag("no-special", "leave out [CLS] and [SEP]", &args.no_special);
  parser.AddInt("max-tokens", "N", "stop behind so many, special ones counted; 0: never", 0,
                int64_t{1} << 40, &args.max_tokens);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (parser.positional().size() > 1) return UsageError(parser.command(), "takes one file");
  if (!args.model.empty() && !args.vocab.empty()) {
    return UsageError(parser.command(), "--model and --vocab exclude each other");
  }
  if (args.max_tokens > 0 && args.max_tokens < 3 && !args.no_special) {
    return UsageError(parser.command(),
                      "--max-tokens below 3 leaves no room beside [CLS] and [SEP]");
  }
  if (parser.positional().size() == 1) args.input = parser.positional()[0];
  const absl::Status status = Tokenize(args);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools
