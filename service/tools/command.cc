#include "service/tools/command.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "engine/base/error_reason.h"

namespace longdoc::tools {

int Dispatch(const std::string& program, const std::string& about,
             const std::vector<Command>& commands, const std::vector<std::string>& args) {
  std::string help =
      absl::StrCat("Usage: ", program, " COMMAND [OPTIONS]\n\n", about, "\n\nCommands:\n");
  for (const Command& c : commands) absl::StrAppendFormat(&help, "  %-10s %s\n", c.name, c.summary);
  absl::StrAppend(&help, "\n", program, " COMMAND --help explains a command.\n",
                  "Exit status: 0 success, 1 the work failed, 2 wrong command line.\n");
  if (args.empty()) {
    std::cerr << help;
    return kExitUsage;
  }
  if (args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    std::cout << help;
    return kExitOk;
  }
  const auto command = std::find_if(commands.begin(), commands.end(),
                                    [&](const Command& c) { return c.name == args[0]; });
  if (command == commands.end()) {
    return UsageError(program,
                      absl::StrCat("no command \"", args[0], "\"; see ", program, " --help"));
  }
  return command->run({args.begin() + 1, args.end()});
}

bool ParseOrExit(OptionParser& parser, const std::vector<std::string>& args, int* exit_code) {
  const absl::Status status = parser.Parse(args);
  if (!status.ok()) {
    *exit_code = UsageError(parser.command(), std::string(status.message()));
    return false;
  }
  if (parser.help_wanted()) {
    std::cout << parser.Help();
    *exit_code = kExitOk;
    return false;
  }
  return true;
}

void PrintError(const std::string& command, const absl::Status& status) {
  std::string message(status.message());
  if (message.empty()) message = absl::StatusCodeToString(status.code());
  message = absl::StrReplaceAll(message, {{"\n", " "}});
  const std::string reason = ReasonOf(status);
  if (!reason.empty()) absl::StrAppend(&message, " (", reason, ")");
  absl::FPrintF(stderr, "%s: %s\n", command, message);
}

int Failure(const std::string& command, const absl::Status& status) {
  PrintError(command, status);
  return kExitFailure;
}

int UsageError(const std::string& command, const std::string& message) {
  absl::FPrintF(stderr, "%s: %s\n", command, message);
  return kExitUsage;
}

}  // namespace longdoc::tools
