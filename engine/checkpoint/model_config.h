// The shape of a Mamba-1 model and where it is read from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace mb {

enum class NormKind : std::uint8_t { Rms, Layer };

/// Sizes in the names of the Mamba paper (arXiv 2312.00752).
struct ModelConfig {
  std::size_t vocabSize = 256;  ///< V, rows of the embedding
  std::size_t dModel = 0;       ///< d, width of the residual stream
  std::size_t dInner = 0;       ///< e = expand · d, channels of the block
  std::size_t dState = 16;      ///< n, state values a channel
  std::size_t dConv = 4;        ///< k, taps of the causal convolution
  std::size_t dtRank = 0;       ///< r, rank of the Δ projection
  std::size_t layers = 0;       ///< L
  NormKind norm = NormKind::Rms;
  double normEpsilon = 1e-5;
  bool projectionBias = false;  ///< in_proj and out_proj have a bias
  bool convBias = true;
  bool tiedHead = true;  ///< logits use the embedding

  /// True when tokens are bytes.
  bool isByteLevel() const { return vocabSize == 256; }

  /// Counted from the shapes of every tensor; a tied head counts once.
  std::size_t parameterCount() const;

  bool operator==(const ModelConfig&) const = default;
};

/// Reads a transformers ("model_type": "mamba") or a state-spaces ("d_model", "ssm_cfg") config.
/// `file` is named in errors. Throws FormatError for any other architecture or a size out of range.
ModelConfig parseModelConfig(std::string_view json, const std::filesystem::path& file);

}  // namespace mb
