// The CUDA device against the golden vectors, the CPU and itself. Skipped without a device.
#include <QTest>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "engine/decoding/sampler.h"
#include "engine/evaluation/evaluation.h"
#include "engine/evaluation/recipe_accuracy.h"
#include "engine/model/devices.h"
#include "engine/model/mix.h"
#include "engine/session/session.h"
#include "tests/support/paired_model.h"
#include "tests/support/random_state.h"
#include "tests/support/random_values.h"
#include "tests/support/recorded_run.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;

namespace {

constexpr double kTolerance = 1e-4;

ModelLoader loader(DeviceKind kind, WeightPrecision precision = WeightPrecision::BFloat16) {
  return ModelLoader({.kind = kind, .precision = precision});
}

std::vector<float> copyOf(std::span<const float> values) {
  return {values.begin(), values.end()};
}

/// Logits after each token, read in chunks of at most `most`.
std::vector<std::vector<float>> readAll(const Model& model, TokenView tokens, State& state,
                                        std::size_t most) {
  const auto runner = model.newRunner();
  std::vector<std::vector<float>> logits;
  while (!tokens.empty()) {
    const TokenView chunk = tokens.first(std::min({tokens.size(), most, runner->maxChunk()}));
    State next = model.newState();
    runner->advance(state, next, chunk, {});
    for (std::size_t i = 0; i < chunk.size(); ++i) logits.push_back(copyOf(runner->logits(i)));
    state = std::move(next);
    tokens = tokens.subspan(chunk.size());
  }
  return logits;
}

Bytes excerpt(std::size_t offset, std::size_t size) {
  const std::string text = readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
  return toBytes(std::string_view(text).substr(offset, size));
}

/// A drafter without the pair that it could make.
class Unpaired : public Drafter {
 public:
  explicit Unpaired(std::shared_ptr<Drafter> drafter) : m_drafter(std::move(drafter)) {}
  std::string name() const override { return m_drafter->name(); }
  void configure(const DraftSettings& settings) override { m_drafter->configure(settings); }
  void reset(ByteView text, std::stop_token stop) override { m_drafter->reset(text, stop); }
  Draft propose(std::size_t tokens, std::size_t maxBytes, std::stop_token stop) override {
    return m_drafter->propose(tokens, maxBytes, stop);
  }
  void append(ByteView bytes) override { m_drafter->append(bytes); }

 private:
  std::shared_ptr<Drafter> m_drafter;
};

constexpr std::size_t kLongestDraft = 31;

QString show(ByteView bytes) {
  return QString::fromStdString(std::string(toText(bytes)));
}

QString show(TokenView tokens) {
  QStringList list;
  for (const Token token : tokens) list << QString::number(token);
  return list.join(' ');
}

std::shared_ptr<const TokenTree> treeOf(const SubwordDrafter& drafter) {
  return std::make_shared<const TokenTree>(
      std::shared_ptr<const Tokenizer>(&drafter.tokenizer(), [](const Tokenizer*) {}));
}

/// Of so many tokens, or bytes.
Drawing someDrawing(Random& random, std::size_t count) {
  Drawing drawing;
  drawing.temperature = random.uniform(0.3f, 1.5f);
  if (random.below(3) == 0) drawing.topK = 1 + random.below(20);
  if (random.below(3) == 0) drawing.topP = random.uniform(0.5f, 1);
  if (random.below(3) == 0) drawing.minP = random.uniform(0, 0.2f);
  for (std::size_t i = 0; i < count; ++i) drawing.keys.push_back(mix(random.below(1u << 30), i));
  return drawing;
}

/// What a pair may be given to do.
struct PairWork {
  std::vector<Token> known;
  std::size_t draws = 0;
  std::size_t tokens = 0;
  Bytes agree;
  Bytes head;
  std::size_t most = 0;
  Judgement judgement;
  Drawing drawing;
  double leastConfidence = 0;
  double confidence = 1;

  static PairWork some(Random& random, std::size_t trial, const Tokenizer& tokenizer) {
    const std::size_t vocabulary = tokenizer.vocabularySize();
    PairWork work;
    work.known = random.tokens(1 + random.below(4), vocabulary);
    work.draws = 1 + random.below(9);
    if (trial % 4 > 1) {
      const ByteView bytes = tokenizer.bytes(Token(random.below(vocabulary)));
      work.agree.assign(bytes.begin(), bytes.end());
      if (trial % 16 < 4) work.agree.push_back(Byte(random.below(256)));
      if (trial % 16 > 12 && work.agree.size() > 1) work.agree.pop_back();
    }
    work.tokens = work.agree.empty() ? work.draws : std::max<std::size_t>(work.draws - 1, 1);
    work.head = random.bytes(random.below(5));
    work.most = std::min(1 + work.head.size() + random.below(30), kLongestDraft);
    if (trial % 3) work.judgement.beta = trial % 3 == 1 ? 3 : 60;
    work.judgement.drawing.keys.resize(work.most);
    if (trial % 2) work.drawing = someDrawing(random, DraftPass::kMostKeys);
    if (trial % 8 > 4) work.leastConfidence = random.uniform(0.05f, 0.6f);
    if (trial % 8 > 5) work.confidence = random.uniform(0.5f, 1);
    if (trial % 4 == 3) work.judgement.drawing = someDrawing(random, work.most);
    return work;
  }
};

/// In what a round differs from another, or nothing. The last token of a draft that is as long as
/// can be may be another one with the same bytes up to there.
QString difference(const RoundRecord& a, const RoundRecord& b) {
  QStringList ids[2];
  for (const DraftToken& token : a.tokens)
    ids[0] << QString("%1:%2-%3").arg(token.id).arg(token.begin).arg(token.end);
  for (const DraftToken& token : b.tokens)
    ids[1] << QString("%1:%2-%3").arg(token.id).arg(token.begin).arg(token.end);
  if (a.position != b.position) return QString("at %1, not %2").arg(a.position).arg(b.position);
  const auto count = qsizetype(a.tokens.size()) - (a.draft.size() < kLongestDraft ? 0 : 1);
  if (a.draft != b.draft || ids[0].mid(0, count) != ids[1].mid(0, count))
    return QString("draft \"%1\" (%2), not \"%3\" (%4)")
        .arg(show(a.draft), ids[0].join(' '), show(b.draft), ids[1].join(' '));
  if (a.accepted != b.accepted || a.corrected != b.corrected || a.bonus != b.bonus)
    return QString("accepted %1, not %2").arg(a.accepted).arg(b.accepted);
  return {};
}

void addSamplers() {
  QTest::addColumn<double>("temperature");
  QTest::addColumn<int>("topK");
  QTest::addColumn<double>("topP");
  QTest::addColumn<double>("minP");
  QTest::newRow("greedy") << 0.0 << 0 << 1.0 << 0.0;
  QTest::newRow("temperature") << 1.3 << 0 << 1.0 << 0.0;
  QTest::newRow("top-k") << 0.8 << 40 << 1.0 << 0.0;
  QTest::newRow("top-1") << 0.8 << 1 << 1.0 << 0.0;
  QTest::newRow("top-p") << 1.0 << 0 << 0.9 << 0.0;
  QTest::newRow("min-p") << 2.0 << 0 << 1.0 << 0.05;
  QTest::newRow("all") << 1.5 << 100 << 0.95 << 0.01;
}

void addGoldens() {
  QTest::addColumn<QString>("golden");
  for (const std::string& name : goldenNames())
    QTest::newRow(name.c_str()) << QString::fromStdString(name);
}

void addLongReads() {
  QTest::addColumn<QString>("golden");
  QTest::addColumn<bool>("rounded");
  std::vector<std::string> names = goldenNames();
  names.emplace_back("books");
  for (const std::string& name : names) {
    for (const bool rounded : {false, true})
      QTest::addRow("%s, %s", name.c_str(), rounded ? "bf16" : "f32")
          << QString::fromStdString(name) << rounded;
  }
}

/// All values of one kind, token by token.
std::vector<float> valuesOf(const TapBlock& taps, std::size_t kind, const std::vector<float>& from,
                            std::size_t width, std::size_t first, std::size_t count) {
  std::vector<float> values;
  for (std::size_t i = first; i < std::min(first + count, taps.count); ++i) {
    const auto row = from.begin() + std::ptrdiff_t((i * kTapKinds + kind) * width);
    values.insert(values.end(), row, row + std::ptrdiff_t(width));
  }
  return values;
}

/// What is wrong with taps, kind by kind: off by more than the tolerance, or by `most` at a token.
QString differenceOf(const TapBlock& got, const TapBlock& expected, double tolerance, double most) {
  if (got.count != expected.count || got.layers != expected.layers || got.bins != expected.bins ||
      got.layer != expected.layer || got.byLayer.size() != expected.byLayer.size() ||
      got.byChannel.size() != expected.byChannel.size()) {
    return QString("%1 tokens, %2 layers, %3 bins of %4, but expected %5, %6, %7 of %8")
        .arg(got.count)
        .arg(got.layers)
        .arg(got.bins)
        .arg(got.layer)
        .arg(expected.count)
        .arg(expected.layers)
        .arg(expected.bins)
        .arg(expected.layer);
  }
  QStringList problems;
  const auto compare = [&](const char* what, auto member, std::size_t width) {
    for (std::size_t kind = 0; kind < kTapKinds; ++kind) {
      const auto errorOf = [&](std::size_t first, std::size_t count) {
        return relativeError(valuesOf(got, kind, got.*member, width, first, count),
                             valuesOf(expected, kind, expected.*member, width, first, count));
      };
      const double error = errorOf(0, got.count);
      double worst = 0;
      std::size_t at = 0;
      for (std::size_t i = 0; i < got.count; ++i) {
        const double one = errorOf(i, 1);
        if (one <= worst) continue;
        worst = one;
        at = i;
      }
      if (error < tolerance && worst < most) continue;
      problems << QString("%1 %2 are off by %3, worst by %4 at token %5")
                      .arg(what, kind == 0   ? "Δ"
                                 : kind == 1 ? "‖s‖"
                                             : "Ā")
                      .arg(error)
                      .arg(worst)
                      .arg(at);
    }
  };
  compare("means of layers:", &TapBlock::byLayer, got.layers);
  compare("means of bins:", &TapBlock::byChannel, got.bins);
  return problems.join("; ");
}

/// Taps of all tokens, read in the longest passes that give them; `state` ends up behind them.
TapBlock tapsAlong(Runner& runner, State& state, TokenView tokens, const TapRequest& wanted) {
  TapBlock all;
  while (!tokens.empty()) {
    const TokenView pass = tokens.first(std::min(tokens.size(), runner.maxTappedRead()));
    runner.advance(state, state, pass, {LogitsWanted::None, wanted, {}});
    const TapBlock& taps = runner.taps();
    all.layers = taps.layers;
    all.layer = taps.layer;
    all.bins = taps.bins;
    all.count += taps.count;
    all.byLayer.insert(all.byLayer.end(), taps.byLayer.begin(), taps.byLayer.end());
    all.byChannel.insert(all.byChannel.end(), taps.byChannel.begin(), taps.byChannel.end());
    tokens = tokens.subspan(pass.size());
  }
  return all;
}

}  // namespace

class CudaTest : public QObject {
  Q_OBJECT

 private slots:
  void initTestCase() {
    const DeviceChoice choice = chooseDevice();
    if (!choice.hasCuda()) QSKIP(choice.reason.c_str());
    ModelLoader cuda = loader(DeviceKind::Cuda);
    m_verifier = cuda.open(bundledFolder("books"));
    m_drafter = openDrafter(cuda, bundledFolder("books-draft"), {});
  }

  void reproducesTheReference_data() { addGoldens(); }
  void reproducesTheReference() {
    QFETCH(QString, golden);
    const Golden expected = loadGolden(golden.toStdString());
    const auto model =
        loader(DeviceKind::Cuda, WeightPrecision::Float32).open(goldenFolder(golden.toStdString()));
    const ModelConfig& c = model->config();
    State state = model->newState();
    const auto logits = readAll(*model, expected.inputs, state, 32);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const auto row = std::span(expected.logits).subspan(i * c.vocabSize, c.vocabSize);
      const double error = relativeError(logits[i], row);
      QVERIFY2(error < kTolerance, qPrintable(QString("logits %1: %2").arg(i).arg(error)));
    }
    for (std::size_t layer = 0; layer < c.layers; ++layer) {
      std::vector<float> hidden;
      for (std::size_t i = 0; i < c.dInner * c.dState; ++i)
        hidden.push_back(state.hiddenValue(layer, i / c.dState, i % c.dState));
      const double error = relativeError(hidden, expected.hidden[layer]);
      QVERIFY2(error < kTolerance, qPrintable(QString("state of %1: %2").arg(layer).arg(error)));
    }
    std::vector<Token> written{argmax(logits.back())};
    while (written.size() < 48)
      written.push_back(argmax(readAll(*model, {&written.back(), 1}, state, 1).front()));
    QCOMPARE(written, expected.greedy48);
  }

  void roundedWeightsAgreeWithTheCpu_data() { addGoldens(); }
  void roundedWeightsAgreeWithTheCpu() {
    QFETCH(QString, golden);
    const auto folder = goldenFolder(golden.toStdString());
    const auto cuda = loader(DeviceKind::Cuda).open(folder);
    const auto cpu = loader(DeviceKind::Cpu).open(folder);
    const auto tokens = loadGolden(golden.toStdString()).inputs;
    State onCuda = cuda->newState();
    State onCpu = cpu->newState();
    const auto got = readAll(*cuda, tokens, onCuda, 32);
    const auto expected = readAll(*cpu, tokens, onCpu, 32);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double error = relativeError(got[i], expected[i]);
      QVERIFY2(error < 1e-1, qPrintable(QString("logits %1: %2").arg(i).arg(error)));
    }
  }

  void bundledModelsAgreeWithTheCpu_data() {
    QTest::addColumn<QString>("name");
    QTest::addColumn<double>("tolerance");
    QTest::newRow("verifier") << "books" << 1e-2;
    QTest::newRow("drafter") << "books-draft" << 6e-2;  // the text's bytes are strange tokens to it
  }
  void bundledModelsAgreeWithTheCpu() {
    QFETCH(QString, name);
    QFETCH(double, tolerance);
    const auto folder = bundledFolder(name.toStdString());
    const auto cuda = loader(DeviceKind::Cuda).open(folder);
    const auto cpu = loader(DeviceKind::Cpu).open(folder);
    const Bytes text = excerpt(0, 500);
    const std::vector<Token> tokens(text.begin(), text.end());
    State onCuda = cuda->newState();
    State onCpu = cpu->newState();
    const auto got = readAll(*cuda, tokens, onCuda, 32);
    const auto expected = readAll(*cpu, tokens, onCpu, 32);
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, relativeError(got[i], expected[i]));
    QVERIFY2(worst < tolerance, qPrintable(QString("logits: %1").arg(worst)));
  }

  void drawsWhatTheSamplerDraws_data() { addSamplers(); }
  void drawsWhatTheSamplerDraws() {
    QFETCH(double, temperature);
    QFETCH(int, topK);
    QFETCH(double, topP);
    QFETCH(double, minP);
    constexpr std::size_t kDrawn = 15;
    constexpr std::uint64_t kSeed = 5;
    Sampler sampler({.temperature = temperature,
                     .topK = std::size_t(topK),
                     .topP = topP,
                     .minP = minP,
                     .seed = kSeed});
    const auto runner = m_verifier->newRunner();
    const auto single = m_verifier->newRunner();
    Random random(8);
    State state = m_verifier->newState();
    std::vector<int> seen(256);
    for (std::uint64_t round = 0; round < 40; ++round) {
      Drawing drawing{temperature, std::size_t(topK), topP, minP, {}};
      for (std::uint64_t i = 0; i < kDrawn; ++i)
        drawing.keys.push_back(mix(kSeed, round * kDrawn + i));
      const Token first = Token(random.below(256));
      State next = m_verifier->newState();
      const TokenView view = runner->advanceDrawing(state, {&next, 1}, first, drawing, {});
      const std::vector<Token> drawn(view.begin(), view.end());
      QCOMPARE(drawn.size(), kDrawn);
      // The same, a token a pass.
      State stepped = state;
      Token token = first;
      std::vector<State> states{state};
      for (std::size_t i = 0; i <= kDrawn; ++i) {
        State after = m_verifier->newState();
        single->advance(stepped, after, {&token, 1}, {});
        stepped = std::move(after);
        states.push_back(stepped);
        QVERIFY(std::ranges::equal(runner->logits(i), single->logits(0)));
        if (i == kDrawn) break;
        token = sampler.draw(single->logits(0), round * kDrawn + i, TokenView());
        QCOMPARE(drawn[i], token);
        ++seen[std::size_t(token)];
      }
      QVERIFY(std::ranges::equal(next.values(), stepped.values()));
      for (const std::size_t kept : {std::size_t{0}, std::size_t{1}, std::size_t{9}, kDrawn}) {
        State rewound = m_verifier->newState();
        runner->rewind(state, rewound, kept);
        QVERIFY(std::ranges::equal(rewound.values(), states[kept].values()));
      }
      state = std::move(next);
    }
    QVERIFY(std::ranges::count_if(seen, [](int count) { return count > 0; }) > 5);
  }

  // A vocabulary too large for a thread each, and the state after every token.
  void drawsTheMostProbableOfManyTokens() {
    constexpr std::size_t kDrawn = 7;
    const Model& model = m_drafter->model();
    const auto runner = model.newRunner();
    const auto single = model.newRunner();
    Random random(9);
    State state = model.newState();
    std::set<Token> seen;
    for (std::size_t round = 0; round < 30; ++round) {
      Drawing greedy;
      greedy.keys.resize(kDrawn);
      std::vector<State> states(kDrawn + 1 - round % 3, model.newState());
      const Token first = Token(random.below(std::uint32_t(model.config().vocabSize)));
      const TokenView drawn = runner->advanceDrawing(state, states, first, greedy, {});
      QCOMPARE(drawn.size(), kDrawn);
      Token token = first;
      for (std::size_t i = 0; i <= kDrawn; ++i) {
        State after = model.newState();
        single->advance(state, after, {&token, 1}, {});
        state = std::move(after);
        QVERIFY(std::ranges::equal(runner->logits(i), single->logits(0)));
        if (i + 1 < states.size() || i == kDrawn) {
          const State& kept = states[std::min(i, states.size() - 1)];
          QVERIFY(std::ranges::equal(kept.values(), state.values()));
          QCOMPARE(kept.position(), state.position());
        }
        if (i == kDrawn) break;
        token = argmax(single->logits(0));
        QCOMPARE(drawn[i], token);
        seen.insert(token);
      }
    }
    QVERIFY(seen.size() > 20);
  }

  // Guesses that are what the sampler draws up to some place, and as likely as not wrong from
  // there.
  void judgesDrawsAsTheSamplerDoes_data() { addSamplers(); }
  void judgesDrawsAsTheSamplerDoes() {
    QFETCH(double, temperature);
    QFETCH(int, topK);
    QFETCH(double, topP);
    QFETCH(double, minP);
    constexpr std::uint64_t kSeed = 6;
    const SamplerSettings settings{.temperature = temperature,
                                   .topK = std::size_t(topK),
                                   .topP = topP,
                                   .minP = minP,
                                   .seed = kSeed};
    Sampler sampler(settings);
    const auto next = [&](std::span<const float> logits, std::uint64_t position) {
      return sampler.draw(logits, position, TokenView());
    };
    std::set<std::size_t> seen;
    judgeManyChunks(
        next,
        [&](std::uint64_t first, std::size_t guesses) {
          Judgement judgement{std::nullopt, {temperature, std::size_t(topK), topP, minP, {}}};
          for (std::size_t i = 0; i < guesses; ++i)
            judgement.drawing.keys.push_back(mix(kSeed, first + i));
          return judgement;
        },
        seen);
    QVERIFY(seen.size() > 3);
  }

  void judgesRanksAsTheHostDoes_data() {
    QTest::addColumn<int>("beta");
    for (const int beta : {0, 1, 3, 100, 256})
      QTest::newRow(qPrintable(QString::number(beta))) << beta;
  }
  void judgesRanksAsTheHostDoes() {
    QFETCH(int, beta);
    Random random(7);
    const auto ranked = [&](std::span<const float> logits, std::uint64_t) {
      std::vector<Token> order(logits.size());
      std::iota(order.begin(), order.end(), 0);
      std::ranges::sort(
          order, [&](Token a, Token b) { return logits[std::size_t(a)] > logits[std::size_t(b)]; });
      return order[beta > 0 ? random.below(std::uint32_t(beta)) : 0];
    };
    std::set<std::size_t> seen;
    judgeManyChunks(
        ranked,
        [&](std::uint64_t, std::size_t) {
          return Judgement{std::size_t(beta), {}};
        },
        seen);
    QCOMPARE(seen.size() > 3, beta > 0);
  }

  void aChunkIsItsStepsBitForBit_data() {
    addGoldens();
    QTest::newRow("bundled verifier") << "books";
  }
  void aChunkIsItsStepsBitForBit() {
    const auto model = fetchModel();
    const auto runner = model->newRunner();
    Random random(1);
    const std::size_t most = runner->maxChunk();
    const std::vector<Token> tokens = random.tokens(most, model->config().vocabSize);
    const State start = randomState(*model, random);
    std::vector<State> states{start};
    std::vector<std::vector<float>> logits;
    for (const Token token : tokens) {
      State next = states.back();
      logits.push_back(readAll(*model, {&token, 1}, next, 1).front());
      states.push_back(next);
    }
    State state = model->newState();
    for (std::size_t count = 1; count <= most; ++count) {
      runner->advance(start, state, TokenView(tokens).first(count), {});
      QVERIFY2(std::ranges::equal(state.values(), states[count].values()),
               qPrintable(QString("state after %1").arg(count)));
      for (std::size_t i = 0; i < count; ++i)
        QVERIFY2(copyOf(runner->logits(i)) == logits[i],
                 qPrintable(QString("logits %1 of %2").arg(i).arg(count)));
    }
    for (std::size_t kept = 0; kept <= most; ++kept) {
      State rewound = model->newState();
      runner->rewind(start, rewound, kept);
      QVERIFY2(std::ranges::equal(rewound.values(), states[kept].values()),
               qPrintable(QString("rewound to %1").arg(kept)));
    }
  }

  void aLongReadAgreesWithItsChunks_data() { addLongReads(); }
  void aLongReadAgreesWithItsChunks() {
    QFETCH(bool, rounded);
    const auto model = fetchLongReader(DeviceKind::Cuda);
    const double tolerance = rounded ? 1.2e-1 : kTolerance;
    const auto runner = model->newRunner();
    QVERIFY(runner->maxRead() >= 256);
    Random random(5);
    const State start = randomState(*model, random);
    for (const std::size_t count : {33u, 64u, 201u, 256u, 1500u, 4500u}) {
      if (count > runner->maxRead()) continue;
      const std::vector<Token> tokens = random.tokens(count, model->config().vocabSize);
      State expected = start;
      const auto logits = readAll(*model, tokens, expected, 32);
      State state = start;
      runner->advance(state, state, tokens, {});  // ends where it began
      QCOMPARE(state.position(), start.position() + count);
      const double error = relativeError(state.values(), expected.values());
      QVERIFY2(error < tolerance, qPrintable(QString("state after %1: %2").arg(count).arg(error)));
      std::vector<float> got, wanted;
      for (std::size_t i = 0; i < count; ++i) {
        std::ranges::copy(runner->logits(i), std::back_inserter(got));
        std::ranges::copy(logits[i], std::back_inserter(wanted));
      }
      const double off = relativeError(got, wanted);
      QVERIFY2(off < tolerance, qPrintable(QString("logits of %1: %2").arg(count).arg(off)));
      const auto last = copyOf(runner->logits(count - 1));
      State again = model->newState();
      runner->advance(start, again, tokens, {LogitsWanted::Last, {}, {}});
      QVERIFY(std::ranges::equal(again.values(), state.values()));
      QVERIFY(relativeError(runner->logits(0), last) < 1e-5);
      runner->advance(start, again, TokenView(tokens).first(5), {});
      State stepped = start;
      QVERIFY(copyOf(runner->logits(4)) ==
              readAll(*model, TokenView(tokens).first(5), stepped, 1).back());
    }
  }

  void longReadsKeepWhatIsToBeRemembered() {
    const auto model = loader(DeviceKind::Cuda, WeightPrecision::Float32)
                           .open(std::filesystem::path(MB_TEST_DATA) / "induction-heads");
    const Accuracy found =
        measureAccuracy(*model, findRecipe("induction-heads"), 1 << 16, 8, 1, {}, {});
    QVERIFY2(found.share() >= 0.99, qPrintable(QString::number(found.share())));
  }

  void aSingleTokenCanBeTakenBackAndAgain() {
    const auto runner = m_verifier->newRunner();
    Random random(3);
    const State start = randomState(*m_verifier, random);
    const Token token = 101;
    State state = m_verifier->newState();
    runner->advance(start, state, {&token, 1}, {});
    State rewound = m_verifier->newState();
    runner->rewind(start, rewound, 1);
    QVERIFY(rewound == state);
    runner->rewind(start, rewound, 0);
    QVERIFY(rewound == start);
  }

  void aChunkMayEndWhereItBegan() {
    const auto runner = m_verifier->newRunner();
    Random random(2);
    const State start = randomState(*m_verifier, random);
    for (const std::size_t count : {1u, 3u, 20u}) {
      const std::vector<Token> tokens = random.tokens(count, 256);
      State apart = m_verifier->newState();
      runner->advance(start, apart, tokens, {});
      State same = start;
      runner->advance(same, same, tokens, {});
      QVERIFY(same == apart);
    }
  }

  void statesSurviveFilesAndCopies() {
    const Bytes text = excerpt(0, 40);
    const std::vector<Token> tokens(text.begin(), text.end());
    State state = m_verifier->newState();
    readAll(*m_verifier, tokens, state, 32);
    const TemporaryFolder folder;
    state.save(folder / "state");
    State loaded = State::load(folder / "state", state.shape());
    QVERIFY(loaded == state);
    State copy = state;
    const auto expected = readAll(*m_verifier, tokens, state, 32);
    QVERIFY(readAll(*m_verifier, tokens, loaded, 32) == expected);
    QVERIFY(readAll(*m_verifier, tokens, copy, 32) == expected);
    QVERIFY(loaded == state && copy == state);
  }

  void bitsPerByteAreThoseOfTheCpu() {
    const Bytes text = excerpt(0, 8192);
    const auto cpu = loader(DeviceKind::Cpu).open(bundledFolder("books"));
    const double onCpu = evaluate(*cpu, nullptr, text, {}, {}).bitsPerByte;
    const double onCuda = evaluate(*m_verifier, nullptr, text, {}, {}).bitsPerByte;
    QVERIFY2(std::abs(onCpu - onCuda) < 1e-3,
             qPrintable(QString("CPU %1, CUDA %2").arg(onCpu).arg(onCuda)));
  }

  void tapsAreThoseOfTheCpu() {
    const auto cpu = loader(DeviceKind::Cpu).open(bundledFolder("books"));
    const Bytes text = excerpt(100, 20);
    const std::vector<Token> tokens(text.begin(), text.end());
    const ChunkRequest request{LogitsWanted::None, {true, 3, 32}, {}};
    const auto tapsOf = [&](const Model& model) {
      const auto runner = model.newRunner();
      State state = model.newState();
      runner->advance(state, state, tokens, request);
      return runner->taps();
    };
    const TapBlock got = tapsOf(*m_verifier);
    const TapBlock expected = tapsOf(*cpu);
    QCOMPARE(got.count, expected.count);
    QCOMPARE(got.bins, expected.bins);
    QCOMPARE(got.layer, expected.layer);
    const double byLayer = relativeError(got.byLayer, expected.byLayer);
    const double byChannel = relativeError(got.byChannel, expected.byChannel);
    QVERIFY2(byLayer < 1e-3 && byChannel < 1e-3,
             qPrintable(QString("by layer %1, by channel %2").arg(byLayer).arg(byChannel)));
  }

  // Each read goes on from where the one before it ended, and looks at another layer.
  void tapsOfLongReadsAreThoseOfTheCpu_data() { addLongReads(); }
  void tapsOfLongReadsAreThoseOfTheCpu() {
    QFETCH(bool, rounded);
    const auto cuda = fetchLongReader(DeviceKind::Cuda);
    const auto cpu = fetchLongReader(DeviceKind::Cpu);
    const auto onCuda = cuda->newRunner();
    const auto onCpu = cpu->newRunner();
    QVERIFY(onCuda->maxTappedRead() >= 256);
    Random random(6);
    State state = randomState(*cuda, random);
    State expectedState = state;
    std::size_t layer = 1;
    for (const auto& [count, bins] : {std::pair{33u, 32u}, {201u, 1u}, {1500u, 5u}, {4500u, 64u}}) {
      const std::vector<Token> tokens = random.tokens(count, cuda->config().vocabSize);
      const TapRequest wanted{true, layer++, bins};
      const TapBlock got = tapsAlong(*onCuda, state, tokens, wanted);
      const TapBlock expected = tapsAlong(*onCpu, expectedState, tokens, wanted);
      const QString difference =
          rounded ? differenceOf(got, expected, 8e-2, HUGE_VAL)  // a small Δ may be all rounding
                  : differenceOf(got, expected, kTolerance, 10 * kTolerance);
      QVERIFY2(difference.isEmpty(), qPrintable(QString("%1 tokens, %2 at most at once: %3")
                                                    .arg(count)
                                                    .arg(onCuda->maxTappedRead())
                                                    .arg(difference)));
    }
  }

  void watchingALongReadChangesNothing_data() { addLongReads(); }
  void watchingALongReadChangesNothing() {
    const auto model = fetchLongReader(DeviceKind::Cuda);
    const auto runner = model->newRunner();
    Random random(7);
    const State start = randomState(*model, random);
    const TapRequest wanted{true, 1, 16};
    for (const std::size_t most : {100u, 257u, 4500u}) {
      const std::size_t count = std::min(most, runner->maxTappedRead());
      const std::vector<Token> tokens = random.tokens(count, model->config().vocabSize);
      const auto logits = [&] {
        std::vector<float> all;
        for (std::size_t i = 0; i < count; ++i)
          std::ranges::copy(runner->logits(i), std::back_inserter(all));
        return all;
      };
      State watched = model->newState();
      runner->advance(start, watched, tokens, {LogitsWanted::All, wanted, {}});
      QCOMPARE(runner->taps().count, count);
      const std::vector<float> watchedLogits = logits();
      State unwatched = model->newState();
      runner->advance(start, unwatched, tokens, {});
      QCOMPARE(runner->taps().count, std::size_t{0});
      const double off = relativeError(watched.values(), unwatched.values());
      QVERIFY2(std::ranges::equal(watched.values(), unwatched.values()),
               qPrintable(QString("state after %1 is off by %2").arg(count).arg(off)));
      const double error = relativeError(watchedLogits, logits());
      QVERIFY2(watchedLogits == logits(),
               qPrintable(QString("logits of %1 are off by %2").arg(count).arg(error)));
      // Nor do long reads disturb the taps of chunks.
      const auto chunkTaps = [&](Runner& by) {
        State after = start;
        return tapsAlong(by, after, TokenView(tokens).first(20), wanted);
      };
      const QString difference =
          differenceOf(chunkTaps(*runner), chunkTaps(*model->newRunner()), 1e-12, 1e-11);
      QVERIFY2(difference.isEmpty(), qPrintable(difference));
    }
  }

  void aSessionReadsLongTextsWithTaps() {
    class Counter : public Recorder {
     public:
      void tapsRead(std::size_t first, std::size_t count, const TapBlock& block) override {
        Recorder::tapsRead(first, count, block);
        ++reads;
      }
      std::size_t reads = 0;
    };
    const Bytes text = excerpt(0, 6000);
    const TapRequest wanted{true, 3, 32};
    const auto watch = [&](std::shared_ptr<const Model> model, Counter& scored, Counter& observed) {
      Session session(std::move(model), nullptr);
      session.setTaps(wanted);
      session.replace(0, 0, text);
      session.score(scored, {});
      session.observe(1000, 5000, wanted, observed, {});
    };
    const auto values = [](const Recorder& recorder) {
      std::vector<float> all;
      for (const auto& [offset, row] : recorder.taps) all.insert(all.end(), row.begin(), row.end());
      return all;
    };
    Counter scored, observed, scoredOnCpu, observedOnCpu;
    watch(m_verifier, scored, observed);
    watch(loader(DeviceKind::Cpu).open(bundledFolder("books")), scoredOnCpu, observedOnCpu);
    QCOMPARE(scored.taps.size(), text.size());
    QCOMPARE(observed.taps.size(), std::size_t{4000});
    QCOMPARE(observed.taps.begin()->first, std::size_t{1000});
    QVERIFY2(scored.reads < 30, qPrintable(QString("%1 reads").arg(scored.reads)));
    QVERIFY2(observed.reads < 20, qPrintable(QString("%1 reads").arg(observed.reads)));
    const double scoredError = relativeError(values(scored), values(scoredOnCpu));
    QVERIFY2(scoredError < 5e-2, qPrintable(QString("scored: %1").arg(scoredError)));
    const double observedError = relativeError(values(observed), values(observedOnCpu));
    QVERIFY2(observedError < 5e-2, qPrintable(QString("observed: %1").arg(observedError)));
  }

  void exactSpeculationIsPlainDecoding_data() {
    QTest::addColumn<float>("temperature");
    QTest::addColumn<bool>("healing");
    for (const bool healing : {true, false}) {
      const char* suffix = healing ? "" : ", no healing";
      QTest::addRow("greedy%s", suffix) << 0.0f << healing;
      QTest::addRow("sampled%s", suffix) << 0.8f << healing;
    }
  }
  void exactSpeculationIsPlainDecoding() {
    QFETCH(float, temperature);
    QFETCH(bool, healing);
    const std::size_t prompts = qEnvironmentVariable("MB_FULL_ACCEPTANCE") == "1" ? 100 : 5;
    for (std::size_t i = 0; i < prompts; ++i) {
      GenerationSettings settings;
      settings.sampler.temperature = temperature;
      settings.sampler.topK = 40;
      settings.sampler.seed = i;
      settings.healing = healing;
      settings.draftTokens = 2 + i % 7;
      const Bytes prompt = excerpt(i * 150, 100);
      settings.speculation = Speculation::Off;
      const Bytes plain = write(prompt, settings);
      settings.speculation = Speculation::Exact;
      QVERIFY2(write(prompt, settings) == plain, qPrintable(QString("prompt %1").arg(i)));
    }
  }

  // Random work for a pair, and the same done by single passes on the same device.
  void aPairDoesWhatItsRunnersDoAlone_data() {
    QTest::addColumn<int>("first");
    for (int first = 0; first < 160; first += 16) QTest::addRow("trials from %d", first) << first;
  }
  void aPairDoesWhatItsRunnersDoAlone() {
    QFETCH(int, first);
    const auto tree = treeOf(*m_drafter);
    const PairedModel verifierAlone(m_verifier);
    const PairedModel drafterAlone(std::shared_ptr<const Model>(m_drafter, &m_drafter->model()));
    const auto verifiers = std::array{m_verifier->newRunner(), verifierAlone.newRunner()};
    const auto drafters = std::array{m_drafter->model().newRunner(), drafterAlone.newRunner()};
    const auto together = verifiers[0]->pairWith(*drafters[0], tree);
    const auto alone = verifiers[1]->pairWith(*drafters[1], tree);
    QVERIFY(together && alone && together->weighsBytes());
    Random random(12 + std::uint32_t(first));
    State draftState = m_drafter->model().newState();
    State verifyState = m_verifier->newState();
    std::set<std::size_t> lengths;
    int ended = 0;  // before all tokens were drawn
    for (std::size_t trial = std::size_t(first); trial < std::size_t(first) + 16; ++trial) {
      const PairWork work = PairWork::some(random, trial, m_drafter->tokenizer());
      const bool inPlace = trial % 8 < 4;
      std::vector<State> to[2];
      State after[2];
      RunnerPair::Outcome outcome[2];
      for (const int i : {0, 1}) {
        to[i].assign(work.draws, m_drafter->model().newState());
        if (inPlace) to[i][0] = draftState;
        after[i] = m_verifier->newState();
        DraftPass draft;
        draft.from = inPlace ? &to[i][0] : &draftState;
        draft.to = to[i];
        draft.known = work.known;
        draft.agree = work.agree;
        draft.head = work.head;
        draft.drawing = work.drawing;
        draft.tokens = work.tokens;
        draft.leastConfidence = work.leastConfidence;
        draft.confidence = work.confidence;
        const VerifyPass verify{verifyState, after[i], Token(trial), work.most, work.judgement};
        outcome[i] = (i == 0 ? together : alone)->run(draft, verify, {});
      }
      const QString where = QString("trial %1: %2 known, %3 drawn, agreeing with %4 bytes, most %5")
                                .arg(trial)
                                .arg(work.known.size())
                                .arg(work.draws)
                                .arg(work.agree.size())
                                .arg(work.most);
      QVERIFY2(std::ranges::equal(outcome[0].drawn, outcome[1].drawn),
               qPrintable(where + ": drew " + show(outcome[0].drawn) + ", not " +
                          show(outcome[1].drawn)));
      QVERIFY2(std::ranges::equal(outcome[0].chunk, outcome[1].chunk),
               qPrintable(where + ": read " + show(outcome[0].chunk) + ", not " +
                          show(outcome[1].chunk)));
      QVERIFY2(
          outcome[0].kept == outcome[1].kept,
          qPrintable(
              QString("%1: kept %2, not %3").arg(where).arg(outcome[0].kept).arg(outcome[1].kept)));
      const std::size_t drawn = outcome[0].drawn.size();
      ended += drawn < work.draws;
      for (std::size_t i = 0; i + 1 < work.known.size() + drawn; ++i)
        QVERIFY2(std::ranges::equal(drafters[0]->logits(i), drafters[1]->logits(i)),
                 qPrintable(QString("%1: the drafter's logits %2").arg(where).arg(i)));
      for (std::size_t i = 0; i < drawn; ++i) {
        QVERIFY2(std::ranges::equal(to[0][i].values(), to[1][i].values()),
                 qPrintable(QString("%1: the drafter's state %2").arg(where).arg(i)));
        QCOMPARE(to[0][i].position(), to[1][i].position());
      }
      for (std::size_t i = 0; i < outcome[0].chunk.size(); ++i)
        QVERIFY2(std::ranges::equal(verifiers[0]->logits(i), verifiers[1]->logits(i)),
                 qPrintable(QString("%1: the verifier's logits %2").arg(where).arg(i)));
      QVERIFY2(std::ranges::equal(after[0].values(), after[1].values()),
               qPrintable(where + ": the verifier's state"));
      QCOMPARE(after[0].position(), after[1].position());
      lengths.insert(outcome[0].chunk.size());
      draftState = to[0][drawn - 1];
      verifyState = after[0];
    }
    QVERIFY2(lengths.size() > 5, qPrintable(QString::number(lengths.size())));
    QVERIFY(ended > 0);
  }

  void aPairWritesWhatTheTwoDoAloneAndWaitsOnceARound_data() {
    QTest::addColumn<int>("speculation");
    QTest::addColumn<int>("draftTokens");
    QTest::addColumn<double>("temperature");
    QTest::addColumn<bool>("taps");
    QTest::addColumn<double>("confidence");
    for (const auto speculation : {Speculation::Exact, Speculation::TopBeta}) {
      for (const double temperature : {0.0, 0.8}) {
        for (const int draftTokens : {1, 4, 8})
          QTest::addRow("%s, %d tokens, %g", nameOf(speculation).data(), draftTokens, temperature)
              << int(speculation) << draftTokens << temperature << false << 0.0;
        // Greedy with top-beta it soon writes blanks, of which a drafter that ends at bytes reads
        // a line again byte by byte.
        if (speculation == Speculation::Exact || temperature > 0)
          QTest::addRow("%s, %g, confidence", nameOf(speculation).data(), temperature)
              << int(speculation) << 4 << temperature << false << 0.3;
      }
    }
    QTest::newRow("with taps") << int(Speculation::TopBeta) << 4 << 0.0 << true << 0.0;
  }
  void aPairWritesWhatTheTwoDoAloneAndWaitsOnceARound() {
    QFETCH(int, speculation);
    QFETCH(int, draftTokens);
    QFETCH(double, temperature);
    QFETCH(bool, taps);
    QFETCH(double, confidence);
    GenerationSettings settings;
    settings.sampler.temperature = temperature;
    settings.leastConfidence = confidence;
    settings.speculation = Speculation(speculation);
    settings.draftTokens = std::size_t(draftTokens);
    const auto waits = [&] { return m_verifier->waits() + m_drafter->model().waits(); };
    Recorder runs[2];
    Bytes texts[2];
    std::uint64_t waited[2];
    for (const bool paired : {false, true}) {
      Session session(m_verifier, paired ? std::shared_ptr<Drafter>(m_drafter)
                                         : std::make_shared<Unpaired>(m_drafter));
      session.setTaps({taps, 1, 16});
      session.replace(0, 0, excerpt(2000, 120));
      session.prepare(settings, runs[paired], {});
      const std::uint64_t before = waits();
      session.generate(600, settings, runs[paired], {});
      waited[paired] = waits() - before;
      texts[paired] = session.text();
    }
    const std::size_t rounds = std::min(runs[0].rounds.size(), runs[1].rounds.size());
    for (std::size_t i = 0; i < rounds; ++i) {
      const QString differs = difference(runs[1].rounds[i], runs[0].rounds[i]);
      QVERIFY2(differs.isEmpty(), qPrintable(QString("round %1: %2").arg(i).arg(differs)));
    }
    QVERIFY2(texts[1] == texts[0], qPrintable(show(texts[1]) + "\nnot\n" + show(texts[0])));
    QCOMPARE(runs[1].rounds.size(), runs[0].rounds.size());
    QCOMPARE(QString::fromStdString(problemOf(runs[1], 120)), QString());
    for (std::size_t i = 0; i < texts[0].size(); ++i)
      QVERIFY2(sameScore(runs[1].records[i], runs[0].records[i]),
               qPrintable(QString("record %1").arg(i)));
    QVERIFY(runs[1].taps == runs[0].taps);
    QCOMPARE(runs[1].taps.empty(), !taps);
    // A byte that is written where nothing is drafted takes a round of its own.
    const auto undrafted = std::ranges::count(runs[1].records, Origin::Plain, &ByteRecord::origin);
    const double all = double(rounds) + double(undrafted);
    const double perRound = double(waited[1]) / all;
    const QString found =
        QString("%1 waits a round, %2 without the pair").arg(perRound).arg(double(waited[0]) / all);
    qInfo("%s", qPrintable(found));
    QVERIFY2(perRound < 1.25, qPrintable(found));
  }

  void onlyRunnersOfOneDeviceMakeAPair() {
    const auto cpu = loader(DeviceKind::Cpu).open(bundledFolder("books"));
    const auto onCpu = cpu->newRunner();
    const auto onCuda = m_verifier->newRunner();
    const auto tree = treeOf(*m_drafter);
    QVERIFY(!onCuda->pairWith(*onCpu, tree));
    QVERIFY(!onCpu->pairWith(*onCuda, tree));
    QVERIFY(!onCuda->pairWith(*onCuda, tree));
    const auto drafter = m_drafter->model().newRunner();
    QVERIFY(!drafter->pairWith(*onCuda, tree));  // a subword model verifies nothing
  }

  void cleanupTestCase() {
    m_drafter.reset();
    m_verifier.reset();
  }

 private:
  static std::shared_ptr<const Model> fetchLongReader(DeviceKind device) {
    QFETCH(QString, golden);
    QFETCH(bool, rounded);
    return loader(device, rounded ? WeightPrecision::BFloat16 : WeightPrecision::Float32)
        .open(golden == "books" ? bundledFolder("books") : goldenFolder(golden.toStdString()));
  }

  std::shared_ptr<const Model> fetchModel() const {
    QFETCH(QString, golden);
    if (golden == "books") return m_verifier;
    return loader(DeviceKind::Cuda).open(goldenFolder(golden.toStdString()));
  }

  /// Judges chunks of every length whose guesses are what `next` says after the token before, or
  /// random from some place on, and compares with what `judgement` means, looked up on the host.
  /// Collects how many tokens stood.
  void judgeManyChunks(
      const std::function<Token(std::span<const float>, std::uint64_t)>& next,
      const std::function<Judgement(std::uint64_t first, std::size_t guesses)>& judgementOf,
      std::set<std::size_t>& seen) {
    const auto runner = m_verifier->newRunner();
    const auto single = m_verifier->newRunner();
    Random random(11);
    State start = randomState(*m_verifier, random);
    for (std::size_t length = 2; length <= runner->maxChunk(); ++length) {
      const std::uint64_t first = length * 100;  // text position of the first guess
      const std::size_t right = random.below(std::uint32_t(2 * length));
      std::vector<State> states{start};
      std::vector<Token> tokens{Token(random.below(256))};
      std::vector<std::vector<float>> logits;
      while (true) {
        State after = m_verifier->newState();
        single->advance(states.back(), after, {&tokens.back(), 1}, {});
        states.push_back(std::move(after));
        logits.push_back(copyOf(single->logits(0)));
        if (tokens.size() == length) break;
        const Token following = next(logits.back(), first + tokens.size() - 1);
        tokens.push_back(tokens.size() <= right ? following : Token(random.below(256)));
      }
      const Judgement judgement = judgementOf(first, length - 1);
      std::size_t expected = 1;
      while (expected < length) {
        const std::span<const float> row = logits[expected - 1];
        const Token guess = tokens[expected];
        const float own = row[std::size_t(guess)];
        const auto better = std::ranges::count_if(row, [&](float l) { return l > own; });
        if (judgement.beta ? std::size_t(better) >= *judgement.beta
                           : next(row, first + expected - 1) != guess)
          break;
        ++expected;
      }
      State state = m_verifier->newState();
      const std::size_t kept = runner->advanceJudging(start, state, tokens, judgement, {});
      const QString where = QString("%1 tokens, right up to %2").arg(length).arg(right);
      QVERIFY2(kept == expected,
               qPrintable(QString("%1: kept %2, not %3").arg(where).arg(kept).arg(expected)));
      QVERIFY2(std::ranges::equal(state.values(), states[kept].values()),
               qPrintable(where + ": another state"));
      QCOMPARE(state.position(), start.position() + kept);
      for (std::size_t i = 0; i < length; ++i)
        QVERIFY2(copyOf(runner->logits(i)) == logits[i],
                 qPrintable(QString("%1: other logits %2").arg(where).arg(i)));
      for (const std::size_t other : {std::size_t{1}, length / 2 + 1, length}) {
        runner->rewind(start, state, other);
        QVERIFY2(std::ranges::equal(state.values(), states[other].values()),
                 qPrintable(QString("%1: rewound to %2").arg(where).arg(other)));
      }
      seen.insert(kept);
      start = states[1];
    }
  }

  Bytes write(const Bytes& prompt, const GenerationSettings& settings) const {
    Recorder run;
    Session session(m_verifier, m_drafter);
    session.replace(0, 0, prompt);
    session.generate(400, settings, run, {});
    return session.text();
  }

  std::shared_ptr<const Model> m_verifier;
  std::shared_ptr<SubwordDrafter> m_drafter;
};

QTEST_GUILESS_MAIN(CudaTest)
#include "test_cuda.moc"
