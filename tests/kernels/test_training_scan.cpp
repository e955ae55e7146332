// The training scan and its functions against their definitions in double, at every instruction set
// of this processor.
#include <QtTest>
#include <cmath>
#include <hwy/highway.h>
#include <vector>

#include "kernels/cpu/training_scan.h"
#include "tests/support/random_values.h"

using namespace mb::cpu;
using mb::test::Random;
using mb::test::relativeError;

namespace {

constexpr std::size_t kTokens = 7;
constexpr std::size_t kStates = 5;
constexpr std::size_t kStep = kStates * kTileChannels;  ///< from a token's states to the next one's

using Values = std::vector<double>;

Values randomValues(std::size_t count, float low, float high, Random& random) {
  Values values(count);
  for (double& value : values) value = double(random.uniform(low, high));
  return values;
}

/// What a scan takes, and what it gives by the definitions.
struct Scan {
  Scan() {
    Random random(4);
    delta = randomValues(kTokens * kTileChannels, 0.01f, 1, random);
    input = randomValues(kTokens * kTileChannels, -1, 1, random);
    b = randomValues(kTokens * kStates, -1, 1, random);
    c = randomValues(kTokens * kStates, -1, 1, random);
    rates = randomValues(kStep, -3, -0.1f, random);
    first = randomValues(kStep, -1, 1, random);
    dy = randomValues(kTokens * kTileChannels, -1, 1, random);
    dLast = randomValues(kStep, -1, 1, random);
    for (std::size_t channel = 0; channel < kTileChannels; ++channel)
      for (std::size_t n = 0; n < kStates; ++n) follow(channel, n);
  }

  /// One state of one channel, forward and backward.
  void follow(std::size_t channel, std::size_t n) {
    const std::size_t own = n * kTileChannels + channel;
    const double rate = rates[own];
    states[own] = first[own];
    for (std::size_t t = 0; t < kTokens; ++t) {
      const std::size_t at = t * kTileChannels + channel;
      decays[t * kStep + own] = std::exp(delta[at] * rate);
      states[(t + 1) * kStep + own] = decays[t * kStep + own] * states[t * kStep + own] +
                                      delta[at] * input[at] * b[t * kStates + n];
      y[at] += c[t * kStates + n] * states[(t + 1) * kStep + own];
    }
    double ds = dLast[own];
    for (std::size_t t = kTokens; t-- > 0;) {
      const std::size_t at = t * kTileChannels + channel;
      const double decay = decays[t * kStep + own];
      const double before = states[t * kStep + own];
      ds += c[t * kStates + n] * dy[at];
      dc[t * kStep + own] = dy[at] * states[(t + 1) * kStep + own];
      db[t * kStep + own] = ds * delta[at] * input[at];
      dDelta[at] += ds * (rate * decay * before + input[at] * b[t * kStates + n]);
      dInput[at] += ds * delta[at] * b[t * kStates + n];
      dRates[own] += ds * before * decay * delta[at] * rate;  // A = -exp(A_log)
      ds *= decay;
    }
    dFirst[own] = ds;
  }

  Values delta, input, b, c, rates, first, dy, dLast;
  Values states = Values((kTokens + 1) * kStep);
  Values decays = Values(kTokens * kStep);
  Values y = Values(kTokens * kTileChannels);
  Values db = Values(kTokens * kStep);
  Values dc = Values(kTokens * kStep);
  Values dDelta = Values(kTokens * kTileChannels);
  Values dInput = Values(kTokens * kTileChannels);
  Values dRates = Values(kStep);
  Values dFirst = Values(kStep);
};

/// Chooses an instruction set for as long as it lives.
struct OnlyTarget {
  explicit OnlyTarget(std::int64_t target) { choose(target); }
  ~OnlyTarget() { choose(0); }
  OnlyTarget(const OnlyTarget&) = delete;
  OnlyTarget& operator=(const OnlyTarget&) = delete;

 private:
  static void choose(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

/// The library may have been compiled for fewer of them; the next best then runs.
void addTargets() {
  QTest::addColumn<qint64>("target");
  for (std::int64_t left = hwy::SupportedTargets(); left != 0; left &= left - 1)
    QTest::newRow(hwy::TargetName(left & -left)) << qint64(left & -left);
}

template <class Real>
std::vector<Real> as(const Values& values) {
  return {values.begin(), values.end()};
}

template <class Real>
void compare(const char* what, const std::vector<Real>& found, const Values& expected) {
  const double error = relativeError(std::span(found), std::span(expected));
  const double tolerance = sizeof(Real) == 4 ? 4e-6 : 1e-14;
  QVERIFY2(error < tolerance, qPrintable(QString("%1: %2").arg(what).arg(error)));
}

template <class Real>
void checkScan(const Scan& scan) {
  const TrainingOps<Real>& ops = trainingOps<Real>();
  const auto delta = as<Real>(scan.delta);
  const auto input = as<Real>(scan.input);
  const auto rates = as<Real>(scan.rates);
  std::vector<Real> rows;  // B and C of a token lie side by side
  for (std::size_t t = 0; t < kTokens; ++t)
    for (const Values* values : {&scan.b, &scan.c})
      for (std::size_t n = 0; n < kStates; ++n) rows.push_back(Real((*values)[t * kStates + n]));
  const ScanTile<Real> tile{.tokens = kTokens,
                            .states = kStates,
                            .delta = delta.data(),
                            .input = input.data(),
                            .b = rows.data(),
                            .c = rows.data() + kStates,
                            .bcStride = 2 * kStates,
                            .rates = rates.data()};
  auto state = as<Real>(scan.first);
  std::vector<Real> y(scan.y.size());
  ops.scanForward(tile, state.data(), y.data());
  compare("y", y, scan.y);
  compare("last state", state, {scan.states.end() - kStep, scan.states.end()});
  auto states = as<Real>(scan.first);
  states.resize(scan.states.size());
  std::vector<Real> decays(scan.decays.size());
  ops.scanAgain(tile, states.data(), decays.data());
  compare("states", states, scan.states);
  compare("decays", decays, scan.decays);
  auto ds = as<Real>(scan.dLast);
  std::vector<Real> db(scan.db.size(), 1);  // added to
  std::vector<Real> dc(scan.dc.size(), 2);
  std::vector<Real> dRates(scan.dRates.size(), 3);
  std::vector<Real> dDelta(scan.dDelta.size());
  std::vector<Real> dInput(scan.dInput.size());
  ops.scanBackward(tile, states.data(), decays.data(), as<Real>(scan.dy).data(),
                   {ds.data(), db.data(), dc.data(), dRates.data(), dDelta.data(), dInput.data()});
  for (Real& value : db) value -= 1;
  for (Real& value : dc) value -= 2;
  for (Real& value : dRates) value -= 3;
  compare("by the first state", ds, scan.dFirst);
  compare("by B", db, scan.db);
  compare("by C", dc, scan.dc);
  compare("by A_log", dRates, scan.dRates);
  compare("by delta", dDelta, scan.dDelta);
  compare("by the input", dInput, scan.dInput);
}

template <class Real>
void checkFunctions() {
  const TrainingOps<Real>& ops = trainingOps<Real>();
  std::vector<Real> x;
  for (int i = -600; i <= 600; ++i) x.push_back(Real(i) / 7);  // not a multiple of any vector
  std::vector<Real> y(x.size());
  const auto agrees = [&](const char* what, auto function) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = function(double(x[i]));
      const double tolerance = (sizeof(Real) == 4 ? 1e-6 : 1e-14) * std::abs(expected) + 1e-34;
      QVERIFY2(std::abs(double(y[i]) - expected) <= tolerance,
               qPrintable(QString("%1(%2) = %3").arg(what).arg(double(x[i])).arg(double(y[i]))));
    }
  };
  ops.sigmoid(x.data(), x.size(), y.data());
  agrees("sigmoid", [](double v) { return 1 / (1 + std::exp(std::min(-v, 80.0))); });
  ops.softplus(x.data(), x.size(), y.data());
  agrees("softplus",
         [](double v) { return std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v))); });
  for (Real& value : x) value = std::abs(value) / 1000;
  y = x;
  ops.oneMinusExp(y.data(), y.size(), y.data());  // in place
  agrees("1 - exp(-)", [](double v) { return -std::expm1(-v); });
}

}  // namespace

class TrainingScanTest : public QObject {
  Q_OBJECT
 private slots:
  void isTheScanOfItsDefinition_data() { addTargets(); }
  void isTheScanOfItsDefinition() {
    QFETCH(qint64, target);
    const OnlyTarget chosen(target);
    const Scan scan;
    checkScan<float>(scan);
    checkScan<double>(scan);
  }

  void functionsAreThoseOfTheLibrary_data() { addTargets(); }
  void functionsAreThoseOfTheLibrary() {
    QFETCH(qint64, target);
    const OnlyTarget chosen(target);
    checkFunctions<float>();
    checkFunctions<double>();
  }
};

QTEST_GUILESS_MAIN(TrainingScanTest)
#include "test_training_scan.moc"
