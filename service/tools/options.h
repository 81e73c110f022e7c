// Command-line options of one sub-command: declared once, parsed, and printed as help.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace longdoc::tools {

// Accepts `--name value`, `--name=value` and `--` (the rest is positional); `-` alone is
// positional, too. Not thread-safe. The variables that options write to must outlive Parse.
class OptionParser {
 public:
  using Setter = std::function<absl::Status(const std::string& value)>;

  // `usage` is what follows the command's name, e.g. "[OPTIONS] FILE"; `about` explains it, wrapped
  // by hand; `examples` closes the help.
  OptionParser(std::string command, std::string usage, std::string about, std::string examples);

  // A heading in the help, above the options that follow.
  void Section(std::string title);
  // The defaults shown in the help are the variables' values at the time of the call.
  void AddString(std::string name, std::string placeholder, std::string help, std::string* value);
  void AddStrings(std::string name, std::string placeholder, std::string help,
                  std::vector<std::string>* values);  // may be given several times
  void AddInt(std::string name, std::string placeholder, std::string help, int64_t min, int64_t max,
              int64_t* value);
  void AddInts(std::string name, std::string placeholder, std::string help, int64_t min,
               int64_t max, std::vector<int64_t>* values);  // one value, separated by commas
  void AddDouble(std::string name, std::string placeholder, std::string help, double min,
                 double max, double* value);
  void AddChoice(std::string name, const std::vector<std::string>& choices, std::string help,
                 std::string* value);
  void AddFlag(std::string name, std::string help, bool* value);
  // Anything else; `set` runs once for every occurrence.
  void AddCustom(std::string name, std::string placeholder, std::string help, Setter set);

  // INVALID_ARGUMENT names the option, what it takes and what was given. `--help` sets
  // help_wanted() and ends the parse.
  absl::Status Parse(const std::vector<std::string>& args);

  bool help_wanted() const { return help_wanted_; }
  const std::vector<std::string>& positional() const { return positional_; }
  bool WasGiven(std::string_view name) const;
  const std::string& command() const { return command_; }
  std::string Help() const;

 private:
  struct Option {
    std::string name;         // without dashes; empty for a heading
    std::string placeholder;  // empty for a flag
    std::string help;
    Setter set;
    bool given = false;
  };
  absl::Status ParseOption(const std::vector<std::string>& args, size_t* i);

  std::string command_, usage_, about_, examples_;
  std::vector<Option> options_;
  std::vector<std::string> positional_;
  bool help_wanted_ = false;
};

// A decimal integer with nothing around it; INVALID_ARGUMENT naming `what`, range and text.
absl::Status ParseInt(std::string_view text, std::string_view what, int64_t min, int64_t max,
                      int64_t* value);
absl::Status ParseDouble(std::string_view text, std::string_view what, double min, double max,
                         double* value);

}  // namespace longdoc::tools
