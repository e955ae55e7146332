#include <algorithm>
#include <bit>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/prefill_rows.cuh"

namespace mb::cuda {

namespace {

constexpr int kFewTaps = 4;                // that all published models have
constexpr std::uint32_t kTokenStep = 256;  // that the capacity is a multiple of
constexpr std::uint32_t kPieceStep = 128;  // likewise, of the pieces of one run
constexpr std::uint32_t kMostRead = 8192;
constexpr std::uint32_t kMostPiece = 4096;  // longer ones leave the level 2 cache
constexpr std::size_t kMostLogitBytes = 64u << 20;

template <class Value>
constexpr bool kWide = sizeof(Value) == sizeof(float);

std::size_t valueBytesOf(const Dimensions& d) {
  return d.planes > 1 ? sizeof(float) : sizeof(bf16);
}

/// Device memory that a token takes while its piece passes a layer.
std::size_t bytesInPiece(const DeviceWeights& weights) {
  const Dimensions& d = weights.plan.dimensions();
  const ParameterLayout& layout = weights.layout;
  return valueBytesOf(d) *
             (2 * layout.paddedInner + std::max(layout.paddedInner, layout.paddedModel) +
              kTileRows * tilesFor(d.dtRank)) +
         sizeof(float) * projectedRows(d);
}

/// Device memory that a layer's weights take, and the products' workspace.
std::size_t bytesBeside(const DeviceWeights& weights) {
  const Dimensions& d = weights.plan.dimensions();
  const ParameterLayout& layout = weights.layout;
  const std::size_t values =
      std::size_t{layout.paddedInner} *
      (3 * layout.paddedModel + projectedRows(d) + kTileRows * tilesFor(d.dtRank));
  return valueBytesOf(d) * values + Products::kWorkspaceBytes;
}

}  // namespace

Prefill::Capacity Prefill::capacityOf(const DeviceWeights& weights, std::size_t budget,
                                      std::size_t beside) {
  const std::size_t least = bytesBeside(weights);
  const std::size_t rest = budget > least ? budget - least : 0;
  const std::size_t perToken = sizeof(float) * weights.layout.paddedModel + beside;
  const std::size_t perPiece = bytesInPiece(weights);
  // Products of a power of two tokens run best.
  const std::size_t piece =
      std::bit_floor(std::clamp<std::size_t>(rest / (perToken + perPiece), kTokenStep, kMostPiece));
  const std::size_t pieces = std::min(rest, piece * perPiece);
  const std::size_t withLogits =
      kMostLogitBytes / (sizeof(float) * weights.plan.dimensions().vocabulary);
  const std::size_t tokens = std::clamp<std::size_t>(
      std::min((rest - pieces) / perToken, withLogits), kTokenStep, kMostRead);
  const std::size_t step = std::min(piece, tokens / kTokenStep * kTokenStep);
  return {static_cast<std::uint32_t>(tokens / step * step), static_cast<std::uint32_t>(step)};
}

bool Prefill::canTap(const DeviceWeights& weights) {
  return TextScan(weights.plan.dimensions(), weights.layout.paddedInner).canTap();
}

Prefill::Prefill(const DeviceWeights& weights, Capacity capacity)
    : m_weights(weights),
      m_size(weights.plan.dimensions()),
      m_model(weights.layout.paddedModel),
      m_inner(weights.layout.paddedInner),
      m_projected(projectedRows(m_size)),
      m_rank(kTileRows * tilesFor(m_size.dtRank)),
      m_valueBytes(valueBytesOf(m_size)),
      m_piece(capacity.piece),
      m_scan(m_size, m_inner) {
  std::vector<UnpackRow> rows;
  std::size_t values = 0;
  const auto add = [&](Matrix matrix, std::size_t count, std::uint32_t columns) {
    m_offsets[static_cast<std::size_t>(matrix)] = values;
    addRows(matrix, columns, values, rows);
    values += count * columns;
  };
  add(Matrix::InProj, 2 * m_inner, m_model);
  m_inRows = rows.size();
  add(Matrix::XProj, m_projected, m_inner);
  add(Matrix::DtProj, m_inner, m_rank);
  add(Matrix::OutProj, m_model, m_inner);
  m_layerRows = DeviceArray<UnpackRow>(rows.size());
  m_layerRows.upload(rows.data(), rows.size());
  m_matrices = DeviceArray<std::byte>(values * m_valueBytes);
  // The head comes last, piece by piece in the same place.
  rows.clear();
  addRows(Matrix::Head, m_model, 0, rows);
  const std::size_t piece = values / (std::size_t{kTileRows} * m_model);
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i].offset -= i / piece * piece * kTileRows * m_model;
  m_headPiece = static_cast<std::uint32_t>(std::min(piece, rows.size()));
  m_headRows = DeviceArray<UnpackRow>(rows.size());
  m_headRows.upload(rows.data(), rows.size());
  m_channelSize = std::size_t{kConvWeights + m_size.taps + m_size.states} * m_inner;
  m_channels = DeviceArray<float>(2 * m_channelSize);

  m_tokens = DeviceArray<std::int32_t>(capacity.tokens);
  m_residual = DeviceArray<float>(std::size_t{capacity.tokens} * m_model);
  const std::size_t most = std::size_t{m_piece} * m_valueBytes;
  m_expanded = DeviceArray<std::byte>(most * 2 * m_inner);
  m_convolved = DeviceArray<std::byte>(most * std::max(m_inner, m_model));
  m_rankInput = DeviceArray<std::byte>(most * m_rank);
  m_selected = DeviceArray<float>(std::size_t{m_piece} * m_projected);
}

/// Where the tile rows of a matrix of layer 0 go in a padded one of so many columns.
void Prefill::addRows(Matrix matrix, std::uint32_t columns, std::size_t offset,
                      std::vector<UnpackRow>& to) const {
  const auto padded = [&](std::uint32_t row) {
    const std::uint32_t b = m_size.dtRank;
    const std::uint32_t c = b + m_size.states;
    const std::uint32_t paddedStates = kTileRows * tilesFor(m_size.states);
    if (matrix == Matrix::InProj && row >= m_size.inner) return row - m_size.inner + m_inner;
    if (matrix == Matrix::XProj && row >= c) return row - c + m_rank + paddedStates;
    if (matrix == Matrix::XProj && row >= b) return row - b + m_rank;
    return row;
  };
  for (TileRow& tileRow : m_weights.plan.tileRows(matrix, 0)) {
    for (std::int32_t& row : tileRow.rows)
      if (row >= 0) row = static_cast<std::int32_t>(padded(static_cast<std::uint32_t>(row)));
    to.push_back({tileRow, columns, static_cast<std::int64_t>(offset)});
  }
}

void Prefill::reserveLogits(std::size_t rows) {
  const std::size_t size = rows * m_size.vocabulary;
  if (m_hostLogits.size() >= size) return;
  m_logits = DeviceArray<float>(rows * kTileRows * tilesFor(m_size.vocabulary));
  m_hostLogits = PinnedArray<float>(size);
}

/// As few pieces as hold a text, of about the same size.
std::uint32_t Prefill::pieceOf(std::size_t tokens) const {
  const unsigned pieces = blocksFor(tokens, m_piece);
  return blocksFor(blocksFor(tokens, pieces), kPieceStep) * kPieceStep;
}

void Prefill::run(const Run& run, cudaStream_t stream) {
  m_size.planes > 1 ? runAs<float>(run, stream) : runAs<bf16>(run, stream);
}

template <class Value>
void Prefill::runAs(const Run& run, cudaStream_t stream) {
  const auto tokens = static_cast<unsigned>(run.tokens.size());
  check(cudaMemcpyAsync(m_tokens.data(), run.tokens.data(), run.tokens.size_bytes(),
                        cudaMemcpyHostToDevice, stream),
        "sending tokens");
  embedKernel<<<tokens, 128, 0, stream>>>({.tokens = m_tokens.data(),
                                           .embedding = m_weights.embedding.data(),
                                           .planes = m_size.planes,
                                           .vocabulary = m_size.vocabulary,
                                           .model = m_model,
                                           .residual = m_residual.data()});
  check(cudaGetLastError(), "looking up embeddings");
  layOut(kIn, 0, stream);
  layOut(kRest, 0, stream);
  for (std::uint32_t layer = 0; layer < m_size.layers; ++layer) runLayer<Value>(layer, run, stream);
  if (run.logits != Logits::None) runHead<Value>(run, stream);
}

/// Lays a part of a layer's weights out once all that `stream` has by now is done, beside what it
/// does next.
void Prefill::layOut(Part part, std::uint32_t layer, cudaStream_t stream) {
  if (layer == m_size.layers) return;
  m_used.record(stream);
  check(cudaStreamWaitEvent(m_layingOut, m_used), "cudaStreamWaitEvent");
  const std::size_t first = part == kIn ? 0 : m_inRows;
  const std::size_t end = part == kIn ? m_inRows : m_layerRows.size();
  unpackTiles(m_weights, {m_layerRows.data() + first, end - first}, layer, m_matrices.data(),
              m_layingOut);
  if (part == kIn) unpackRecords(m_weights, layer, channels(layer), m_layingOut);
  m_laidOut[part].record(m_layingOut);
}

void Prefill::await(Part part, cudaStream_t stream) {
  check(cudaStreamWaitEvent(stream, m_laidOut[part]), "cudaStreamWaitEvent");
}

template <class Value>
void Prefill::runLayer(std::uint32_t layer, const Run& run, cudaStream_t stream) {
  const std::size_t offset = std::size_t{layer} * (m_size.states + m_size.taps - 1) * m_inner;
  const auto tokens = static_cast<std::uint32_t>(run.tokens.size());
  const std::uint32_t size = pieceOf(tokens);
  for (std::uint32_t first = 0; first < tokens; first += size) {
    const float* before = first == 0 ? run.stateIn : run.stateOut;
    runPiece<Value>(layer,
                    {.first = first,
                     .tokens = std::min(size, tokens - first),
                     .last = first + size >= tokens,
                     .stateIn = before + offset,
                     .stateOut = run.stateOut + offset,
                     .taps = meansFrom(m_weights, run.taps, first)},
                    stream);
  }
  check(cudaGetLastError(), "reading a layer");
}

template <class Value>
void Prefill::runPiece(std::uint32_t layer, const Piece& piece, cudaStream_t stream) {
  const ParameterLayout& layout = m_weights.layout;
  const float* parameters = m_weights.parameters.data() + std::size_t{layer} * layout.layerSize;
  norm<Value>(parameters + layout.norm, m_weights.outBias ? parameters + layout.outBias : nullptr,
              piece.first, piece.tokens, stream);
  if (piece.first == 0) await(kIn, stream);
  m_products.multiply({.rows = 2 * m_inner,
                       .columns = m_model,
                       .tokens = piece.tokens,
                       .stride = 2 * m_inner,
                       .wide = kWide<Value>,
                       .wideResult = kWide<Value>},
                      {.matrix = matrix<Value>(Matrix::InProj),
                       .from = m_convolved.data(),
                       .to = m_expanded.data()},
                      stream);
  if (piece.last) layOut(kIn, layer + 1, stream);
  const auto convolve =
      m_size.taps <= kFewTaps ? convKernel<Value, kFewTaps> : convKernel<Value, int{kMostTaps}>;
  convolve<<<dim3(blocksFor(m_inner, 512), blocksFor(piece.tokens, kConvTokens)), 128, 0, stream>>>(
      {.channels = channels(layer),
       .memory = piece.stateIn + std::size_t{m_size.states} * m_inner,
       .inner = m_inner,
       .taps = m_size.taps,
       .tokens = piece.tokens},
      reinterpret_cast<const Value*>(m_expanded.data()),
      reinterpret_cast<Value*>(m_convolved.data()));
  if (piece.first == 0) await(kRest, stream);
  select<Value>(layer, piece, stream);
  scan<Value>(layer, piece, stream);
  if (piece.taps.byLayer) keepTaps(layer, piece, stream);
  m_products.multiply({.rows = m_model,
                       .columns = m_inner,
                       .tokens = piece.tokens,
                       .stride = m_model,
                       .wide = kWide<Value>,
                       .wideResult = true,
                       .add = true},
                      {.matrix = matrix<Value>(Matrix::OutProj),
                       .from = m_convolved.data(),
                       .to = m_residual.data() + std::size_t{piece.first} * m_model},
                      stream);
  if (piece.last) layOut(kRest, layer + 1, stream);
}

/// δ, B and C, then W_dt δ in the place of u, of which the convolution's memory is kept before.
template <class Value>
void Prefill::select(std::uint32_t layer, const Piece& piece, cudaStream_t stream) {
  m_products.multiply(
      {.rows = m_projected,
       .columns = m_inner,
       .tokens = piece.tokens,
       .stride = m_projected,
       .wide = kWide<Value>,
       .wideResult = true},
      {.matrix = matrix<Value>(Matrix::XProj), .from = m_convolved.data(), .to = m_selected.data()},
      stream);
  const std::size_t memory = std::size_t{m_size.states} * m_inner;
  const std::size_t most = std::max(std::size_t{piece.tokens} * m_rank / 2, std::size_t{m_inner});
  betweenKernel<<<dim3(blocksFor(most, 256), 2), 256, 0, stream>>>(
      {.selected = m_selected.data(),
       .stride = m_projected,
       .rank = m_rank,
       .tokens = piece.tokens,
       .inBias = channels(layer) + std::size_t{kInBiasU} * m_inner,
       .inner = m_inner,
       .taps = m_size.taps,
       .memoryIn = piece.stateIn + memory,
       .memoryOut = piece.stateOut + memory},
      reinterpret_cast<const Value*>(m_expanded.data()),
      reinterpret_cast<Value*>(m_rankInput.data()));
  m_products.multiply({.rows = m_inner,
                       .columns = m_rank,
                       .tokens = piece.tokens,
                       .stride = 2 * m_inner,
                       .wide = kWide<Value>,
                       .wideResult = kWide<Value>},
                      {.matrix = matrix<Value>(Matrix::DtProj),
                       .from = m_rankInput.data(),
                       .to = m_expanded.data()},
                      stream);
}

template <class Value>
void Prefill::scan(std::uint32_t layer, const Piece& piece, cudaStream_t stream) {
  m_scan.run<Value>({.channels = channels(layer),
                     .selected = m_selected.data(),
                     .expanded = reinterpret_cast<Value*>(m_expanded.data()),
                     .convolved = reinterpret_cast<Value*>(m_convolved.data()),
                     .stateIn = piece.stateIn,
                     .stateOut = piece.stateOut,
                     .selectedStride = m_projected,
                     .bOffset = m_rank,
                     .cOffset = m_rank + kTileRows * tilesFor(m_size.states),
                     .inner = m_inner,
                     .states = m_size.states,
                     .taps = m_size.taps,
                     .tokens = piece.tokens,
                     .tapped = piece.taps.byLayer ? m_size.inner : 0},
                    stream);
}

/// Reduces what the scan has left in m_expanded.
void Prefill::keepTaps(std::uint32_t layer, const Piece& piece, cudaStream_t stream) const {
  const auto values = [&](std::size_t count) {
    return static_cast<std::uint32_t>(count * m_valueBytes / sizeof(float4));
  };
  reduceTapSums(m_weights,
                {.values = reinterpret_cast<const float4*>(m_expanded.data()),
                 .tokenStride = values(2 * std::size_t{m_inner}),
                 .channelStride = values(kSummedChannels)},
                layer, piece.tokens, piece.taps, stream);
}

/// norm(x) of some tokens to m_convolved, and `addend` to x.
template <class Value>
void Prefill::norm(const float* weight, const float* addend, std::uint32_t first,
                   std::uint32_t tokens, cudaStream_t stream) {
  normKernel<<<blocksFor(tokens, kNormRows), kNormRows * 32, 0, stream>>>(
      {.residual = m_residual.data() + std::size_t{first} * m_model,
       .weight = weight,
       .addend = addend,
       .model = m_size.model,
       .stride = m_model,
       .tokens = tokens,
       .epsilon = m_weights.epsilon,
       .layerNorm = m_weights.layerNorm},
      reinterpret_cast<Value*>(m_convolved.data()));
}

template <class Value>
const Value* Prefill::matrix(Matrix which) const {
  return reinterpret_cast<const Value*>(m_matrices.data()) +
         m_offsets[static_cast<std::size_t>(which)];
}

template <class Value>
void Prefill::runHead(const Run& run, cudaStream_t stream) {
  const auto count = static_cast<std::uint32_t>(run.tokens.size());
  const std::uint32_t rows = run.logits == Logits::Last ? 1 : count;
  reserveLogits(rows);
  const std::uint32_t headRows = kTileRows * tilesFor(m_size.vocabulary);
  for (std::uint32_t first = 0; first < rows; first += m_piece)
    runHeadPiece<Value>(count - rows + first, std::min(m_piece, rows - first),
                        m_logits.data() + std::size_t{first} * headRows, stream);
  // The layers' matrices rely on zeros behind their last rows and columns.
  check(cudaMemsetAsync(m_matrices.data(), 0, m_matrices.size(), stream), "cudaMemsetAsync");
  if (m_weights.headBias.size() > 0) {
    addBiasKernel<<<blocksFor(std::size_t{rows} * headRows, 256), 256, 0, stream>>>(
        m_logits.data(), m_weights.headBias.data(), m_size.vocabulary, headRows,
        std::size_t{rows} * headRows);
  }
  check(cudaMemcpy2DAsync(m_hostLogits.data(), m_size.vocabulary * sizeof(float), m_logits.data(),
                          headRows * sizeof(float), m_size.vocabulary * sizeof(float), rows,
                          cudaMemcpyDeviceToHost, stream),
        "fetching logits");
}

template <class Value>
void Prefill::runHeadPiece(std::uint32_t first, std::uint32_t rows, float* logits,
                           cudaStream_t stream) {
  norm<Value>(m_weights.parameters.data() + std::size_t{m_size.layers} * m_weights.layout.layerSize,
              nullptr, first, rows, stream);
  for (std::uint32_t tile = 0; tile < m_headRows.size(); tile += m_headPiece) {
    const std::size_t tiles = std::min<std::size_t>(m_headPiece, m_headRows.size() - tile);
    unpackTiles(m_weights, {m_headRows.data() + tile, tiles}, 0, m_matrices.data(), stream);
    m_products.multiply(
        {.rows = static_cast<std::uint32_t>(tiles) * kTileRows,
         .columns = m_model,
         .tokens = rows,
         .stride = kTileRows * tilesFor(m_size.vocabulary),
         .wide = kWide<Value>,
         .wideResult = true},
        {.matrix = m_matrices.data(), .from = m_convolved.data(), .to = logits + tile * kTileRows},
        stream);
  }
}

}  // namespace mb::cuda
