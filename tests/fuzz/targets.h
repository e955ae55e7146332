// The functions under test: everything that reads a file nobody has checked. Each must succeed or
// throw mb::Error with a message fit for a dialog, whatever the bytes.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/types.h"
#include "tests/fuzz/scratch_folder.h"

namespace mb::fuzz {

/// What a mutator may take apart.
enum class Format : unsigned char { Binary, Json, Pickle };

/// An input and whether the target has to take it.
struct Sample {
  std::string name;
  Bytes input;
};

struct Target {
  std::string_view name;
  /// Formats of the parts of an input. All but the last end with a zero byte.
  std::vector<Format> parts;
  /// Share of a run over all targets; slow targets have a small one.
  unsigned weight = 1;
  /// Valid inputs, all accepted.
  std::vector<Sample> (*seeds)() = nullptr;
  /// Inputs made by hand to do harm; accepted or refused, but cheaply. May be null.
  std::vector<Sample> (*hostile)() = nullptr;
  /// Uses the input as the program would.
  void (*run)(ByteView input, const ScratchFolder& scratch) = nullptr;
};

const std::vector<Target>& targets();
/// Null for an unknown name.
const Target* findTarget(std::string_view name);

/// What came of one input.
struct Outcome {
  bool accepted = false;
  std::string message;  ///< of the mb::Error that refused it
  std::string problem;  ///< a broken promise, or empty
};

/// Runs one input. Anything thrown but mb::Error is a problem, and so is a message of several
/// lines, with control bytes, or longer than a person reads.
Outcome tryInput(const Target& target, ByteView input, const ScratchFolder& scratch);

}  // namespace mb::fuzz
