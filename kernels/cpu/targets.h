// Which of Highway's instruction sets the kernels are not compiled for: those between the named
// levels, and those whose vectors cannot be array elements. Comes before any of Highway's headers.
#pragma once

#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
