// The shape of a Mamba-1 model, how it is read from a config.json and written to one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "engine/checkpoint/tensor.h"

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

/// The config.json of a model whose weights are stored in that type, for transformers, which has no
/// LayerNorm: with one it is that of state-spaces, so that no program takes the norm for another.
/// Settings beyond the shape, such as the token that ends a text, are taken over from `origin`, a
/// config that has been parsed, if it is of the same form.
std::string configText(const ModelConfig& config, DataType weights, std::string_view origin = {});

}  // namespace mb
