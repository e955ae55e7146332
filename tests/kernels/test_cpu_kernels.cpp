// Every vector operation against its scalar twin, at every instruction set of this processor.
#include <QtTest>
#include <cmath>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/cpu/ops.h"
#include "tests/support/random_values.h"
#include "tests/support/scalar_kernels.h"

using namespace mb;
using namespace mb::cpu;
using mb::test::Random;
using mb::test::relativeError;

namespace {

using Floats = AlignedArray<float>;

/// Rounding of n float additions grows like sqrt(n) · 2^-24; this leaves a factor of ten.
double sumTolerance(std::size_t n) {
  return 10 * std::sqrt(static_cast<double>(n)) * 0x1p-24;
}

/// exp, SiLU and softplus: a few units in the last place.
constexpr double kFunctionTolerance = 1e-6;

struct Product {
  Product(std::size_t rows, std::size_t columns, WeightType type, Random& random)
      : matrix(rows, columns, type), weights(rows * columns) {
    std::vector<float> row(columns);
    for (std::size_t r = 0; r < rows; ++r) {
      for (float& value : row) value = random.uniform(-1, 1);
      matrix.setRow(r, row);
      for (std::size_t c = 0; c < columns; ++c) weights[r * columns + c] = matrix.at(r, c);
    }
  }
  PackedMatrix matrix;
  scalar::Values weights;  ///< as stored
};

/// Inputs of one chunk with a stride of its own; padding is zero, as the contract asks.
Floats randomInputs(std::size_t count, std::size_t columns, std::size_t stride, Random& random) {
  Floats inputs(count * stride);
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t c = 0; c < columns; ++c) inputs[i * stride + c] = random.uniform(-1, 1);
  return inputs;
}

/// All arrays of a scan over `channels` channels.
struct ScanData {
  ScanData(std::size_t channelCount, std::size_t stateCount, std::size_t byteCount, Random& random)
      : channels(channelCount),
        padded(roundUp(channelCount, kBlockRows)),
        stride(padded + kBlockRows),
        states(stateCount),
        count(byteCount),
        delta(count * stride),
        u(count * stride),
        z(count * stride),
        bc(count * 2 * roundUp(states, kBlockRows)),
        a(padded * states),
        d(padded),
        state(padded * states),
        stateOut(padded * states),
        y(count * stride),
        squared(count * stride),
        decay(count * stride) {
    for (std::size_t t = 0; t < count; ++t) {
      for (std::size_t c = 0; c < channels; ++c) {
        delta[t * stride + c] = std::exp(random.uniform(-7, 1));
        u[t * stride + c] = random.uniform(-2, 2);
        z[t * stride + c] = random.uniform(-4, 4);
      }
    }
    random.fill(bc, -1, 1);
    for (std::size_t c = 0; c < channels; ++c) {
      d[c] = random.uniform(-1, 1);
      for (std::size_t n = 0; n < states; ++n) {
        a[at(c, n)] = -std::exp(random.uniform(-2, 3)) * 1.44269504f;
        state[at(c, n)] = random.uniform(-3, 3);
      }
    }
  }

  std::size_t at(std::size_t channel, std::size_t n) const {
    return blockOffset(channel, states) + n * kBlockRows;
  }
  ScanArgs args(bool taps) {
    ScanArgs args;
    args.delta = delta.data();
    args.input = u.data();
    args.stride = stride;
    args.gate = z.data();
    args.gateStride = stride;
    args.b = bc.data();
    args.c = bc.data() + roundUp(states, kBlockRows);
    args.bcStride = 2 * roundUp(states, kBlockRows);
    args.aLog2e = a.data();
    args.d = d.data();
    args.stateIn = state.data();
    args.stateOut = stateOut.data();
    args.output = y.data();
    if (taps) {
      args.stateSquared = squared.data();
      args.meanDecay = decay.data();
    }
    args.states = states;
    args.channelEnd = padded;
    args.count = count;
    return args;
  }
  scalar::Scan expected(std::size_t channel) const {
    scalar::Values deltas, us, zs, as, s0;
    std::vector<scalar::Values> b, c;
    const std::size_t wide = roundUp(states, kBlockRows);
    for (std::size_t t = 0; t < count; ++t) {
      deltas.push_back(delta[t * stride + channel]);
      us.push_back(u[t * stride + channel]);
      zs.push_back(z[t * stride + channel]);
      b.emplace_back(&bc[t * 2 * wide], &bc[t * 2 * wide] + states);
      c.emplace_back(&bc[t * 2 * wide + wide], &bc[t * 2 * wide + wide] + states);
    }
    for (std::size_t n = 0; n < states; ++n) {
      as.push_back(static_cast<double>(a[at(channel, n)]) / 1.4426950408889634);
      s0.push_back(state[at(channel, n)]);
    }
    return scalar::scan(deltas, us, zs, b, c, as, d[channel], s0);
  }

  std::size_t channels, padded, stride, states, count;
  Floats delta, u, z, bc, a, d, state, stateOut, y, squared, decay;
};

}  // namespace

class CpuKernelsTest : public QObject {
  Q_OBJECT

 private slots:
  void listsTheBaselineAndNamesEachLevelOnce() {
    const auto levels = availableSimdLevels();
    QVERIFY(!levels.empty());
    QSet<QString> names;
    for (const SimdLevel& level : levels) names.insert(QString::fromUtf8(level.name.data()));
    QCOMPARE(static_cast<std::size_t>(names.size()), levels.size());
#if defined(__x86_64__)
    QVERIFY(names.contains("baseline"));
#endif
  }

  void bfloat16RoundsToNearestEven() {
    QCOMPARE(floatToBfloat16(1.0f), std::uint16_t{0x3f80});
    QCOMPARE(floatToBfloat16(1.00390625f), std::uint16_t{0x3f80});  // halfway, down to even
    QCOMPARE(floatToBfloat16(1.01171875f), std::uint16_t{0x3f82});  // halfway, up to even
    QCOMPARE(bfloat16ToFloat(0xc000), -2.0f);
    QVERIFY(std::isnan(bfloat16ToFloat(floatToBfloat16(std::nanf("")))));
    QVERIFY(std::isinf(bfloat16ToFloat(floatToBfloat16(3.4e38f))));
  }

  void packedMatrixKeepsEveryValue() {
    Random random(1);
    for (const auto type : {WeightType::Float32, WeightType::BFloat16}) {
      const Product product(35, 13, type, random);
      for (std::size_t r = 0; r < 35; ++r) {
        for (std::size_t c = 0; c < 13; ++c) {
          const float value = product.matrix.at(r, c);
          QCOMPARE(value,
                   type == WeightType::Float32 ? value : bfloat16ToFloat(floatToBfloat16(value)));
        }
      }
      QCOMPARE(product.matrix.blocks(), std::size_t{3});
    }
  }

  void matmul_data() {
    QTest::addColumn<QString>("level");
    for (const SimdLevel& level : availableSimdLevels())
      QTest::newRow(level.name.data()) << QString::fromUtf8(level.name.data());
  }
  void matmul() {
    const SimdLevel level = levelOf(fetchLevel());
    Random random(2);
    for (const auto type : {WeightType::Float32, WeightType::BFloat16}) {
      for (const std::size_t rows : {1u, 16u, 33u, 200u}) {
        for (const std::size_t columns : {1u, 2u, 31u, 64u}) {
          const Product product(rows, columns, type, random);
          for (const std::size_t count : {1u, 2u, 3u, 5u, 6u, 7u, 13u, 32u, 40u})
            checkProduct(level, product, count, random);
        }
      }
    }
  }

  void matmulAddsBiasAndAccumulates_data() {
    matmul_data();
  }
  void matmulAddsBiasAndAccumulates() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(3);
    const Product product(20, 8, WeightType::Float32, random);
    const Floats x = randomInputs(1, 8, 8, random);
    Floats bias(32), y(32), before(32);
    random.fill(bias, -1, 1);
    random.fill(y, -1, 1);
    before = y;
    ops.matmul({.weights = &product.matrix,
                .blockEnd = 2,
                .input = x.data(),
                .inputStride = 8,
                .output = y.data(),
                .outputStride = 32,
                .bias = bias.data(),
                .count = 1,
                .accumulate = true});
    const scalar::Values sums =
        scalar::product(product.weights, 20, scalar::Values(x.data(), x.data() + 8));
    for (std::size_t r = 0; r < 20; ++r)
      QVERIFY(std::abs(static_cast<double>(y[r] - before[r] - bias[r]) - sums[r]) < 1e-6);
  }

  void matmulWritesOnlyTheBlocksAskedFor() {
    const Ops& ops = *availableSimdLevels().front().ops;
    Random random(4);
    const Product product(64, 8, WeightType::BFloat16, random);
    const Floats x = randomInputs(3, 8, 8, random);
    Floats y(3 * 64);
    for (float& value : y.span()) value = 7;
    ops.matmul({.weights = &product.matrix,
                .blockBegin = 1,
                .blockEnd = 3,
                .input = x.data(),
                .inputStride = 8,
                .output = y.data(),
                .outputStride = 64,
                .count = 3});
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t r = 0; r < 64; ++r) QCOMPARE(y[i * 64 + r] == 7, r < 16 || r >= 48);
    }
  }

  void aRowOfAChunkHasTheBitsOfASingleProduct_data() {
    matmul_data();
  }
  void aRowOfAChunkHasTheBitsOfASingleProduct() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(5);
    for (const auto type : {WeightType::Float32, WeightType::BFloat16}) {
      const Product product(144, 70, type, random);
      Floats x = randomInputs(32, 70, 80, random);
      for (std::size_t c = 0; c < 70; ++c) x[3 * 80 + c] *= 5e-38f;  // products are denormal
      Floats bias(144), before(32 * 144);
      random.fill(bias, -1, 1);
      random.fill(before, -1, 1);
      for (std::size_t c = 0; c < 144; ++c) before[3 * 144 + c] = 0;
      for (const std::size_t count : {32u, 17u, 4u}) {
        Floats all = before;
        const MatmulArgs args{.weights = &product.matrix,
                              .blockEnd = 9,
                              .input = x.data(),
                              .inputStride = 80,
                              .output = all.data(),
                              .outputStride = 144,
                              .bias = count == 17 ? bias.data() : nullptr,
                              .count = count,
                              .accumulate = true};
        ops.matmul(args);
        for (std::size_t i = 0; i < count; ++i) {
          Floats one(144);
          std::copy_n(before.data() + i * 144, 144, one.data());
          MatmulArgs single = args;
          single.input = x.data() + i * 80;
          single.output = one.data();
          single.count = 1;
          ops.matmul(single);
          QVERIFY2(std::equal(one.data(), one.data() + 144, all.data() + i * 144),
                   qPrintable(QString("input %1 of %2").arg(i).arg(count)));
        }
      }
    }
  }

  void fusedLevelsAgreeBitForBit() {
    std::vector<SimdLevel> fused;
    for (const SimdLevel& level : availableSimdLevels())
      if (level.name == "avx512" || level.name == "avx2") fused.push_back(level);
    if (fused.size() < 2) QSKIP("needs a processor with AVX2 and AVX-512");
    Random random(6);
    const Product product(48, 33, WeightType::BFloat16, random);
    const Floats x = randomInputs(4, 33, 48, random);
    std::vector<Floats> results;
    for (const SimdLevel& level : fused) {
      results.emplace_back(4 * 48);
      level.ops->matmul({.weights = &product.matrix,
                         .blockEnd = 3,
                         .input = x.data(),
                         .inputStride = 48,
                         .output = results.back().data(),
                         .outputStride = 48,
                         .count = 4});
    }
    QVERIFY(results[0] == results[1]);
    ScanData data(40, 16, 5, random);
    std::vector<Floats> states;
    for (const SimdLevel& level : fused) {
      level.ops->scan(data.args(false));
      states.push_back(data.stateOut);
    }
    QVERIFY(states[0] == states[1]);
  }

  void norm_data() {
    matmul_data();
  }
  void norm() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(7);
    for (const std::size_t size : {1u, 15u, 16u, 17u, 40u, 512u}) {
      for (const bool center : {false, true}) {
        Floats x(size), weight(size), bias(size), y(size);
        random.fill(x, -3, 5);
        random.fill(weight, -1, 1);
        random.fill(bias, -1, 1);
        ops.norm({.input = x.data(),
                  .output = y.data(),
                  .size = size,
                  .weight = weight.data(),
                  .bias = center ? bias.data() : nullptr,
                  .epsilon = 1e-5f});
        const auto values = [&](const Floats& f) {
          return scalar::Values(f.data(), f.data() + size);
        };
        const auto expected = scalar::norm(values(x), values(weight),
                                           center ? values(bias) : scalar::Values(), 1e-5, center);
        QVERIFY2(relativeError(y, expected) < sumTolerance(size + 16) + 1e-6,
                 qPrintable(QString("size %1").arg(size)));
      }
    }
  }

  void convolve_data() {
    matmul_data();
  }
  void convolve() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(8);
    for (const std::size_t taps : {1u, 3u, 4u, 9u}) {
      for (const std::size_t count : {1u, 2u, 7u}) {
        const std::size_t channels = 48;
        Floats u(count * 64), history((taps - 1) * channels), weight(taps * channels);
        Floats bias(channels), y(count * 64);
        for (Floats* values : {&u, &history, &weight, &bias}) random.fill(*values, -1, 1);
        ops.convolve({.input = u.data(),
                      .inputStride = 64,
                      .history = history.data(),
                      .output = y.data(),
                      .outputStride = 64,
                      .weight = weight.data(),
                      .bias = bias.data(),
                      .channels = channels,
                      .taps = taps,
                      .channelEnd = 48,
                      .count = count});
        for (std::size_t c = 0; c < channels; ++c) {
          scalar::Values inputs, weights, got;
          for (std::size_t i = 0; i + 1 < taps; ++i) inputs.push_back(history[i * channels + c]);
          for (std::size_t t = 0; t < count; ++t) inputs.push_back(u[t * 64 + c]);
          for (std::size_t j = 0; j < taps; ++j) weights.push_back(weight[j * channels + c]);
          for (std::size_t t = 0; t < count; ++t) got.push_back(y[t * 64 + c]);
          QVERIFY(relativeError(got, scalar::convolve(inputs, weights, bias[c])) < 1e-5);
        }
      }
    }
  }

  void scan_data() {
    matmul_data();
  }
  void scan() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(9);
    for (const std::size_t states : {1u, 8u, 16u, 20u}) {
      ScanData data(21, states, 9, random);
      ops.scan(data.args(true));
      for (std::size_t channel = 0; channel < data.channels; ++channel) {
        const scalar::Scan expected = data.expected(channel);
        scalar::Values y, squared, decay, state;
        for (std::size_t t = 0; t < data.count; ++t) {
          y.push_back(data.y[t * data.stride + channel]);
          squared.push_back(data.squared[t * data.stride + channel]);
          decay.push_back(data.decay[t * data.stride + channel]);
        }
        for (std::size_t n = 0; n < states; ++n)
          state.push_back(data.stateOut[data.at(channel, n)]);
        QVERIFY(relativeError(y, expected.y) < 2e-5);
        QVERIFY(relativeError(state, expected.state) < 1e-5);
        QVERIFY(relativeError(squared, expected.stateSquared) < 1e-5);
        QVERIFY(relativeError(decay, expected.meanDecay) < 1e-5);
      }
    }
  }

  void replayLeavesTheBitsOfTheScan_data() {
    matmul_data();
  }
  void replayLeavesTheBitsOfTheScan() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(10);
    ScanData data(32, 16, 6, random);
    ScanArgs args = data.args(false);
    args.count = 4;
    ops.scan(args);
    const Floats scanned = data.stateOut;
    ops.scan(data.args(true));  // all six, with taps
    args.output = nullptr;      // and the first four again, state only
    ops.scan(args);
    QVERIFY(data.stateOut == scanned);
  }

  void tapsReduceOverRealChannelsOnly_data() {
    matmul_data();
  }
  void tapsReduceOverRealChannelsOnly() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(11);
    ScanData data(21, 8, 3, random);
    ops.scan(data.args(true));
    Floats groups(3 * 2 * 3);
    ops.reduceTaps({.delta = data.delta.data(),
                    .stateSquared = data.squared.data(),
                    .meanDecay = data.decay.data(),
                    .stride = data.stride,
                    .channels = 21,
                    .output = groups.data(),
                    .groups = 2,
                    .channelEnd = 32,
                    .count = 3});
    for (std::size_t t = 0; t < 3; ++t) {
      for (std::size_t group = 0; group < 2; ++group) {
        scalar::Values expected(3);
        for (std::size_t c = group * 16; c < std::min<std::size_t>(21, group * 16 + 16); ++c) {
          const std::size_t i = t * data.stride + c;
          expected[0] += data.delta[i];
          expected[1] += std::sqrt(data.squared[i]);
          expected[2] += data.decay[i];
        }
        for (std::size_t kind = 0; kind < 3; ++kind)
          QVERIFY(std::abs(groups[(t * 2 + group) * 3 + kind] - expected[kind]) <
                  1e-5 * std::abs(expected[kind]));
      }
    }
  }

  void softplus_data() {
    matmul_data();
  }
  void softplus() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Floats x(160);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) - 80;
    Floats y = x;
    ops.softplus(y.data(), y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = scalar::softplus(x[i]);
      // exp(x) is 2^(x log2 e): rounding that product costs |x| half units in the last place.
      const double tolerance = kFunctionTolerance + std::abs(static_cast<double>(x[i])) * 0x1p-23;
      QVERIFY2(std::abs(y[i] - expected) <= tolerance * expected,
               qPrintable(QString("softplus(%1) = %2").arg(x[i]).arg(y[i])));
    }
  }

  void arrivals_data() {
    matmul_data();
  }
  void arrivals() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    constexpr std::size_t kCount = 20000;
    std::vector<float> times(kCount + 1, -1.0f);
    ops.arrivals(0x123456789abcdef, kCount, times.data());
    QCOMPARE(times[kCount], -1.0f);
    // -log of what is left of (0, 1): as often below -log(1 - p) as p says, at both ends too.
    for (const double p : {0.002, 0.1, 0.5, 0.9, 0.998}) {
      const auto below = std::ranges::count_if(
          times, [&](float time) { return time >= 0 && time < -std::log1p(-p); });
      const double deviation = std::sqrt(kCount * p * (1 - p));
      QVERIFY2(std::abs(static_cast<double>(below) - kCount * p) < 4 * deviation,
               qPrintable(QString("%1 below quantile %2").arg(below).arg(p)));
    }
    QVERIFY(std::ranges::all_of(times.begin(), times.end() - 1, [](float t) { return t > 0; }));
    // The same whatever the number and the instruction set; another key, other numbers.
    std::vector<float> few(5), other(5), reference(5);
    ops.arrivals(0x123456789abcdef, 5, few.data());
    ops.arrivals(0x123456789abcdee, 5, other.data());
    fastestOps().arrivals(0x123456789abcdef, 5, reference.data());
    for (std::size_t i = 0; i < few.size(); ++i) {
      QCOMPARE(few[i], times[i]);
      QVERIFY(std::abs(few[i] - reference[i]) <= 1e-6f * reference[i]);
      QVERIFY(other[i] != few[i]);
    }
  }

  void exponentialsAndArgmax_data() {
    matmul_data();
  }
  void exponentialsAndArgmax() {
    const Ops& ops = *levelOf(fetchLevel()).ops;
    Random random(12);
    for (const std::size_t size : {1u, 5u, 16u, 256u, 1003u}) {
      Floats x(size);
      random.fill(x, -20, 20);
      Floats weights(size + 1);
      weights[size] = -1;
      const float total = ops.exponentials(x.data(), size, 19.0f, 1.25f, weights.data());
      double sum = 0;
      std::size_t best = 0;
      for (std::size_t i = 0; i < size; ++i) {
        const double power = (static_cast<double>(x[i]) - 19) * 1.25;
        const double expected = std::exp(power);
        QVERIFY(std::abs(weights[i] - expected) < (1e-6 + 2e-7 * std::abs(power)) * expected);
        sum += expected;
        if (x[i] > x[best]) best = i;
      }
      QVERIFY(std::abs(total - sum) < 1e-5 * sum);
      QCOMPARE(weights[size], -1.0f);
      QCOMPARE(ops.argmax(x.data(), size), best);
    }
    Floats ties(40);
    ties[7] = ties[23] = 1;
    QCOMPARE(ops.argmax(ties.data(), 40), std::size_t{7});
    const float far = -1e6f;
    float least = -1;
    ops.exponentials(&far, 1, 0, 1, &least);
    QVERIFY(least >= 0 && least < 1e-37f);
  }

 private:
  static QString fetchLevel() {
    QFETCH(QString, level);
    return level;
  }
  static SimdLevel levelOf(const QString& name) {
    for (const SimdLevel& level : availableSimdLevels())
      if (name == QString::fromUtf8(level.name.data())) return level;
    qFatal("unknown level");
  }
  static void checkProduct(const SimdLevel& level, const Product& product, std::size_t count,
                           Random& random) {
    const bool roundsInputs = level.name == "amx" && product.matrix.type() == WeightType::BFloat16;
    const std::size_t rows = product.matrix.rows();
    const std::size_t columns = product.matrix.columns();
    const std::size_t stride = product.matrix.paddedColumns() + 2;
    const std::size_t outStride = 16 * product.matrix.blocks();
    const Floats x = randomInputs(count, columns, stride, random);
    Floats y(count * outStride);
    level.ops->matmul({.weights = &product.matrix,
                       .blockEnd = product.matrix.blocks(),
                       .input = x.data(),
                       .inputStride = stride,
                       .output = y.data(),
                       .outputStride = outStride,
                       .count = count});
    for (std::size_t i = 0; i < count; ++i) {
      scalar::Values input(&x[i * stride], &x[i * stride] + columns);
      if (roundsInputs)
        for (double& v : input) v = bfloat16ToFloat(floatToBfloat16(static_cast<float>(v)));
      const scalar::Values expected = scalar::product(product.weights, rows, input);
      double scale = 0;
      for (const double v : input) scale += std::abs(v);
      for (std::size_t r = 0; r < rows; ++r)
        QVERIFY(std::abs(y[i * outStride + r] - expected[r]) <= sumTolerance(columns) * scale);
    }
  }
};

QTEST_GUILESS_MAIN(CpuKernelsTest)
#include "test_cpu_kernels.moc"
