// The options that say how a document is cut and encoded, shared by `embed`, `score` and
// `documents`.
#pragma once

#include <string>

#include "service/tools/embedder.h"
#include "service/tools/options.h"

namespace longdoc::tools {

struct DocumentArgs {
  std::string attention = "tolerance=1e-4", overflow = "error";
  std::vector<PassageSpec> passages;
};

// --passages, --sentences, --attention, --overflow.
void AddDocumentOptions(OptionParser& parser, DocumentArgs* args);
// Fills `options`. "", or what is wrong; `remote`: with a server, which offers less.
std::string InterpretDocumentArgs(const DocumentArgs& args, bool remote, EmbedOptions* options);

}  // namespace longdoc::tools
