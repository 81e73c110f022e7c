// LD_CHECK: aborts on a broken invariant of our own. Never for anything that comes from outside.
#pragma once

#include <cstdio>
#include <cstdlib>

#define LD_CHECK(cond)                                                                  \
  do {                                                                                  \
    if (!(cond)) {                                                                      \
      std::fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #cond); \
      std::abort();                                                                     \
    }                                                                                   \
  } while (false)
