#include <algorithm>

#include "kernels/cuda/training/rows.cuh"
#include "kernels/cuda/training/token_table.h"

namespace mb::cuda::training {

namespace {

constexpr std::size_t kPieceRows = 128;  ///< of one token that a block sums
constexpr unsigned kThreads = 128;

std::size_t mostPieces(const Extents& extents, std::size_t rows) {
  return rows / kPieceRows + std::min<std::size_t>(extents.vocabulary, rows);
}

template <class T>
void send(DeviceArray<T>& to, std::span<const T> values, cudaStream_t stream) {
  check(cudaMemcpyAsync(to.data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice,
                        stream),
        "sending tokens");
}

}  // namespace

TokenTable::TokenTable(const Extents& extents, std::size_t rows)
    : m_width(extents.modelPadded()),
      m_vocabulary(extents.vocabulary),
      m_inputs(rows),
      m_targets(rows),
      m_rows(rows),
      m_pieces(mostPieces(extents, rows)),
      m_tokens(std::min<std::size_t>(extents.vocabulary, rows)) {}

TokenTable::~TokenTable() = default;

std::size_t TokenTable::memoryFor(const Extents& extents, std::size_t rows) {
  return 3 * sizeof(std::int32_t) * rows + 2 * sizeof(Occurrences) * mostPieces(extents, rows);
}

std::size_t TokenTable::sumsFor(const Extents& extents, std::size_t rows) {
  return mostPieces(extents, rows) * extents.modelPadded();
}

void TokenTable::upload(std::span<const std::int32_t> inputs, std::span<const std::int32_t> targets,
                        cudaStream_t stream) {
  m_count = inputs.size();
  send(m_inputs, inputs, stream);
  send(m_targets, targets, stream);
}

void TokenTable::sort(std::span<const std::int32_t> inputs, cudaStream_t stream) {
  findOccurrences(inputs);
  send<std::uint32_t>(m_rows, m_sorted, stream);
  send<Occurrences>(m_pieces, m_hostPieces, stream);
  send<Occurrences>(m_tokens, m_hostTokens, stream);
}

/// Sorts rows by token, and cuts them into pieces.
void TokenTable::findOccurrences(std::span<const std::int32_t> inputs) {
  std::vector<std::uint32_t> next(m_vocabulary + 1);
  for (const std::int32_t token : inputs) ++next[static_cast<std::size_t>(token) + 1];
  for (std::size_t i = 0; i < m_vocabulary; ++i) next[i + 1] += next[i];
  const std::vector<std::uint32_t> begins = next;
  m_sorted.resize(inputs.size());
  for (std::size_t row = 0; row < inputs.size(); ++row)
    m_sorted[next[static_cast<std::size_t>(inputs[row])]++] = static_cast<std::uint32_t>(row);
  m_hostPieces.clear();
  m_hostTokens.clear();
  for (std::uint32_t token = 0; token < m_vocabulary; ++token) {
    const auto firstPiece = static_cast<std::uint32_t>(m_hostPieces.size());
    const std::uint32_t end = begins[token + 1];
    for (std::uint32_t at = begins[token]; at < end; at += kPieceRows)
      m_hostPieces.push_back(
          {static_cast<std::int32_t>(token), at, std::min<std::uint32_t>(kPieceRows, end - at)});
    const auto pieces = static_cast<std::uint32_t>(m_hostPieces.size()) - firstPiece;
    if (pieces > 0) m_hostTokens.push_back({static_cast<std::int32_t>(token), firstPiece, pieces});
  }
}

void TokenTable::embed(const float* embedding, float* x, cudaStream_t stream) const {
  embedKernel<<<static_cast<unsigned>(m_count), kThreads, 0, stream>>>(m_inputs.data(), embedding,
                                                                       m_width, x);
  check(cudaGetLastError(), "looking up embeddings");
}

void TokenTable::addGradient(const float* dx, float* sums, float* gradient, cudaStream_t stream) {
  sumOccurrencesKernel<<<static_cast<unsigned>(m_hostPieces.size()), kThreads, 0, stream>>>(
      m_pieces.data(), m_rows.data(), dx, m_width, sums);
  addOccurrencesKernel<<<static_cast<unsigned>(m_hostTokens.size()), kThreads, 0, stream>>>(
      m_tokens.data(), sums, m_width, gradient);
  check(cudaGetLastError(), "adding up the embedding's gradient");
}

}  // namespace mb::cuda::training
