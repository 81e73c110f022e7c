# CUDA is optional: AUTO enables the language when a working toolkit is found. Sets LONGDOC_HAVE_CUDA.
set(LONGDOC_CUDA "AUTO" CACHE STRING "CUDA kernels: AUTO (if there is a toolkit), ON or OFF")
set(LONGDOC_HAVE_CUDA OFF)
if(NOT LONGDOC_CUDA STREQUAL "OFF")
  if(NOT DEFINED ENV{CUDACXX} AND NOT CMAKE_CUDA_COMPILER)
    find_program(LONGDOC_NVCC nvcc HINTS /usr/local/cuda/bin)
    if(LONGDOC_NVCC)
      set(CMAKE_CUDA_COMPILER ${LONGDOC_NVCC})
    endif()
  endif()
  # sm_80 as machine code and as PTX, which serves every other architecture; Hopper by itself.
  set(CMAKE_CUDA_ARCHITECTURES 80-real 80-virtual 90a-real)
  set(CMAKE_CUDA_STANDARD 17)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(LONGDOC_HAVE_CUDA ON)
  elseif(LONGDOC_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LONGDOC_CUDA=ON, but no CUDA compiler was found")
  endif()
endif()
message(STATUS "longdoc: CUDA ${LONGDOC_HAVE_CUDA}")

set(LONGDOC_KEEP_PTXAS_REPORT ${CMAKE_CURRENT_LIST_DIR}/keep_ptxas_report.sh)

# longdoc_cuda_options(TARGET): warnings and reports of the CUDA sources of a target. The report of
# ptxas is kept beside each object file, as OBJECT.ptxas.
function(longdoc_cuda_options target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
    --expt-relaxed-constexpr -lineinfo -Xptxas=-v -Xcompiler=-Wall,-Wextra>)
  if(LONGDOC_WERROR)
    target_compile_options(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings -Xcompiler=-Werror>)
  endif()
  set(launcher ${LONGDOC_KEEP_PTXAS_REPORT})
  if(CCACHE)
    list(APPEND launcher ${CCACHE})
  endif()
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
                                             CUDA_COMPILER_LAUNCHER "${launcher}")
endfunction()
