#include "service/tools/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"

namespace longdoc::tools {
namespace {

constexpr size_t kHelpColumn = 30;  // where descriptions start

// Lines of `text` behind the first are indented to the column of descriptions.
std::string Indented(const std::string& text) {
  std::string out;
  for (char c : text) {
    out += c;
    if (c == '\n') out.append(kHelpColumn, ' ');
  }
  return out;
}

}  // namespace

absl::Status ParseInt(std::string_view text, std::string_view what, int64_t min, int64_t max,
                      int64_t* value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  if (error != std::errc() || stop != end || *value < min || *value > max) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s takes an integer from %d to %d, not \"%s\"", what, min, max, text));
  }
  return absl::OkStatus();
}

absl::Status ParseDouble(std::string_view text, std::string_view what, double min, double max,
                         double* value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  if (error != std::errc() || stop != end || !(*value >= min && *value <= max)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s takes a number from %g to %g, not \"%s\"", what, min, max, text));
  }
  return absl::OkStatus();
}

OptionParser::OptionParser(std::string command, std::string usage, std::string about,
                           std::string examples)
    : command_(std::move(command)),
      usage_(std::move(usage)),
      about_(std::move(about)),
      examples_(std::move(examples)) {}

void OptionParser::Section(std::string title) {
  options_.push_back({"", "", std::move(title), nullptr});
}

void OptionParser::AddCustom(std::string name, std::string placeholder, std::string help,
                             Setter set) {
  options_.push_back({std::move(name), std::move(placeholder), std::move(help), std::move(set)});
}

void OptionParser::AddString(std::string name, std::string placeholder, std::string help,
                             std::string* value) {
  if (!value->empty()) absl::StrAppend(&help, " (default ", *value, ")");
  AddCustom(std::move(name), std::move(placeholder), std::move(help),
            [value](const std::string& text) {
              *value = text;
              return absl::OkStatus();
            });
}

void OptionParser::AddStrings(std::string name, std::string placeholder, std::string help,
                              std::vector<std::string>* values) {
  AddCustom(std::move(name), std::move(placeholder), std::move(help),
            [values](const std::string& text) {
              values->push_back(text);
              return absl::OkStatus();
            });
}

void OptionParser::AddInt(std::string name, std::string placeholder, std::string help, int64_t min,
                          int64_t max, int64_t* value) {
  absl::StrAppend(&help, " (default ", *value, ")");
  const std::string what = absl::StrCat("--", name);
  AddCustom(std::move(name), std::move(placeholder), std::move(help),
            [=](const std::string& text) { return ParseInt(text, what, min, max, value); });
}

void OptionParser::AddInts(std::string name, std::string placeholder, std::string help, int64_t min,
                           int64_t max, std::vector<int64_t>* values) {
  absl::StrAppend(&help, " (default ", absl::StrJoin(*values, ","), ")");
  const std::string what = absl::StrCat("--", name);
  AddCustom(std::move(name), std::move(placeholder), std::move(help), [=](const std::string& text) {
    values->clear();
    for (const std::string& part : std::vector<std::string>(absl::StrSplit(text, ','))) {
      RETURN_IF_ERROR(ParseInt(part, what, min, max, &values->emplace_back()));
    }
    return absl::OkStatus();
  });
}

void OptionParser::AddDouble(std::string name, std::string placeholder, std::string help,
                             double min, double max, double* value) {
  absl::StrAppend(&help, " (default ", *value, ")");
  const std::string what = absl::StrCat("--", name);
  AddCustom(std::move(name), std::move(placeholder), std::move(help),
            [=](const std::string& text) { return ParseDouble(text, what, min, max, value); });
}

void OptionParser::AddChoice(std::string name, const std::vector<std::string>& choices,
                             std::string help, std::string* value) {
  const std::string list = absl::StrJoin(choices, "|");
  absl::StrAppend(&help, " (default ", *value, ")");
  const std::string what = absl::StrCat("--", name);
  AddCustom(std::move(name), list, std::move(help), [=](const std::string& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s takes one of %s, not \"%s\"", what, list, text));
    }
    *value = text;
    return absl::OkStatus();
  });
}

void OptionParser::AddFlag(std::string name, std::string help, bool* value) {
  AddCustom(std::move(name), "", std::move(help), [value](const std::string&) {
    *value = true;
    return absl::OkStatus();
  });
}

bool OptionParser::WasGiven(std::string_view name) const {
  return std::any_of(options_.begin(), options_.end(),
                     [name](const Option& o) { return o.given && o.name == name; });
}

absl::Status OptionParser::Parse(const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size() && !help_wanted_; ++i) {
    const std::string& arg = args[i];
    if (arg == "--") {
      positional_.insert(positional_.end(), args.begin() + i + 1, args.end());
      break;
    }
    if (arg == "--help" || arg == "-h") {
      help_wanted_ = true;
    } else if (arg.size() < 2 || arg[0] != '-') {
      positional_.push_back(arg);
    } else {
      RETURN_IF_ERROR(ParseOption(args, &i));
    }
  }
  return absl::OkStatus();
}

absl::Status OptionParser::ParseOption(const std::vector<std::string>& args, size_t* i) {
  const std::string& arg = args[*i];
  const size_t equals = arg.find('=');
  const std::string flag = arg.substr(0, equals);
  const auto option = std::find_if(options_.begin(), options_.end(), [&](const Option& o) {
    return !o.name.empty() && flag == absl::StrCat("--", o.name);
  });
  if (option == options_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown option ", flag, "; see ", command_, " --help"));
  }
  std::string value;
  if (equals != std::string::npos) {
    if (option->placeholder.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(flag, " takes no value"));
    }
    value = arg.substr(equals + 1);
  } else if (!option->placeholder.empty()) {
    if (*i + 1 >= args.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " needs a value: ", option->placeholder));
    }
    value = args[++*i];
  }
  option->given = true;
  return option->set(value);
}

std::string OptionParser::Help() const {
  std::string out = absl::StrCat("Usage: ", command_, " ", usage_, "\n\n", about_, "\n");
  bool headed = false;
  for (const Option& o : options_) {
    if (o.name.empty()) {
      absl::StrAppend(&out, "\n", o.help, ":\n");
      headed = true;
      continue;
    }
    if (!headed) absl::StrAppend(&out, "\nOptions:\n");
    headed = true;
    std::string left =
        absl::StrCat("  --", o.name, o.placeholder.empty() ? "" : " ", o.placeholder);
    if (left.size() + 2 > kHelpColumn) {
      absl::StrAppend(&out, left, "\n");
      left.clear();
    }
    absl::StrAppendFormat(&out, "%-*s%s\n", static_cast<int>(kHelpColumn), left, Indented(o.help));
  }
  if (!examples_.empty()) absl::StrAppend(&out, "\nExamples:\n", examples_, "\n");
  return out;
}

}  // namespace longdoc::tools
