// The version of this build, "MAJOR.MINOR.PATCH", from the top CMakeLists.txt.
#pragma once

namespace longdoc::service {

inline constexpr char kVersion[] = LONGDOC_VERSION;

}  // namespace longdoc::service
