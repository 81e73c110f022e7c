// Where handlers run what takes longer than a callback of gRPC or of the engine may.
#pragma once

#include <functional>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "engine/base/thread_pool.h"
#include "service/context.h"

namespace longdoc::service {

// Runs a job later on another thread. Must not run it before returning.
using Executor = std::function<void(absl::AnyInvocable<void() &&>)>;

// That of all handlers: the context's tokenizer pool.
inline Executor PoolExecutor(ServiceContext& context) {
  return [&pool = context.tokenizers](absl::AnyInvocable<void() &&> job) {
    pool.Post(std::move(job));
  };
}

}  // namespace longdoc::service
