// Small files made by hand that ask for much: memory or time beyond any proportion to their size,
// or messages nobody could show.
#pragma once

#include <vector>

#include "tests/fuzz/targets.h"

namespace mb::fuzz {

std::vector<Sample> hostilePickles();
std::vector<Sample> hostileTorchFiles();
std::vector<Sample> hostileHeaders();
std::vector<Sample> hostileModels();
std::vector<Sample> hostileConfigs();
std::vector<Sample> hostileTokenizers();

}  // namespace mb::fuzz
