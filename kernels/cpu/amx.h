// Matrix products on the tiles (AMX) of Intel's server processors.
#pragma once

#include "kernels/cpu/ops.h"

namespace mb::cpu {

inline constexpr std::size_t kAmxInputs = 16;  ///< that fill a tile

/// Of the bundled model one input more costs a twelfth of what one alone does, and a drafted byte
/// more than that: with 6 to 10 in place of 8 speculation was as fast, with 16 a tenth slower.
inline constexpr std::size_t kAmxCheapInputs = 8;

/// Whether the processor has tiles for bfloat16, and the system lets this process use them.
bool hasAmx();

/// MatmulArgs for bfloat16 weights, where hasAmx(). Inputs are rounded to bfloat16. Columns are
/// taken by 32: of those the even and the odd ones are summed apart, each product with one rounding
/// (FMA), and then added to the sum (TDPBF16PS; denormals count as zero).
void matmulAmx(const MatmulArgs& args);

}  // namespace mb::cpu
