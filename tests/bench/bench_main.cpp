// mb_bench: see README.md.
#include <CLI/CLI.hpp>
#include <exception>

#include "engine/error.h"
#include "tests/bench/bench_support.h"

namespace {

void describeMachine() {
  using benchmark::AddCustomContext;
  AddCustomContext("simd", std::string(mb::bench::simdLevel().name));
  AddCustomContext("threads of the models", std::to_string(mb::bench::threadCount()));
  AddCustomContext("memory read GB/s", std::to_string(mb::bench::memoryBandwidth() * 1e-9));
}

}  // namespace

int main(int argc, char** argv) {
  mb::bench::Options options;
  CLI::App app("Times the kernels, the bundled models and decoding");
  app.add_option("--simd", options.simd, "CPU instruction set; default the fastest");
  app.add_option("--threads", options.threads, "Threads of the models; 0 takes every processor");
  app.allow_extras();
  app.footer("All --benchmark_... options of Google Benchmark are understood too.");
  CLI11_PARSE(app, argc, argv);

  std::vector<std::string> rest = app.remaining();
  std::vector<char*> arguments = {argv[0]};
  for (std::string& argument : rest) arguments.push_back(argument.data());
  int count = static_cast<int>(arguments.size());
  try {
    mb::bench::configure(options);
    mb::bench::registerModel();
    mb::bench::registerDecoding();
    mb::bench::registerKernels();
    benchmark::Initialize(&count, arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
    describeMachine();
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mb_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
