// The selective scan of long texts against a scalar twin, with and without taps. Skipped without a
// device.
#include <QTest>
#include <algorithm>
#include <cmath>

#include "kernels/cuda/devices.h"
#include "kernels/cuda/prefill_scan.h"
#include "kernels/cuda/taps.h"
#include "tests/support/random_values.h"

using namespace mb;
using namespace mb::test;

namespace {

constexpr double kTolerance = 2e-5;
constexpr std::uint32_t kConvolved = 4;  ///< taps of the convolution, which the scan steps over

double softplus(double x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

cuda::DeviceArray<float> onDevice(const std::vector<float>& values) {
  cuda::DeviceArray<float> array(values.size());
  array.upload(values.data(), values.size());
  return array;
}

std::vector<float> onHost(const cuda::DeviceArray<float>& array) {
  std::vector<float> values(array.size());
  cuda::check(cudaMemcpy(values.data(), array.data(), array.bytes(), cudaMemcpyDeviceToHost),
              "cudaMemcpy");
  return values;
}

/// A stretch of text as it comes to the scan, and what the scan should make of it.
struct Text {
  Text(std::uint32_t stateCount, std::uint32_t channelCount, std::uint32_t tokenCount)
      : states(stateCount),
        channels(channelCount),
        tokens(tokenCount),
        inner((channelCount + 15) / 16 * 16) {
    Random random(states + channels + tokens);
    parameters = random.floats((cuda::kConvWeights + kConvolved + states) * inner, -1, 1);
    for (std::size_t i = (cuda::kConvWeights + kConvolved) * inner; i < parameters.size(); ++i)
      parameters[i] = -8 * std::abs(parameters[i]);  // rates
    selected = random.floats(std::size_t{tokens} * stride(), -1, 1);
    for (std::size_t i = 0; i < selected.size(); ++i) {  // zeros behind the last state
      const std::size_t column = i % stride();
      if (column >= 16 && (column - 16) % paddedStates() >= states) selected[i] = 0;
    }
    // A row behind the last, which must stay as it is.
    expanded = random.floats((std::size_t{tokens} + 1) * 2 * inner, -3, 2);
    convolved = random.floats((std::size_t{tokens} + 1) * inner, -1, 1);
    state = random.floats(std::size_t{states} * inner, -1, 1);
    scan();
  }

  std::uint32_t paddedStates() const { return (states + 15) / 16 * 16; }
  std::uint32_t stride() const { return 16 + 2 * paddedStates(); }

  void scan() {
    gated = convolved;
    stateAfter = state;
    for (auto& sum : sums) sum.assign(std::size_t{tokens} * inner / cuda::kSummedChannels, 0);
    for (std::uint32_t channel = 0; channel < inner; ++channel)
      for (std::uint32_t token = 0; token < tokens; ++token) step(channel, token);
  }

  void step(std::uint32_t channel, std::uint32_t token) {
    const auto field = [&](std::uint32_t f) { return double(parameters[f * inner + channel]); };
    const double input = convolved[std::size_t{token} * inner + channel];
    const float* row = &expanded[std::size_t{token} * 2 * inner + channel];
    const double delta = softplus(double(row[0]) + field(cuda::kDtBias));
    const double gate = double(row[inner]) + field(cuda::kInBiasZ);
    double y = field(cuda::kSkip) * input;
    double squares = 0;
    double decays = 0;
    for (std::uint32_t n = 0; n < states; ++n) {
      float& s = stateAfter[std::size_t{channel / 16} * 16 * states + n * 16 + channel % 16];
      const float* bc = &selected[std::size_t{token} * stride() + 16 + n];
      const double decay = std::exp2(delta * field(cuda::kConvWeights + kConvolved + n));
      s = float(decay * double(s) + delta * input * double(bc[0]));
      y += double(s) * double(bc[paddedStates()]);
      squares += double(s) * double(s);
      decays += decay;
    }
    gated[std::size_t{token} * inner + channel] = float(y * gate / (1 + std::exp(-gate)));
    if (channel >= channels) return;
    const std::size_t at = (std::size_t{token} * inner + channel) / cuda::kSummedChannels;
    const double kinds[] = {delta, std::sqrt(squares), decays / states};
    for (std::size_t kind = 0; kind < 3; ++kind) sums[kind][at] += float(kinds[kind]);
  }

  std::uint32_t states, channels, tokens, inner;
  std::vector<float> parameters, selected, expanded, convolved, state;
  std::vector<float> gated, stateAfter;  ///< expected
  std::vector<float> sums[3];            ///< [tokens][inner / 8] of Δ, ‖s‖, mean Ā, expected
};

/// What the device makes of a text.
struct Scanned {
  Scanned(const cuda::TextScan& scan, const Text& text, bool taps) {
    const auto parameters = onDevice(text.parameters);
    const auto selected = onDevice(text.selected);
    auto deviceExpanded = onDevice(text.expanded);
    auto deviceConvolved = onDevice(text.convolved);
    auto deviceState = onDevice(text.state);
    const cuda::Stream stream;
    scan.run<float>({.channels = parameters.data(),
                     .selected = selected.data(),
                     .expanded = deviceExpanded.data(),
                     .convolved = deviceConvolved.data(),
                     .stateIn = deviceState.data(),
                     .stateOut = deviceState.data(),
                     .selectedStride = text.stride(),
                     .bOffset = 16,
                     .cOffset = 16 + text.paddedStates(),
                     .inner = text.inner,
                     .states = text.states,
                     .taps = kConvolved,
                     .tokens = text.tokens,
                     .tapped = taps ? text.channels : 0u},
                    stream);
    stream.wait();
    expanded = onHost(deviceExpanded);
    convolved = onHost(deviceConvolved);
    state = onHost(deviceState);
  }

  std::vector<float> expanded, convolved, state;
};

}  // namespace

class CudaScanTest : public QObject {
  Q_OBJECT

 private Q_SLOTS:
  void initTestCase() {
    const cuda::DeviceList list = cuda::listDevices();
    if (list.devices.empty()) QSKIP(list.problem.c_str());
  }

  void leavesTapsAndNothingElse_data() {
    QTest::addColumn<uint>("states");
    QTest::addColumn<uint>("channels");
    QTest::addColumn<uint>("sharedKilobytes");
    // Few, some and many channels a block, with whole tiles and with shorter ones.
    for (const uint channels : {24u, 1000u, 2000u, 3590u})
      for (const uint kilobytes : {227u, 150u, 99u, 60u})
        QTest::addRow("%u channels, %u KB", channels, kilobytes) << 16u << channels << kilobytes;
    QTest::newRow("one state") << 1u << 40u << 227u;
    QTest::newRow("five states, short tiles") << 5u << 40u << 60u;
    QTest::newRow("33 states") << 33u << 40u << 227u;
    QTest::newRow("64 states") << 64u << 300u << 227u;
  }
  void leavesTapsAndNothingElse() {
    QFETCH(uint, states);
    QFETCH(uint, channels);
    QFETCH(uint, sharedKilobytes);
    for (const std::uint32_t tokens : {1u, 15u, 32u, 33u, 150u}) {
      const Text text(states, channels, tokens);
      const cuda::TextScan scan({.inner = channels, .states = states, .planes = 3}, text.inner,
                                sharedKilobytes << 10);
      QVERIFY(scan.canTap());
      const Scanned plain(scan, text, false);
      const Scanned tapped(scan, text, true);
      const auto verify = [&](const char* what, const auto& got, const auto& expected) {
        const double error = relativeError(got, expected);
        if (error < kTolerance) return true;
        qWarning("%u tokens: %s off by %g", tokens, what, error);
        return false;
      };
      QVERIFY(plain.expanded == text.expanded);
      QVERIFY(verify("outputs", plain.convolved, text.gated));
      QVERIFY(verify("states", plain.state, text.stateAfter));
      QVERIFY(verify("outputs with taps", tapped.convolved, text.gated));
      QVERIFY(plain.convolved == tapped.convolved);
      QVERIFY(plain.state == tapped.state);

      std::vector<float> rest = tapped.expanded;
      std::vector<float> sums[3];
      for (std::size_t row = 0; row < tokens; ++row) {
        for (std::size_t i = 0; i < text.inner; i += cuda::kSummedChannels) {
          const std::size_t at = row * 2 * text.inner + i;
          for (std::size_t kind = 0; kind < 3; ++kind) sums[kind].push_back(rest[at + kind]);
          for (std::size_t place = at; place < at + 4; ++place) rest[place] = text.expanded[place];
        }
      }
      QVERIFY(rest == text.expanded);
      QVERIFY(verify("Δ", sums[0], text.sums[0]));
      QVERIFY(verify("‖s‖", sums[1], text.sums[1]));
      QVERIFY(verify("Ā", sums[2], text.sums[2]));
    }
  }

  void saysWhenTapsDoNotFit() {
    const cuda::TextScan scan({.inner = 40, .states = 64, .planes = 3}, 48, 64 << 10);
    QVERIFY(!scan.canTap());
  }
};

QTEST_GUILESS_MAIN(CudaScanTest)
#include "test_cuda_scan.moc"
