// Products of row-major matrices in the stream of a pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

#include "kernels/cuda/products.h"

namespace mb::cuda::training {

/// A row-major matrix whose rows lie `stride` values apart.
template <class Value>
struct Rows {
  Value* data;
  std::size_t rows;
  std::size_t columns;
  std::size_t stride;
};

/// A stream and what multiplies there.
class PassProducts {
 public:
  /// Sums over all tokens are split into many parts.
  static constexpr std::size_t kWorkspaceBytes = 32u << 20;

  explicit PassProducts(cudaStream_t stream)
      : m_products(Products::Choice::Measured, kWorkspaceBytes), m_stream(stream) {}

  /// to = a · b, of these or their transposes; sums are float32.
  template <class Value, class Result>
  void multiply(Order orderA, const Rows<const Value>& a, Order orderB, const Rows<const Value>& b,
                const Rows<Result>& to) {
    run(formOf(orderA, a, orderB, b, to), a.data, b.data, to.data);
  }

  /// to += a · b, likewise.
  template <class Value, class Result>
  void addProduct(Order orderA, const Rows<const Value>& a, Order orderB,
                  const Rows<const Value>& b, const Rows<Result>& to) {
    ProductForm form = formOf(orderA, a, orderB, b, to);
    form.add = true;
    run(form, a.data, b.data, to.data);
  }

 private:
  template <class Value, class Result>
  static ProductForm formOf(Order orderA, const Rows<const Value>& a, Order orderB,
                            const Rows<const Value>& b, const Rows<Result>& to) {
    const auto narrow = [](std::size_t extent) { return static_cast<std::uint32_t>(extent); };
    return {.rows = narrow(to.columns),
            .columns = narrow(orderA == Order::AsIs ? a.columns : a.rows),
            .tokens = narrow(to.rows),
            .stride = narrow(to.stride),
            .fromStride = narrow(a.stride),
            .matrixStride = narrow(b.stride),
            .from = orderA,
            .matrix = orderB,
            .wide = sizeof(Value) == sizeof(float),
            .wideResult = sizeof(Result) == sizeof(float)};
  }

  void run(const ProductForm& form, const void* a, const void* b, void* to) {
    m_products.multiply(form, {.matrix = b, .from = a, .to = to}, m_stream);
  }

  Products m_products;
  cudaStream_t m_stream;
};

}  // namespace mb::cuda::training
