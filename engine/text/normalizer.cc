#include "engine/text/normalizer.h"

#include <algorithm>

namespace longdoc {
namespace {

enum AsciiAction : uint8_t { kWord, kUpper, kDrop, kSpace, kPunctuation };

}  // namespace

BertNormalizer::BertNormalizer(const NormalizerOptions& options, WordSplitter* sink)
    : classes_(CharClasses::Get()), options_(options), sink_(sink) {
  for (char32_t c = 0; c < 128; ++c) {
    const uint8_t classes = classes_[c];
    if (options_.clean_text && (classes & kCharRemoved) != 0) {
      ascii_action_[c] = kDrop;
    } else if ((classes & kCharSpace) != 0) {
      ascii_action_[c] = kSpace;
    } else if ((classes & kCharPunctuation) != 0) {
      ascii_action_[c] = kPunctuation;
    } else {
      ascii_action_[c] = options_.lowercase && (classes & kCharLower) != 0 ? kUpper : kWord;
    }
  }
}

void BertNormalizer::AppendAscii(const char* text, size_t size, int64_t base) {
  for (size_t i = 0; i < size; ++i) {
    const char c = text[i];
    const int64_t position = base + static_cast<int64_t>(i);
    const uint8_t action = ascii_action_[static_cast<uint8_t>(c)];
    if (action == kDrop) continue;
    if (!run_.empty()) FlushRun();  // after the first character this is never taken
    last_ = {position, position + 1};
    switch (action) {
      case kWord:
        sink_->AppendAscii(c, position);
        break;
      case kUpper:
        sink_->AppendAscii(static_cast<char>(c | 0x20), position);
        break;
      case kSpace:
        sink_->EndWord();
        break;
      default:
        sink_->AppendPunctuation(static_cast<char32_t>(c), last_);
    }
  }
}

void BertNormalizer::Append(char32_t cp, ByteRange range) {
  uint8_t classes = classes_[cp];
  if (options_.clean_text) {
    if ((classes & kCharRemoved) != 0) return;
    if ((classes & kCharSpace) != 0) {
      cp = ' ';
      classes = kCharSpace;
    }
  }
  if (options_.split_chinese_chars && (classes & kCharChinese) != 0) {
    FlushRun();
    sink_->EndWord();
    Nfd(cp, classes, range);
    FlushRun();
    sink_->EndWord();
    return;
  }
  Nfd(cp, classes, range);
}

void BertNormalizer::Nfd(char32_t cp, uint8_t classes, ByteRange range) {
  if (!options_.strip_accents || (classes & kCharNfd) == 0) {
    if (!run_.empty()) FlushRun();
    last_ = range;
    Emit(cp, range);
    return;
  }
  const CodePoints parts = Decompose(cp);
  for (int i = 0; i < parts.size; ++i) {
    const uint8_t combining_class = CombiningClass(parts.at[i]);
    if (combining_class == 0) {
      FlushRun();
      if (i == 0) last_ = range;
      Emit(parts.at[i], last_);
      continue;
    }
    if (run_.size() >= kMaxRun) FlushRun();
    run_.push_back({parts.at[i], combining_class, /*inserted=*/i > 0});
    if (i == 0) run_bytes_.push_back(range);
  }
}

void BertNormalizer::FlushRun() {
  if (run_.empty()) return;
  std::stable_sort(run_.begin(), run_.end(), [](const RunChar& a, const RunChar& b) {
    return a.combining_class < b.combining_class;
  });
  size_t next = 0;
  for (const RunChar& c : run_) {
    if (!c.inserted) last_ = run_bytes_[next++];
    Emit(c.cp, last_);
  }
  run_.clear();
  run_bytes_.clear();
}

void BertNormalizer::Emit(char32_t cp, ByteRange range) {
  const uint8_t classes = classes_[cp];
  if (options_.strip_accents && (classes & kCharMark) != 0) return;
  if (!options_.lowercase || (classes & kCharLower) == 0) {
    EmitLowered(cp, range);
    return;
  }
  const CodePoints lower = ToLower(cp);
  for (int i = 0; i < lower.size; ++i) EmitLowered(lower.at[i], range);
}

void BertNormalizer::EmitLowered(char32_t cp, ByteRange range) {
  const uint8_t classes = classes_[cp];
  if ((classes & kCharSpace) != 0) {
    sink_->EndWord();
  } else if ((classes & kCharPunctuation) != 0) {
    sink_->AppendPunctuation(cp, range);
  } else {
    sink_->Append(cp, range);
  }
}

void BertNormalizer::EndPiece() {
  FlushRun();
  sink_->EndWord();
}

}  // namespace longdoc
