// BertNormalizer as a stream: original characters in, normalized ones out to a WordSplitter.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/text/unicode.h"
#include "engine/text/word_splitter.h"

namespace longdoc {

struct NormalizerOptions {
  bool clean_text = true;
  bool split_chinese_chars = true;
  bool strip_accents = true;
  bool lowercase = true;
};

// Steps in Hugging Face's order: clean (drop controls, white space to ' '), spaces around Chinese
// characters, NFD and removal of marks, lower case. All but NFD are local to a character; NFD
// sorts runs of combining characters, so these are held back until the next starter. A run longer
// than kMaxRun characters is cut there (text has no such runs; memory must stay bounded).
//
// Offsets follow the library's alignment rules: a character that a decomposition inserts has the
// bytes of the character before it, and after sorting a run its positions, not its characters,
// keep their bytes. Not thread-safe.
class BertNormalizer {
 public:
  static constexpr size_t kMaxRun = 4096;

  // `sink` outlives the normalizer.
  BertNormalizer(const NormalizerOptions& options, WordSplitter* sink);

  // One character of the text with its bytes.
  void Append(char32_t cp, ByteRange range);

  // ASCII text, `base` is the offset of its first byte; the fast path.
  void AppendAscii(const char* text, size_t size, int64_t base);

  // Ends a piece of text: nothing after it joins what came before.
  void EndPiece();

  int64_t pending_bytes() const { return static_cast<int64_t>(run_.size() * sizeof(RunChar)); }

 private:
  struct RunChar {
    char32_t cp;
    uint8_t combining_class;
    bool inserted;  // by a decomposition, behind the character's first
  };

  void Nfd(char32_t cp, uint8_t classes, ByteRange range);
  void FlushRun();
  // Removes marks, lower-cases and hands over to the splitter.
  void Emit(char32_t cp, ByteRange range);
  void EmitLowered(char32_t cp, ByteRange range);

  const CharClasses& classes_;
  const NormalizerOptions options_;
  WordSplitter* const sink_;
  std::vector<RunChar> run_;          // combining characters since the last starter
  std::vector<ByteRange> run_bytes_;  // of those that are not inserted
  ByteRange last_;                    // bytes of the last character that left or entered NFD
  uint8_t ascii_action_[128];
};

}  // namespace longdoc
