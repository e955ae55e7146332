// Where the files that ship with the program are, wherever it was installed or started from.
#pragma once

#include <filesystem>
#include <string>

namespace mb {

/// `name` below the resources folder ("models/books"): beside an installed program
/// (../share/mambabyte-playground), in a checkout above a built one, or where the sources were at
/// build time. Throws FileError naming the places searched when it is nowhere.
std::filesystem::path findResource(const std::string& name);

}  // namespace mb
