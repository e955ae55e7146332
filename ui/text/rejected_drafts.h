// What a drafter proposed and the verifier did not take.
#pragma once

#include <string>

#include "engine/decoding/records.h"

namespace mb::ui {

/// The draft from its rejected byte on, shortened for display. Bytes that do not print appear as
/// dots.
std::u32string rejectedText(const RoundRecord& round);

}  // namespace mb::ui
