// Files that travel inside the binaries, so that the tools work from anywhere.
#pragma once

#include <string_view>

namespace longdoc::tools {

// Our WordPiece vocabulary as vocab.txt: one token a line (engine/text/data/wordpiece_vocab.txt).
std::string_view EmbeddedVocabulary();
// The merges of our byte-level BPE as merges.txt (engine/text/data/bpe_merges.txt).
std::string_view EmbeddedMerges();
// Prose for the calibration of random models (service/tools/data/calibration.txt).
std::string_view EmbeddedCalibrationText();

}  // namespace longdoc::tools
