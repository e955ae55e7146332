// What a drafter is distilled from: a text that goes on, again and again, as the verifier would.
//
// In exact speculation a drafted byte is accepted when it is the one that the verifier draws, after
// what the verifier has written so far. So a drafter has to be right where the verifier writes, and
// about what it writes: sequence-level distillation (Kim and Rush, arXiv 1606.07947) with the very
// sampler that is used later. Stretches of text in between keep the verifier from repeating itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/decoding/sampler.h"
#include "engine/model/model.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/types.h"

namespace mb {

struct WritingOptions {
  std::uint64_t bytes = 1 << 20;  ///< that the verifier writes, rounded up to whole parts
  std::size_t read = 192;         ///< bytes of the text before each of its stretches
  std::size_t write = 192;        ///< bytes of a stretch
  SamplerSettings sampler;        ///< as the drafter's verifier will draw; greedy by default
  /// Of the parts in turn, in place of the sampler's, where it will draw in several ways.
  std::vector<double> temperatures;

  /// Stretches that one state goes through.
  static constexpr std::size_t kStretches = 32;
  std::size_t partBytes() const { return kStretches * (read + write); }
  std::size_t parts() const;
  /// Whether a byte of the outcome is the verifier's.
  bool isWritten(std::size_t index) const { return index % (read + write) >= read; }
};

/// Throws RequestError that names what is out of range.
void checkOptions(const WritingOptions& options);

/// Called when parts were added, with the bytes so far and in all.
using WritingProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Adds parts to `written`, which holds whole ones, until there are options.parts(). A part is
/// stretches of the text and of the verifier in turn, read and written from an empty state. A part
/// depends on nothing but its number, so that it does not matter how many `authors` there are:
/// copies of the verifier, each with threads of its own, that write at the same time. Throws
/// Stopped, or RequestError when the text is empty or the verifier is not a byte model; what was
/// added by then stays.
void writeOn(Bytes& written, ByteView text, const WritingOptions& options,
             std::span<const std::shared_ptr<const Model>> authors, const WritingProgress& progress,
             std::stop_token stop);

/// Which of the tokens of a verifier's text end with a byte of the verifier's: 1, else 0.
std::vector<std::uint8_t> tokensOfTheVerifier(TokenView tokens, const Tokenizer* tokenizer,
                                              const WritingOptions& options);

/// Where writing is kept, so that it can go on: FOLDER/written.txt, and written.json, which says
/// how it came to be. `origin` is whatever else has to be the same for that: verifier, text.
class VerifierTextFile {
 public:
  VerifierTextFile(std::filesystem::path folder, const WritingOptions& options,
                   const nlohmann::json& origin);

  std::filesystem::path path() const { return m_folder / "written.txt"; }
  /// What is there already, in whole parts, or nothing. Throws FileError, or FormatError when it
  /// came to be in another way.
  Bytes load() const;
  /// Makes the folder too. Throws FileError.
  void save(ByteView written) const;

 private:
  std::filesystem::path m_folder;
  std::size_t m_partBytes;
  std::string m_description;
};

}  // namespace mb
