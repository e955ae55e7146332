// Products of matrices by cuBLASLt against sums in double precision, and what chooses among its
// algorithms. Skipped without a device.
#include <QTest>
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/fingerprint.h"
#include "kernels/cuda/products.h"
#include "tests/support/random_values.h"

using namespace mb;
using namespace mb::test;
using cuda::Order;
using cuda::ProductForm;
using cuda::Products;

namespace {

constexpr double kTolerance = 1e-5;         ///< of sums in float32
constexpr double kRoundedTolerance = 8e-3;  ///< of bfloat16, rounded before and after adding

/// Values on the device, float32 or bfloat16, of which the host has what they are there.
class Values {
 public:
  Values(std::vector<float> values, bool wide) : m_host(std::move(values)), m_wide(wide) {
    if (wide) {
      m_floats = cuda::DeviceArray<float>(m_host.size());
      m_floats.upload(m_host.data(), m_host.size());
      return;
    }
    std::vector<std::uint16_t> narrow;
    for (float& value : m_host) {
      narrow.push_back(floatToBfloat16(value));
      value = bfloat16ToFloat(narrow.back());
    }
    m_narrow = cuda::DeviceArray<std::uint16_t>(narrow.size());
    m_narrow.upload(narrow.data(), narrow.size());
  }

  const std::vector<float>& host() const { return m_host; }
  void* device() {
    return m_wide ? static_cast<void*>(m_floats.data()) : static_cast<void*>(m_narrow.data());
  }
  std::vector<float> fetched() const {
    std::vector<float> values(m_host.size());
    if (m_wide) {
      cuda::check(
          cudaMemcpy(values.data(), m_floats.data(), m_floats.bytes(), cudaMemcpyDeviceToHost),
          "cudaMemcpy");
      return values;
    }
    std::vector<std::uint16_t> narrow(values.size());
    cuda::check(
        cudaMemcpy(narrow.data(), m_narrow.data(), m_narrow.bytes(), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
    std::ranges::transform(narrow, values.begin(), bfloat16ToFloat);
    return values;
  }

 private:
  std::vector<float> m_host;
  bool m_wide;
  cuda::DeviceArray<float> m_floats;
  cuda::DeviceArray<std::uint16_t> m_narrow;
};

/// A matrix [rows][columns] with a stride that leaves room behind each row.
struct Placed {
  Placed(Random& random, std::uint32_t rowCount, std::uint32_t columnCount, Order storedAs,
         bool wide)
      : order(storedAs),
        stride((order == Order::AsIs ? columnCount : rowCount) + 16),
        values(random.floats(std::size_t{stride} * (order == Order::AsIs ? rowCount : columnCount),
                             -1, 1),
               wide) {}

  std::size_t place(std::size_t row, std::size_t column) const {
    return order == Order::AsIs ? row * stride + column : column * stride + row;
  }
  double at(std::size_t row, std::size_t column) const {
    return double(values.host()[place(row, column)]);
  }

  Order order;
  std::uint32_t stride;
  Values values;
};

}  // namespace

class CudaProductsTest : public QObject {
  Q_OBJECT

 private Q_SLOTS:
  void initTestCase() {
    const cuda::DeviceList list = cuda::listDevices();
    if (list.devices.empty()) QSKIP(list.problem.c_str());
  }

  void multipliesInEveryOrder_data() {
    QTest::addColumn<bool>("fromTransposed");
    QTest::addColumn<bool>("matrixTransposed");
    QTest::addColumn<bool>("wide");
    QTest::addColumn<bool>("wideResult");
    QTest::addColumn<bool>("add");
    for (int i = 0; i < 32; ++i) {
      const bool wide = i & 4;
      const bool wideResult = i & 8;
      if (wide && !wideResult) continue;
      QTest::addRow("from %d, matrix %d, wide %d, result %d, add %d", i & 1, i >> 1 & 1, wide,
                    wideResult, i >> 4)
          << bool(i & 1) << bool(i & 2) << wide << wideResult << bool(i & 16);
    }
  }

  void multipliesInEveryOrder() {
    QFETCH(bool, fromTransposed);
    QFETCH(bool, matrixTransposed);
    QFETCH(bool, wide);
    QFETCH(bool, wideResult);
    QFETCH(bool, add);
    constexpr std::uint32_t kTokens = 40, kColumns = 72, kRows = 48;
    Random random(7);
    const auto orderOf = [](bool transposed) {
      return transposed ? Order::Transposed : Order::AsIs;
    };
    Placed from(random, kTokens, kColumns, orderOf(fromTransposed), wide);
    Placed matrix(random, kColumns, kRows, orderOf(matrixTransposed), wide);
    Placed to(random, kTokens, kRows, Order::AsIs, wideResult);
    Products products;
    const cuda::Stream stream;
    products.multiply({.rows = kRows,
                       .columns = kColumns,
                       .tokens = kTokens,
                       .stride = to.stride,
                       .fromStride = from.stride,
                       .matrixStride = matrix.stride,
                       .from = from.order,
                       .matrix = matrix.order,
                       .wide = wide,
                       .wideResult = wideResult,
                       .add = add},
                      {matrix.values.device(), from.values.device(), to.values.device()}, stream);
    stream.wait();
    const std::vector<float> result = to.values.fetched();
    std::vector<float> expected = to.values.host();  // what lies behind the rows stays
    for (std::size_t token = 0; token < kTokens; ++token) {
      for (std::size_t row = 0; row < kRows; ++row) {
        double sum = add ? to.at(token, row) : 0;
        for (std::size_t k = 0; k < kColumns; ++k) sum += from.at(token, k) * matrix.at(k, row);
        expected[to.place(token, row)] = float(sum);
      }
    }
    const double tolerance = wideResult ? kTolerance : kRoundedTolerance;
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (!(std::abs(double(result[i]) - double(expected[i])) <=
            tolerance * std::max(4.0, std::abs(double(expected[i])))))
        QFAIL(qPrintable(
            QString("value %1 is %2, expected %3").arg(i).arg(result[i]).arg(expected[i])));
  }

  /// Whichever algorithm was the fastest.
  void measuredProductsHaveTheBitsOfEstimatedOnes() {
    constexpr std::uint32_t kTokens = 4096, kColumns = 1024, kRows = 1056;  // worth measuring
    Random random(8);
    Values from(random.floats(std::size_t{kTokens} * kColumns, -1, 1), false);
    Values matrix(random.floats(std::size_t{kRows} * kColumns, -1, 1), false);
    const auto resultOf = [&](Products::Choice choice, int times) {
      Values to(std::vector<float>(std::size_t{kTokens} * kRows), false);
      Products products(choice);
      const cuda::Stream stream;
      for (int i = 0; i < times; ++i)
        products.multiply({.rows = kRows, .columns = kColumns, .tokens = kTokens, .stride = kRows},
                          {matrix.device(), from.device(), to.device()}, stream);
      stream.wait();
      return to.fetched();
    };
    const std::vector<float> estimated = resultOf(Products::Choice::Estimated, 1);
    QVERIFY(std::ranges::any_of(estimated, [](float value) { return value != 0; }));
    QVERIFY(resultOf(Products::Choice::Measured, 1) == estimated);
    QVERIFY(resultOf(Products::Choice::Measured, 2) == estimated);
  }

  void fingerprintsTellBitsAndPlacesApart_data() {
    QTest::addColumn<bool>("wide");
    QTest::newRow("float32") << true;
    QTest::newRow("bfloat16") << false;
  }

  void fingerprintsTellBitsAndPlacesApart() {
    QFETCH(bool, wide);
    constexpr std::uint32_t kRows = 3000, kColumns = 40, kStride = 56;
    Random random(9);
    const std::vector<float> values = random.floats(std::size_t{kRows} * kStride, -1, 1);
    cuda::Fingerprint fingerprint;
    const auto of = [&](const std::vector<float>& some) {
      Values placed(some, wide);
      return fingerprint.of(placed.device(), wide, kRows, kColumns, kStride, nullptr);
    };
    const std::uint64_t known = of(values);
    QCOMPARE(of(values), known);
    std::vector<float> other = values;
    other[kStride * 2000 + 39] *= -1;
    QVERIFY(of(other) != known);
    other = values;
    std::swap(other[5], other[kStride * 2999 + 7]);
    QVERIFY(of(other) != known);
    other = values;
    other[kStride * 2000 + kColumns] += 1;  // behind a row
    QCOMPARE(of(other), known);
  }
};

QTEST_GUILESS_MAIN(CudaProductsTest)
#include "test_cuda_products.moc"
