#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/bench/gpu/gpu_bench.h"

namespace longdoc::kernels::cuda::bench {
namespace {

constexpr int kSkipped = 77;  // SKIP_RETURN_CODE of ctest
constexpr const char* kSections[] = {"attention", "decode", "route", "rows", "gemm"};

int Usage(const char* problem, const char* word) {
  std::fprintf(stderr, "longdoc-gpu-bench: %s%s%s\n", problem, *word == '\0' ? "" : " ", word);
  std::fprintf(stderr,
               "usage: longdoc-gpu-bench [--json FILE] [--repeat N] [--tiny] [SECTION...]\n"
               "sections: attention decode route rows gemm; without one, all\n");
  return 2;
}

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool takes_value = word == "--json" || word == "--repeat";
    if (takes_value && ++i == argc) return Usage("no value for", word.c_str());
    if (word == "--json") {
      options.json = argv[i];
    } else if (word == "--repeat") {
      char* end = nullptr;
      options.repeat = std::strtoll(argv[i], &end, 10);
      if (*end != '\0' || options.repeat < 1 || options.repeat > 1000) {
        return Usage("--repeat takes 1 to 1000, not", argv[i]);
      }
    } else if (word == "--tiny") {
      options.tiny = true;
    } else {
      bool known = false;
      for (const char* section : kSections) known = known || word == section;
      if (!known) return Usage("unknown option or section", argv[i]);
      options.sections.push_back(word);
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return kSkipped;
  }
  Bench bench(options);
  const cudaError_t error = bench.Init();
  if (error != cudaSuccess) {
    std::fprintf(stderr, "longdoc-gpu-bench: %s\n", cudaGetErrorString(error));
    return 1;
  }
  bench.Run();
  return bench.Finish() ? 0 : 1;
}

}  // namespace
}  // namespace longdoc::kernels::cuda::bench

int main(int argc, char** argv) { return longdoc::kernels::cuda::bench::Main(argc, argv); }
