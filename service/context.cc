#include "service/context.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"

namespace longdoc::service {
namespace {
constexpr size_t kShownNameBytes = 80;  // of a name that a client made up
}

absl::StatusOr<std::shared_ptr<const Model>> ServiceContext::FindModel(
    const std::string& name) const {
  auto it = models.find(name.empty() ? default_model : name);
  if (it != models.end()) return it->second;
  std::string known;
  for (const auto& [other, model] : models) known += (known.empty() ? "" : ", ") + other;
  return WithReason(
      absl::NotFoundError(absl::StrFormat("no model \"%s\"; this server has: %s",
                                          absl::CHexEscape(name.substr(0, kShownNameBytes)),
                                          known.empty() ? "none" : known)),
      "UNKNOWN_MODEL");
}

void ServiceContext::AddModel(std::shared_ptr<const Model> model) {
  if (models.empty()) default_model = model->name();
  std::string name = model->name();
  models[std::move(name)] = std::move(model);
}

absl::Status ServiceContext::CheckServing() const {
  if (!draining.load(std::memory_order_relaxed)) return absl::OkStatus();
  return WithReason(absl::UnavailableError("server is draining, try another one"), "DRAINING");
}

}  // namespace longdoc::service
