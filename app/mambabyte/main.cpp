// mambabyte: the engine on the command line. Results go to standard output, progress to standard
// error. Exit status: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <vector>

#include "app/mambabyte/command.h"
#include "engine/error.h"
#include "engine/export/run_export.h"

namespace {

constexpr int kFailed = 1;
constexpr int kBadArguments = 2;
constexpr int kInterrupted = 130;

/// Results that did not reach standard output are a failure.
int finish(int status) {
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return status;
  throw mb::FileError("standard output", "cannot be written");
}

int runCommand(const std::vector<std::pair<CLI::App*, mb::cli::Run>>& commands) {
  try {
    for (const auto& [command, run] : commands)
      if (command->parsed()) return finish(run());
    return 0;
  } catch (const mb::Stopped&) {
    std::fprintf(stderr, "mambabyte: interrupted\n");
    return kInterrupted;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mambabyte: %s\n", error.what());
    return kFailed;
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("MambaByte: byte-level state-space models on this machine");
  app.set_version_flag("--version", mb::programVersion());
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, mb::cli::Run>> commands;
  for (const auto add :
       {mb::cli::addGenerate, mb::cli::addEval, mb::cli::addInfo, mb::cli::addConvert,
        mb::cli::addBench, mb::cli::addTokenizer, mb::cli::addTrain, mb::cli::addDistill}) {
    const mb::cli::Run run = add(app);
    commands.emplace_back(app.get_subcommands({}).back(), run);
  }
  const auto isNamed = [&](const auto& command) { return command.first->check_name(argv[1]); };
  if (argc > 1 && argv[1][0] != '-' && std::ranges::none_of(commands, isNamed)) {
    std::fprintf(stderr,
                 "mambabyte: expected generate, eval, info, convert, bench, train, distill or "
                 "tokenizer, found %s\n",
                 argv[1]);
    return kBadArguments;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "mambabyte: %s\n", error.what());
    return kBadArguments;
  }
  return runCommand(commands);
}
