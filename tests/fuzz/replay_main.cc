// Runs a fuzz target as a plain test: every file of the directories given, then a few hundred
// deterministic mutations of each, then the same of nothing at all. A crash, a sanitizer report or
// the test's time limit is the failure.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutationsPerFile = 300;

// SplitMix64: the same sequence everywhere, so that a failure can be had again.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t x = state_ += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  size_t Below(size_t limit) { return limit == 0 ? 0 : static_cast<size_t>(Next() % limit); }

 private:
  uint64_t state_;
};

// What breaks parsers: numbers at the edges of their types, structure, broken UTF-8.
const std::string kPieces[] = {"0",
                               "-1",
                               "9223372036854775807",
                               "18446744073709551615",
                               "4294967296",
                               "1e999",
                               "null",
                               "{",
                               "}",
                               "[",
                               "]",
                               "\"",
                               ",",
                               ":",
                               "\\u0000",
                               std::string(1, '\0'),
                               "\xff",
                               "\xe0\x80\x80",
                               "\xf4\x90\x80\x80",
                               "\xed\xa0\x80",
                               "\xcc\x81",
                               "\xef\xbb\xbf"};

void MutateOnce(std::string& text, Random& random) {
  const size_t at = random.Below(text.size() + 1);
  switch (random.Below(7)) {
    case 0:  // flip a bit
      if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << random.Below(8)));
      break;
    case 1:  // another byte
      if (at < text.size()) text[at] = static_cast<char>(random.Next());
      break;
    case 2:  // insert a piece
      text.insert(at, kPieces[random.Below(std::size(kPieces))]);
      break;
    case 3:  // replace by a piece
      text.replace(at, random.Below(8), kPieces[random.Below(std::size(kPieces))]);
      break;
    case 4:  // remove a run
      text.erase(at, 1 + random.Below(16));
      break;
    case 5:  // repeat a run
      text.insert(at, text.substr(random.Below(text.size() + 1), 1 + random.Below(32)));
      break;
    default:  // cut off the rest
      text.resize(at);
  }
}

std::string Mutated(std::string text, Random& random) {
  for (size_t n = 1 + random.Below(4); n > 0; --n) MutateOnce(text, random);
  return text;
}

void RunOne(const std::string& text) {
  // A copy of exactly this size: AddressSanitizer sees the first byte beyond it.
  const std::vector<uint8_t> bytes(text.begin(), text.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// The regular files below `root`, in an order that does not depend on the file system.
std::vector<std::filesystem::path> FilesBelow(const char* root) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  Random random(1);
  int runs = 0, num_files = 0;
  for (int i = 1; i < argc; ++i) {
    std::error_code error;
    if (!std::filesystem::is_directory(argv[i], error)) {
      std::fprintf(stderr, "%s: %s is not a directory\n", argv[0], argv[i]);
      return 2;
    }
    for (const auto& file : FilesBelow(argv[i])) {
      std::ifstream in(file, std::ios::binary);
      const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
      // Before the run, so that a crash names its file.
      std::printf("%s: %zu bytes\n", file.c_str(), text.size());
      std::fflush(stdout);
      RunOne(text);
      for (int n = 0; n < kMutationsPerFile; ++n) RunOne(Mutated(text, random));
      runs += 1 + kMutationsPerFile;
      ++num_files;
    }
  }
  if (num_files == 0) {
    std::fprintf(stderr, "%s: no corpus files; a replay of nothing proves nothing\n", argv[0]);
    return 2;
  }
  RunOne("");
  std::printf("%d inputs from %d files\n", runs + 1, num_files);
  return 0;
}
