#include <algorithm>

#include "kernels/cuda/prefill.h"
#include "kernels/cuda/prefill_rows.cuh"
#include "kernels/cuda/prefill_scan.cuh"

namespace mb::cuda {

namespace {

constexpr int kFewTaps = 4;  // that all published models have
constexpr std::uint32_t kMostSegments = 16;
constexpr std::size_t kBlocksPerProcessor = 8;
constexpr std::uint32_t kLeastSegment = 256;  // tokens
constexpr std::uint32_t kTokenStep = 256;     // that the capacity is a multiple of
constexpr std::uint32_t kMostRead = 8192;
constexpr std::size_t kMostLogitBytes = 64u << 20;

/// A matrix, and what it is multiplied with and gives: rows of tokens.
template <class Value, class Result>
struct Product {
  const Value* matrix;  // [rows][columns]
  std::uint32_t rows;
  std::uint32_t columns;
  const Value* from;  // [tokens][columns]
  Result* to;         // [tokens][stride], of which `rows` values
  std::uint32_t stride;
  std::uint32_t tokens;
  bool add = false;  // to what is there
};

/// to = from · matrixᵀ.
template <class Value, class Result>
void multiply(const Blas& blas, const Product<Value, Result>& p) {
  multiply<Value, Result>(blas, Order::AsIs, {p.from, p.tokens, p.columns, p.columns},
                          Order::Transposed, {p.matrix, p.rows, p.columns, p.columns},
                          p.add ? 1.0f : 0.0f, {p.to, p.tokens, p.rows, p.stride});
}

unsigned blocksFor(std::size_t count, std::size_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace

std::uint32_t Prefill::mostTokens(const DeviceWeights& weights, std::size_t budget) {
  const Dimensions& d = weights.plan.dimensions();
  const ParameterLayout& layout = weights.layout;
  const std::size_t valueBytes = d.planes > 1 ? sizeof(float) : sizeof(bf16);
  const std::size_t perToken =
      valueBytes * (std::max(layout.paddedModel, d.dtRank) + 4 * layout.paddedInner) +
      sizeof(float) * (layout.paddedModel + projectedRows(d));
  const std::size_t withLogits = kMostLogitBytes / (sizeof(float) * d.vocabulary);
  const std::size_t fitting =
      std::clamp<std::size_t>(std::min(budget / perToken, withLogits), kTokenStep, kMostRead);
  return static_cast<std::uint32_t>(fitting / kTokenStep * kTokenStep);
}

Prefill::Prefill(const DeviceWeights& weights, std::uint32_t tokens)
    : m_weights(weights),
      m_size(weights.plan.dimensions()),
      m_model(weights.layout.paddedModel),
      m_inner(weights.layout.paddedInner),
      m_projected(projectedRows(m_size)),
      m_rank(kTileRows * tilesFor(m_size.dtRank)),
      m_valueBytes(m_size.planes > 1 ? sizeof(float) : sizeof(bf16)) {
  std::vector<UnpackRow> rows;
  std::size_t values = 0;
  const auto add = [&](Matrix matrix, std::size_t count, std::uint32_t columns) {
    m_offsets[static_cast<std::size_t>(matrix)] = values;
    addRows(matrix, columns, values, rows);
    values += count * columns;
  };
  add(Matrix::InProj, 2 * m_inner, m_model);
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
  m_channels =
      DeviceArray<float>(std::size_t{kConvWeights + m_size.taps + m_size.states} * m_inner);

  const std::size_t most = tokens;
  const std::size_t normed = std::max(m_model, m_rank);
  m_tokens = DeviceArray<std::int32_t>(most);
  m_residual = DeviceArray<float>(most * m_model);
  m_normed = DeviceArray<std::byte>(most * normed * m_valueBytes);
  m_expanded = DeviceArray<std::byte>(most * 2 * m_inner * m_valueBytes);
  m_convolved = DeviceArray<std::byte>(most * m_inner * m_valueBytes);
  m_delta = DeviceArray<std::byte>(most * m_inner * m_valueBytes);
  m_selected = DeviceArray<float>(most * m_projected);
  m_segmentEnds = DeviceArray<float>(std::size_t{kMostSegments} * m_size.states * m_inner);
  m_segmentSums = DeviceArray<float>(std::size_t{kMostSegments} * m_inner);
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

/// Segments read the first state while the last one writes the new: they must not be the same.
void Prefill::run(const Run& wanted, cudaStream_t stream) {
  Run run = wanted;
  if (run.stateIn == run.stateOut) {
    const std::size_t size =
        std::size_t{m_size.layers} * (m_size.states + m_size.taps - 1) * m_inner;
    if (m_start.size() == 0) m_start = DeviceArray<float>(size);
    check(cudaMemcpyAsync(m_start.data(), run.stateIn, size * sizeof(float),
                          cudaMemcpyDeviceToDevice, stream),
          "copying a state");
    run.stateIn = m_start.data();
  }
  m_size.planes > 1 ? runAs<float>(run, stream) : runAs<bf16>(run, stream);
}

template <class Value>
void Prefill::runAs(const Run& run, cudaStream_t stream) {
  const auto tokens = static_cast<unsigned>(run.tokens.size());
  checkBlas(cublasSetStream(m_blas, stream), "cublasSetStream");
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
  for (std::uint32_t layer = 0; layer < m_size.layers; ++layer) runLayer<Value>(layer, run, stream);
  if (run.logits != Logits::None) runHead<Value>(run, stream);
}

template <class Value>
void Prefill::runLayer(std::uint32_t layer, const Run& run, cudaStream_t stream) {
  const auto tokens = static_cast<std::uint32_t>(run.tokens.size());
  const ParameterLayout& layout = m_weights.layout;
  const float* parameters = m_weights.parameters.data() + std::size_t{layer} * layout.layerSize;
  unpackTiles(m_weights, {m_layerRows.data(), m_layerRows.size()}, layer, m_matrices.data(),
              stream);
  unpackRecords(m_weights, layer, m_channels.data(), stream);
  const auto matrix = [&](Matrix which) {
    return reinterpret_cast<const Value*>(m_matrices.data()) +
           m_offsets[static_cast<std::size_t>(which)];
  };

  auto* normed = reinterpret_cast<Value*>(m_normed.data());
  auto* expanded = reinterpret_cast<Value*>(m_expanded.data());
  auto* convolved = reinterpret_cast<Value*>(m_convolved.data());
  auto* delta = reinterpret_cast<Value*>(m_delta.data());
  normKernel<<<tokens, kRowThreads, 0, stream>>>(
      {.residual = m_residual.data(),
       .weight = parameters + layout.norm,
       .addend = m_weights.outBias ? parameters + layout.outBias : nullptr,
       .model = m_size.model,
       .stride = m_model,
       .epsilon = m_weights.epsilon,
       .layerNorm = m_weights.layerNorm},
      normed);
  multiply(m_blas, Product<Value, Value>{matrix(Matrix::InProj), 2 * m_inner, m_model, normed,
                                         expanded, 2 * m_inner, tokens});

  const std::size_t stateOffset = std::size_t{layer} * (m_size.states + m_size.taps - 1) * m_inner;
  const std::size_t memoryOffset = stateOffset + std::size_t{m_size.states} * m_inner;
  const ConvArguments conv{.channels = m_channels.data(),
                           .memory = run.stateIn + memoryOffset,
                           .inner = m_inner,
                           .taps = m_size.taps,
                           .tokens = tokens};
  const auto convolve =
      m_size.taps <= kFewTaps ? convKernel<Value, kFewTaps> : convKernel<Value, int{kMostTaps}>;
  convolve<<<dim3(blocksFor(m_inner, 512), blocksFor(tokens, kConvTokens)), 128, 0, stream>>>(
      conv, expanded, convolved);
  multiply(m_blas, Product<Value, float>{matrix(Matrix::XProj), m_projected, m_inner, convolved,
                                         m_selected.data(), m_projected, tokens});
  narrowKernel<<<blocksFor(std::size_t{tokens} * m_rank, 512), 256, 0, stream>>>(
      m_selected.data(), m_projected, m_rank, tokens, normed);
  multiply(m_blas, Product<Value, Value>{matrix(Matrix::DtProj), m_inner, m_rank, normed, delta,
                                         m_inner, tokens});
  scan<Value>(layer, run, stream);
  multiply(m_blas, Product<Value, float>{matrix(Matrix::OutProj), m_model, m_inner, delta,
                                         m_residual.data(), m_model, tokens, true});
  check(cudaGetLastError(), "reading a layer");
}

template <class Value>
void Prefill::scan(std::uint32_t layer, const Run& run, cudaStream_t stream) {
  const auto tokens = static_cast<std::uint32_t>(run.tokens.size());
  const unsigned columns = blocksFor(m_inner, kSegmentChannels);
  // Segments that keep every multiprocessor busy are worth their second pass.
  const auto wanted =
      static_cast<std::uint32_t>(kBlocksPerProcessor * m_weights.blocks.size() / columns);
  const std::uint32_t segments =
      std::clamp(std::min(wanted, tokens / kLeastSegment), 1u, kMostSegments);
  const std::uint32_t segment = blocksFor(blocksFor(tokens, segments), kSegmentTile) * kSegmentTile;
  const std::size_t offset = std::size_t{layer} * (m_size.states + m_size.taps - 1) * m_inner;
  const ScanArguments arguments{
      .channels = m_channels.data(),
      .selected = m_selected.data(),
      .selectedStride = m_projected,
      .bOffset = m_rank,
      .cOffset = m_rank + kTileRows * tilesFor(m_size.states),
      .inner = m_inner,
      .states = m_size.states,
      .taps = m_size.taps,
      .tokens = tokens,
      .segment = segment,
      .stateIn = run.stateIn + offset,
      .stateOut = run.stateOut + offset,
      .ends = m_segmentEnds.data(),
      .sums = m_segmentSums.data(),
  };
  const auto* expanded = reinterpret_cast<const Value*>(m_expanded.data());
  const auto* convolved = reinterpret_cast<const Value*>(m_convolved.data());
  auto* delta = reinterpret_cast<Value*>(m_delta.data());
  const unsigned rows = blocksFor(tokens, segment);
  constexpr int kFew = 4;
  constexpr int kMany = kMostStates / kSegmentLanes;
  const bool few = m_size.states <= kFew * kSegmentLanes;
  const dim3 before(columns, rows - 1);
  const dim3 all(columns, rows);
  const auto launch = [&](auto kernel, dim3 grid) {
    if (grid.y > 0)
      kernel<<<grid, kSegmentThreads, 0, stream>>>(arguments, expanded, convolved, delta);
  };
  launch(few ? scanKernel<Value, kFew, false> : scanKernel<Value, kMany, false>, before);
  launch(few ? scanKernel<Value, kFew, true> : scanKernel<Value, kMany, true>, all);
}

template <class Value>
void Prefill::runHead(const Run& run, cudaStream_t stream) {
  const auto count = static_cast<std::uint32_t>(run.tokens.size());
  const std::uint32_t rows = run.logits == Logits::Last ? 1 : count;
  reserveLogits(rows);
  const std::uint32_t headRows = kTileRows * tilesFor(m_size.vocabulary);
  auto* normed = reinterpret_cast<Value*>(m_normed.data());
  normKernel<<<rows, kRowThreads, 0, stream>>>(
      {.residual = m_residual.data() + std::size_t{count - rows} * m_model,
       .weight =
           m_weights.parameters.data() + std::size_t{m_size.layers} * m_weights.layout.layerSize,
       .addend = nullptr,
       .model = m_size.model,
       .stride = m_model,
       .epsilon = m_weights.epsilon,
       .layerNorm = m_weights.layerNorm},
      normed);
  const auto* matrix = reinterpret_cast<const Value*>(m_matrices.data());
  for (std::uint32_t tile = 0; tile < m_headRows.size(); tile += m_headPiece) {
    const std::size_t tiles = std::min<std::size_t>(m_headPiece, m_headRows.size() - tile);
    unpackTiles(m_weights, {m_headRows.data() + tile, tiles}, 0, m_matrices.data(), stream);
    multiply(m_blas,
             Product<Value, float>{matrix, static_cast<std::uint32_t>(tiles) * kTileRows, m_model,
                                   normed, m_logits.data() + tile * kTileRows, headRows, rows});
  }
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

}  // namespace mb::cuda
