// The executor of all handlers: the context's tokenizer pool.
#pragma once

#include <utility>

#include "absl/functional/any_invocable.h"
#include "engine/base/thread_pool.h"
#include "service/context.h"

namespace longdoc::service {

inline auto PoolExecutor(ServiceContext& context) {
  return [&pool = context.tokenizers](absl::AnyInvocable<void() &&> job) {
    pool.Post(std::move(job));
  };
}

}  // namespace longdoc::service
