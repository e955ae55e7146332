# Finds nvcc and the CUDA toolkit when they are wanted. Sets MB_HAVE_CUDA.
include_guard()

set(MB_HAVE_CUDA OFF)
if(MB_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off")
  return()
endif()

include(CheckLanguage)
if(NOT CMAKE_CUDA_COMPILER)  # it may have been installed since
  unset(CMAKE_CUDA_COMPILER CACHE)
endif()
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  if(NOT TARGET CUDA::nvToolsExt)  # CMake 3.25 fails without it, and CUDA 13 no longer has it
    add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
  endif()
  find_package(CUDAToolkit QUIET)
endif()
if(CMAKE_CUDA_COMPILER AND TARGET CUDA::cublas AND TARGET CUDA::cublasLt
    AND CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12)  # the first with C++20
  set(CMAKE_CUDA_ARCHITECTURES ${MB_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  set(MB_HAVE_CUDA ON)
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} for ${MB_CUDA_ARCHITECTURES}")
elseif(MB_CUDA STREQUAL "ON")
  message(FATAL_ERROR "MB_CUDA is ON, but no nvcc of CUDA 12 or newer with cuBLAS was found")
else()
  message(STATUS "CUDA: no nvcc of CUDA 12 or newer with cuBLAS found, building for the CPU only")
endif()
