// Fuzzes the tokenizer loaders and the streaming tokenizer.
//
// The first byte chooses: 0 the rest is a tokenizer.json; 1 the rest is a vocab.txt; 4 the rest is
// a merges.txt, for a vocabulary of single bytes and a few pairs; else the rest is text, cut at
// random places, that must give the same tokens or the same error as in one piece: by WordPiece
// (odd values keep accents and case), or, from 'B' on, by byte-level BPE (odd values put a space
// before each text).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>

#include "engine/text/byte_level.h"
#include "engine/text/sentence_splitter.h"
#include "engine/text/tokenizer.h"

namespace longdoc {
namespace {

void Check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "tokenizer_fuzzer: %s\n", what);
  std::abort();
}

constexpr char kVocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n##a\n##b\n##c\nab\n##abc\n.\n[\n]\ne\n##e\n"
    "\xc3\xa9\n##\xcc\x81\n\xe4\xb8\xad\n\xe1\x84\x92\n##\xe1\x85\xa1\n";

// The bytes and what kMerges makes of them; with RoBERTa's special tokens.
constexpr char kMerges[] =
    "e r\nt he\nh e\nt he\n\u0120 a\na b\nab c\n' s\n\u0120 \u0120\n1 2\n\u00e4 \u00b8\n\u010a "
    "\u010a\n";

std::string ByteVocabulary() {
  std::string json = "{\"<s>\":0,\"<pad>\":1,\"</s>\":2,\"<unk>\":3,\"<mask>\":4";
  int id = 5;
  const auto add = [&](const std::string& token) {
    json += ",\"" + (token == "\"" || token == "\\" ? "\\" + token : token) +
            "\":" + std::to_string(id++);
  };
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendByteLevel(std::string(1, static_cast<char>(byte)), &token);
    add(token);
  }
  for (const char* token : {"er", "the", "he", "\u0120a", "ab", "abc", "'s", "\u0120\u0120", "12",
                            "\u00e4\u00b8", "\u010a\u010a"}) {
    add(token);
  }
  return json + "}";
}

const Tokenizer& Bpe(bool add_prefix_space) {
  const auto make = [](bool prefix) {
    return ParseVocabMerges(ByteVocabulary(), kMerges, prefix).value().release();
  };
  static const Tokenizer* const kPlain = make(false);
  static const Tokenizer* const kPrefixed = make(true);
  return add_prefix_space ? *kPrefixed : *kPlain;
}

// What any loaded tokenizer must keep on any text.
void CheckEncode(const Tokenizer& tokenizer, std::string_view text) {
  const auto tokens = tokenizer.Encode(text, /*add_special_tokens=*/true);
  if (!tokens.ok()) {
    Check(tokens.status().code() == absl::StatusCode::kInvalidArgument, "unexpected code");
    return;
  }
  Check(tokens->ids.size() == tokens->bytes.size(), "lengths differ");
  for (size_t i = 0; i < tokens->ids.size(); ++i) {
    const ByteRange range = tokens->bytes[i];
    Check(tokens->ids[i] >= 0 && tokens->ids[i] < tokenizer.vocab_size(), "id out of range");
    Check(!tokenizer.TokenText(tokens->ids[i]).empty(), "token without text");
    Check(0 <= range.begin && range.begin <= range.end &&
              range.end <= static_cast<int64_t>(text.size()),
          "range outside the text");
  }
}

void CheckLoader(const absl::StatusOr<std::unique_ptr<Tokenizer>>& tokenizer) {
  if (!tokenizer.ok()) {
    Check(tokenizer.status().code() == absl::StatusCode::kInvalidArgument ||
              tokenizer.status().code() == absl::StatusCode::kUnimplemented,
          "unexpected code");
    return;
  }
  CheckEncode(**tokenizer, "The [SEP] caf\xc3\xa9 \xe4\xb8\xad\xed\x95\x9c x.y, ab");
}

// One piece against random pieces: tokens, errors, sentence ends.
void CheckSplits(const Tokenizer& tokenizer, std::string_view text) {
  const auto whole = tokenizer.NewStream();
  absl::Status whole_status = whole->Append(text);
  if (whole_status.ok()) whole_status = whole->Finish();
  SentenceSplitter whole_sentences;
  whole_sentences.Append(text);
  whole_sentences.Finish();

  std::minstd_rand rng(static_cast<uint32_t>(text.size()) * 7919 + 1);
  const auto stream = tokenizer.NewStream();
  SentenceSplitter sentences;
  absl::Status status;
  TokenSequence tokens;
  const auto take = [&] {
    const TokenSequence some = stream->Take();
    tokens.ids.insert(tokens.ids.end(), some.ids.begin(), some.ids.end());
    tokens.bytes.insert(tokens.bytes.end(), some.bytes.begin(), some.bytes.end());
  };
  for (size_t i = 0; i < text.size();) {
    const std::string_view piece = text.substr(i, 1 + rng() % (rng() % 4 == 0 ? 64 : 3));
    sentences.Append(piece);
    if (status.ok()) status = stream->Append(piece);
    if (rng() % 2 == 0) take();
    i += piece.size();
  }
  sentences.Finish();
  if (status.ok()) status = stream->Finish();
  take();
  Check(sentences.ends() == whole_sentences.ends(), "sentence ends depend on the split");
  Check(status == whole_status, "status depends on the split");
  if (!status.ok()) return;
  const TokenSequence expected = whole->Take();
  Check(tokens.ids == expected.ids, "ids depend on the split");
  Check(tokens.bytes == expected.bytes, "byte ranges depend on the split");
  CheckEncode(tokenizer, text);
}

}  // namespace
}  // namespace longdoc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 0) {
    longdoc::CheckLoader(longdoc::ParseTokenizerJson(rest));
  } else if (data[0] == 1) {
    longdoc::CheckLoader(longdoc::ParseVocabTxt(rest));
  } else if (data[0] == 4) {
    static const auto* const kVocabJson = new std::string(longdoc::ByteVocabulary());
    longdoc::CheckLoader(longdoc::ParseVocabMerges(*kVocabJson, rest));
  } else if (data[0] >= 'B') {
    longdoc::CheckSplits(longdoc::Bpe(data[0] % 2 == 1), rest);
  } else {
    static const auto* const kUncased =
        longdoc::ParseVocabTxt(longdoc::kVocabulary).value().release();
    longdoc::WordPieceOptions options;
    options.lowercase = options.strip_accents = false;
    static const auto* const kCased =
        longdoc::ParseVocabTxt(longdoc::kVocabulary, options).value().release();
    longdoc::CheckSplits(data[0] % 2 == 0 ? *kUncased : *kCased, rest);
  }
  return 0;
}
