#include "service/tools/document_options.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "service/tools/attention_option.h"

namespace longdoc::tools {
namespace {

// Every occurrence adds a granularity, in order.
void AddGranularity(OptionParser& parser, const char* name, const char* help,
                    PassageSpec::Kind kind, std::vector<PassageSpec>* specs) {
  const std::string what = absl::StrCat("--", name);
  parser.AddCustom(name, "N", help, [what, kind, specs](const std::string& text) {
    PassageSpec spec;
    spec.kind = kind;
    RETURN_IF_ERROR(ParseInt(text, what, 1, INT32_MAX, &spec.size));
    specs->push_back(spec);
    return absl::OkStatus();
  });
}

}  // namespace

void AddDocumentOptions(OptionParser& parser, DocumentArgs* args) {
  AddGranularity(parser, "passages", "a vector for every N tokens; may be given several times",
                 PassageSpec::Kind::kTokens, &args->passages);
  AddGranularity(parser, "sentences", "a vector for every N sentences; likewise",
                 PassageSpec::Kind::kSentences, &args->passages);
  parser.AddString("attention", "POLICY", kAttentionHelp, &args->attention);
  parser.AddChoice("overflow", {"error", "truncate-end", "truncate-start"},
                   "what to do with a document above the limit", &args->overflow);
}

std::string InterpretDocumentArgs(const DocumentArgs& args, bool remote, EmbedOptions* options) {
  const absl::StatusOr<AttentionPolicy> attention = ParseAttention(args.attention);
  if (!attention.ok()) return std::string(attention.status().message());
  if (attention->mode == AttentionMode::kDense && remote) {
    return "--attention dense is for embed --model DIR only";
  }
  options->attention = *attention;
  options->passages = args.passages;
  if (args.overflow == "truncate-end") options->overflow = Overflow::kTruncateEnd;
  if (args.overflow == "truncate-start") options->overflow = Overflow::kTruncateStart;
  return "";
}

}  // namespace longdoc::tools
