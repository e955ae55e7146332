// What can be seen inside a model while it runs, reduced before it is handed out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mb {

/// The quantities of a Mamba block that a tap reports, each a mean over channels:
///   Delta      Δ, how much the block listens to this byte
///   StateNorm  ‖s‖ = sqrt(sum_n s_n²), how much it remembers
///   Decay      mean_n Ā = mean_n exp(Δ A_n) in (0, 1), how much of the past survives the byte
enum class TapKind : std::uint8_t { Delta, StateNorm, Decay };
inline constexpr std::size_t kTapKinds = 3;

/// What somebody looks at. Nothing is computed for the rest.
struct TapRequest {
  bool enabled = false;
  std::size_t layer = 0;  ///< the layer shown by channel
  std::size_t bins = 64;  ///< channel bins of that layer; at most one for every 16 channels
};

/// Taps of `count` consecutive tokens.
struct TapBlock {
  std::size_t count = 0;
  std::size_t layers = 0;
  std::size_t bins = 0;
  std::size_t layer = 0;         ///< layer that byChannel belongs to
  std::vector<float> byLayer;    ///< [count][kTapKinds][layers]
  std::vector<float> byChannel;  ///< [count][kTapKinds][bins], bin 0 holds the first channels

  float layerValue(std::size_t i, TapKind kind, std::size_t layerIndex) const {
    return byLayer[(i * kTapKinds + static_cast<std::size_t>(kind)) * layers + layerIndex];
  }
  float channelValue(std::size_t i, TapKind kind, std::size_t bin) const {
    return byChannel[(i * kTapKinds + static_cast<std::size_t>(kind)) * bins + bin];
  }
};

/// Bins a layer of `channels` can be shown in, at most `wanted`: whole groups of 16 channels each.
std::size_t tapBins(std::size_t channels, std::size_t wanted);

}  // namespace mb
