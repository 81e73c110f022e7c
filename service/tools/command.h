// The sub-commands of `longdoc`, and what they share.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "service/tools/options.h"

namespace longdoc::tools {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,  // the work failed: bad input, file, model or server
  kExitUsage = 2,    // the command line was wrong; nothing was done
};

// One sub-command. `args` are the words behind its name.
struct Command {
  std::string name;
  std::string summary;  // one line, for the list of commands
  int (*run)(const std::vector<std::string>& args);
};

int RunModel(const std::vector<std::string>& args);
int RunEmbed(const std::vector<std::string>& args);
int RunTokenize(const std::vector<std::string>& args);
int RunPlan(const std::vector<std::string>& args);
int RunScore(const std::vector<std::string>& args);
int RunRank(const std::vector<std::string>& args);
int RunGenerate(const std::vector<std::string>& args);
int RunDocuments(const std::vector<std::string>& args);
int RunHealth(const std::vector<std::string>& args);

// Runs the command that the first word names, or prints the list of commands. `program` is what to
// call the group, e.g. "longdoc model".
int Dispatch(const std::string& program, const std::string& about,
             const std::vector<Command>& commands, const std::vector<std::string>& args);

// Parses; nullopt-like: returns true when the command should go on, else *exit_code says how to
// leave (help was printed, or an error).
bool ParseOrExit(OptionParser& parser, const std::vector<std::string>& args, int* exit_code);

// One line on stderr: "command: message (REASON)".
void PrintError(const std::string& command, const absl::Status& status);
int Failure(const std::string& command, const absl::Status& status);  // prints; kExitFailure
int UsageError(const std::string& command, const std::string& message);

}  // namespace longdoc::tools
