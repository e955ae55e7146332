// Session: whatever was edited, scored, written and stopped before, the text alone decides.
#include <QtTest>
#include <algorithm>

#include "engine/error.h"
#include "engine/session/session.h"
#include "tests/support/forwarding_model.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/recorded_run.h"
#include "tests/support/scripted_drafter.h"
#include "tests/support/single_steps.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

std::shared_ptr<const Model> verifier() {
  static const auto kModel = [] {
    ModelConfig config = smallConfig();
    config.tiedHead = false;
    return modelOf(MemoryWeights(config, 51), WeightPrecision::BFloat16);
  }();
  return kModel;
}

/// The verifier on a device that takes more than a chunk when it reads a text, less of it with
/// taps.
class LongReadingModel : public ForwardingModel {
 public:
  static constexpr std::size_t kMostRead = 400;
  static constexpr std::size_t kMostTapped = 150;

  LongReadingModel() : ForwardingModel(verifier()) {}
  std::unique_ptr<Runner> newRunner() const override { return std::make_unique<LongReader>(*this); }

  mutable std::vector<std::size_t> reads;  ///< their lengths

 private:
  class LongReader : public ForwardingRunner {
   public:
    explicit LongReader(const LongReadingModel& model)
        : ForwardingRunner(verifier()->newRunner()), m_model(model) {}
    std::size_t maxRead() const override { return kMostRead; }
    std::size_t maxTappedRead() const override { return kMostTapped; }
    void advance(const State& from, State& to, TokenView tokens,
                 const ChunkRequest& request) override {
      checkChunk(m_model.config(), tokens, request.taps.enabled ? kMostTapped : kMostRead);
      m_model.reads.push_back(tokens.size());
      m_logits.clear();
      m_taps = {};
      to = from;
      for (std::size_t first = 0; first < tokens.size(); first += maxChunk()) {
        const std::size_t size = std::min(maxChunk(), tokens.size() - first);
        m_runner->advance(to, to, tokens.subspan(first, size), request);
        for (std::size_t i = 0; i < size; ++i) keepLogits(i);
        if (request.taps.enabled) append(m_runner->taps());
      }
    }
    void rewind(const State&, State&, std::size_t) override { qFatal("rewound"); }
    const TapBlock& taps() const override { return m_taps; }

   private:
    void append(const TapBlock& more) {
      const auto add = [](std::vector<float>& to, const std::vector<float>& from) {
        to.insert(to.end(), from.begin(), from.end());
      };
      TapBlock joined = more;
      joined.count += m_taps.count;
      std::swap(joined.byLayer, m_taps.byLayer);
      std::swap(joined.byChannel, m_taps.byChannel);
      add(joined.byLayer, more.byLayer);
      add(joined.byChannel, more.byChannel);
      m_taps = std::move(joined);
    }

    const LongReadingModel& m_model;
    TapBlock m_taps;
  };
};

GenerationSettings settings(Speculation speculation) {
  GenerationSettings wanted;
  wanted.speculation = speculation;
  wanted.sampler = {.temperature = 0.9, .topK = 50, .seed = 17};
  return wanted;
}

/// Guesses the two bytes before, so that it is right now and then.
std::shared_ptr<Drafter> echo() {
  return std::make_shared<ScriptedDrafter>([](ByteView text) {
    return Bytes(text.end() - long(std::min<std::size_t>(2, text.size())), text.end());
  });
}

ByteRecord expectedRecord(const SingleSteps& steps, ByteView text, std::size_t i) {
  ByteRecord record;
  record.byte = text[i];
  return i == 0 ? record : scoreByte(steps.logits[i], text[i], Origin::Prompt);
}

/// A session, what it reported, and what its text and origins should be.
struct Edited : Recorder {
  explicit Edited(std::shared_ptr<Drafter> drafter = echo())
      : session(verifier(), std::move(drafter)) {}

  void replace(std::size_t at, std::size_t removed, const Bytes& inserted,
               Origin origin = Origin::Prompt) {
    session.replace(at, removed, inserted, origin);
    const auto begin = text.begin() + long(at);
    text.insert(text.erase(begin, begin + long(removed)), inserted.begin(), inserted.end());
    const auto first = origins.begin() + long(at);
    origins.insert(origins.erase(first, first + long(removed)), inserted.size(), origin);
    if (removed > 0 || !inserted.empty()) cut(at);
  }
  void generate(std::size_t count, Speculation speculation, std::stop_token stop = {}) {
    try {
      session.generate(count, settings(speculation), *this, stop);
    } catch (const Stopped&) {
    }
    for (std::size_t i = text.size(); i < session.text().size(); ++i) {
      text.push_back(records[i].byte);
      origins.push_back(records[i].origin);
    }
  }
  void bytesScored(std::size_t first, std::span<const ByteRecord> fresh) override {
    Recorder::bytesScored(first, fresh);
    if (stopAfter > 0 && --stopAfter == 0) source.request_stop();
  }

  /// What is wrong with everything reported about the text so far.
  QString problem() const {
    if (gaps) return "reports with gaps";
    if (session.text() != text) return "another text";
    if (records.size() != session.scored()) return "scored() is not what was reported";
    const SingleSteps steps = readSingly(*verifier(), text);
    for (std::size_t i = 0; i < records.size(); ++i) {
      if (!sameScore(records[i], expectedRecord(steps, text, i)))
        return QString("another score at %1 of %2").arg(i).arg(text.size());
      if (session.origin(i) != origins[i] || records[i].origin != origins[i])
        return QString("another origin at %1").arg(i);
    }
    return {};
  }

  Session session;
  Bytes text;
  std::vector<Origin> origins;
  std::size_t stopAfter = 0;  ///< reports until the run is stopped
  std::stop_source source;
};

void randomEdit(Edited& edited, Random& random) {
  const std::size_t size = edited.text.size();
  const std::size_t places[] = {0, size, size - std::min(size, 1 + random.below(4)),
                                random.below(size + 1)};
  const std::size_t at = places[random.below(4)];
  const std::size_t removed =
      std::min(size - at, random.below(3) ? random.below(5) : random.below(90));
  const std::size_t inserted = random.below(3) ? random.below(4) : random.below(150);
  edited.replace(at, removed, random.bytes(inserted));
}

void randomAction(Edited& edited, Random& random) {
  switch (random.below(8)) {
    case 0:
    case 1:
    case 2: return randomEdit(edited, random);
    case 3: edited.session.scoreSome(random.below(100), edited, {}); return;
    case 4: return edited.session.score(edited, {});
    case 5:
    case 6:
      if (edited.text.empty()) return;
      return edited.generate(random.below(30),
                             random.below(2) ? Speculation::Exact : Speculation::Off);
    default:
      if (edited.text.empty()) return;
      edited.source = std::stop_source();
      edited.stopAfter = 1 + random.below(6);
      edited.generate(60, Speculation::TopBeta, edited.source.get_token());
      edited.stopAfter = 0;
  }
}

}  // namespace

class SessionTest : public QObject {
  Q_OBJECT

 private slots:
  void scoresDependOnTheTextAlone_data() {
    QTest::addColumn<int>("seed");
    for (int seed = 0; seed < 25; ++seed)
      QTest::newRow(qPrintable(QString("script %1").arg(seed))) << seed;
  }
  void scoresDependOnTheTextAlone() {
    QFETCH(int, seed);
    Random random(static_cast<std::uint32_t>(seed));
    Edited edited;
    edited.replace(0, 0, random.bytes(1 + random.below(400)));
    for (int i = 0; i < 40; ++i) {
      randomAction(edited, random);
      QCOMPARE(edited.problem(), QString());
    }
    edited.session.score(edited, {});
    QCOMPARE(edited.session.scored(), edited.text.size());
    QCOMPARE(edited.problem(), QString());
    const SingleSteps steps = readSingly(*verifier(), edited.text);
    const Snapshot snapshot = edited.session.snapshot({});
    QVERIFY(snapshot.state == steps.state);
    QVERIFY(snapshot.logits == steps.logits.back());
  }

  void aSnapshotReadsWhatIsMissing() {
    Random random(1);
    Edited edited;
    edited.replace(0, 0, random.bytes(300));
    edited.session.scoreSome(100, edited, {});
    QVERIFY(edited.session.scored() >= 100 && edited.session.scored() < 300);
    QVERIFY(edited.session.snapshot({}).state == readSingly(*verifier(), edited.text).state);
    edited.replace(120, 30, random.bytes(7));
    QVERIFY(edited.session.snapshot({}).state == readSingly(*verifier(), edited.text).state);
    edited.generate(5, Speculation::Off);  // leaves a pending byte
    QVERIFY(edited.session.snapshot({}).state == readSingly(*verifier(), edited.text).state);
    Session empty(verifier(), nullptr);
    QVERIFY(empty.snapshot({}).state == verifier()->newState());
    QVERIFY(empty.snapshot({}).logits.empty());
  }

  void writingAfterAnEditIsWritingAnew() {
    Random random(2);
    for (int trial = 0; trial < 15; ++trial) {
      Edited edited;
      edited.replace(0, 0, random.bytes(200));
      edited.generate(20, Speculation::Exact);
      const std::size_t at = random.below(edited.text.size());
      edited.replace(at, random.below(edited.text.size() - at), random.bytes(random.below(5) + 1));
      Edited fresh;
      fresh.replace(0, 0, edited.text);
      edited.generate(40, trial % 2 ? Speculation::Exact : Speculation::Off);
      fresh.generate(40, Speculation::Off);
      QVERIFY(edited.session.text() == fresh.session.text());
      QCOMPARE(edited.problem(), QString());
    }
  }

  void aChosenByteReplacesTheTail() {
    Edited edited;
    edited.replace(0, 0, toBytes("Once upon"));
    edited.generate(30, Speculation::Exact);
    const std::size_t at = 20;
    const Byte chosen = edited.records[at].prediction.candidates[2].byte;
    edited.replace(at, edited.text.size() - at, {chosen}, Origin::Chosen);
    QCOMPARE(edited.session.text().size(), at + 1);
    edited.generate(25, Speculation::Exact);
    QCOMPARE(edited.problem(), QString());
    QVERIFY(edited.session.origin(at) == Origin::Chosen);
    QVERIFY(edited.records[at].origin == Origin::Chosen);
    QCOMPARE(edited.records[at].rank, Byte{2});
    Edited fresh;
    fresh.replace(0, 0, Bytes(edited.text.begin(), edited.text.begin() + long(at) + 1));
    fresh.generate(25, Speculation::Off);
    QVERIFY(fresh.session.text() == edited.session.text());
  }

  void everyByteMayHaveItsOrigin() {
    Session session(verifier(), nullptr);
    const std::vector<Origin> origins{Origin::Plain, Origin::Chosen, Origin::Bonus};
    session.replace(0, 0, toBytes("ad"));
    session.replace(1, 0, toBytes("xyz"), origins);
    const Origin expected[] = {Origin::Prompt, Origin::Plain, Origin::Chosen, Origin::Bonus,
                               Origin::Prompt};
    for (std::size_t i = 0; i < 5; ++i) QVERIFY(session.origin(i) == expected[i]);
  }

  void editsBeyondTheEndAreCut() {
    Session session(verifier(), nullptr);
    session.replace(100, 5, toBytes("abc"));
    QVERIFY(session.text() == toBytes("abc"));
    session.replace(1, 1000, toBytes("z"));
    QVERIFY(session.text() == toBytes("az"));
    session.replace(2, ~std::size_t{0}, {});
    QVERIFY(session.text() == toBytes("az"));
  }

  void nothingReplacedChangesNothing() {
    Edited edited;
    edited.replace(0, 0, toBytes("some text"));
    edited.session.score(edited, {});
    edited.session.replace(3, 0, {});
    QCOMPARE(edited.session.scored(), std::size_t{9});
    QVERIFY(edited.session.next().has_value());
  }

  void scoringInPartsReportsEveryByteOnce() {
    Random random(3);
    for (const std::size_t most : {1u, 7u, 64u, 1000u}) {
      Edited edited;
      edited.replace(0, 0, random.bytes(500));
      std::size_t calls = 0;
      bool done = false;
      while (!done) {
        const std::size_t before = edited.session.scored();
        done = edited.session.scoreSome(most, edited, {});
        QVERIFY(done || edited.session.scored() >= before + most);
        QCOMPARE(done, edited.session.scored() == 500);
        QVERIFY(++calls <= 500 / most + 1);
      }
      QCOMPARE(edited.problem(), QString());
    }
  }

  void theFirstByteIsNotScored() {
    Edited edited;
    edited.replace(0, 0, toBytes("xy"));
    edited.session.score(edited, {});
    QVERIFY(!edited.records[0].scored);
    QVERIFY(edited.records[1].scored);
  }

  void anEditRereadsOnlyWhatFollowsTheNearestSnapshot() {
    Random random(4);
    Edited edited;
    edited.replace(0, 0, random.bytes(6000));
    edited.session.score(edited, {});
    QVERIFY(edited.session.snapshotCount() > 20);
    edited.session.setTaps({true, 0, 1});  // taps tell what is read
    edited.replace(5900, 10, random.bytes(3));
    edited.session.score(edited, {});
    QVERIFY(edited.taps.begin()->first > 5900 - 2 * SnapshotStore::kSpacing);
    // Editing there again starts at the place itself.
    for (int i = 0; i < 5; ++i) {
      edited.taps.clear();
      edited.replace(5900, 3, random.bytes(3));
      edited.session.score(edited, {});
      QCOMPARE(edited.taps.begin()->first, std::size_t{5900});
    }
    edited.taps.clear();
    edited.replace(3000, 1, random.bytes(1));
    edited.session.score(edited, {});
    QVERIFY(edited.taps.begin()->first > 3000 - 4 * SnapshotStore::kSpacing);
    QCOMPARE(edited.problem(), QString());
  }

  void observingShowsWhatScoringShows() {
    Random random(5);
    const Bytes text = random.bytes(300);
    const TapRequest taps{true, 1, 2};
    Edited scored;
    scored.session.setTaps(taps);
    scored.replace(0, 0, text);
    scored.session.score(scored, {});
    QCOMPARE(scored.taps.size(), text.size());
    Edited observed;
    observed.replace(0, 0, text);
    observed.session.score(observed, {});
    const SingleSteps steps = readSingly(*verifier(), text);
    for (const auto& [first, last] : {std::pair{0u, 300u}, {0u, 1u}, {63u, 200u}, {299u, 1000u}}) {
      observed.taps.clear();
      observed.session.observe(first, last, taps, observed, {});
      QCOMPARE(observed.taps.size(), std::min<std::size_t>(last, 300) - first);
      for (const auto& [offset, values] : observed.taps) QVERIFY(values == scored.taps.at(offset));
    }
    observed.taps.clear();
    observed.session.observe(10, 10, taps, observed, {});
    observed.session.observe(400, 500, taps, observed, {});
    QVERIFY(observed.taps.empty());
    // Observing disturbs nothing, not even in the middle of an unread text.
    QVERIFY(observed.session.snapshot({}).state == steps.state);
    observed.replace(200, 0, toBytes("!"));
    observed.session.observe(0, 301, taps, observed, {});
    QCOMPARE(observed.problem(), QString());
    observed.session.score(observed, {});
    QCOMPARE(observed.problem(), QString());
  }

  void longReadsGiveEveryByteItsTaps() {
    Random random(6);
    const Bytes text = random.bytes(1000);
    const TapRequest taps{true, 1, 2};
    Edited plain;
    plain.session.setTaps(taps);
    plain.replace(0, 0, text);
    plain.session.score(plain, {});
    const auto model = std::make_shared<LongReadingModel>();
    Session session(model, nullptr);
    Recorder scored;
    session.setTaps(taps);
    session.replace(0, 0, text);
    session.score(scored, {});
    QCOMPARE(model->reads, (std::vector<std::size_t>{16, 150, 150, 150, 150, 150, 150, 84}));
    QVERIFY(scored.taps == plain.taps);
    QVERIFY(std::ranges::equal(scored.records, plain.records, sameScore));
    model->reads.clear();
    Recorder observed;
    session.observe(500, 1000, taps, observed, {});
    QCOMPARE(observed.taps.size(), std::size_t{500});
    for (const auto& [offset, values] : observed.taps) QVERIFY(values == plain.taps.at(offset));
    QCOMPARE(*std::ranges::max_element(model->reads), LongReadingModel::kMostTapped);
    // Nobody looks any more.
    session.setTaps({});
    session.forgetScores(0);
    model->reads.clear();
    session.score(scored, {});
    QCOMPARE(*std::ranges::max_element(model->reads), LongReadingModel::kMostRead);
  }

  void writingShowsTheTapsOfTheBytesThatStand() {
    const TapRequest taps{true, 1, 2};
    Edited written;
    written.session.setTaps(taps);
    written.replace(0, 0, toBytes("Once upon"));
    written.generate(60, Speculation::TopBeta);
    written.session.score(written, {});  // the pending byte
    Edited scored;
    scored.session.setTaps(taps);
    scored.replace(0, 0, written.text);
    scored.session.score(scored, {});
    QVERIFY(written.taps == scored.taps);
  }

  void nextIsWhatTheFollowingByteIsScoredWith() {
    Edited edited;
    QVERIFY(!edited.session.next());
    edited.replace(0, 0, toBytes("Once upon a time"));
    QVERIFY(!edited.session.next());
    edited.session.score(edited, {});
    const auto next = edited.session.next();
    QVERIFY(next);
    float sum = 0;
    for (const Candidate& candidate : next->candidates) sum += candidate.probability;
    QVERIFY(sum > 0 && sum <= 1 + 1e-6f);
    edited.generate(1, Speculation::Off);
    const auto& candidates = edited.records.back().prediction.candidates;
    for (std::size_t i = 0; i < kCandidates; ++i) {
      QCOMPARE(candidates[i].byte, next->candidates[i].byte);
      QCOMPARE(candidates[i].probability, next->candidates[i].probability);
    }
    QVERIFY(!edited.session.next());  // the byte just written has not been read
    edited.session.score(edited, {});
    QVERIFY(edited.session.next());
    edited.replace(3, 1, toBytes("?"));
    QVERIFY(!edited.session.next());
  }

  void preparingChangesOnlyTheTime() {
    Edited prepared, plain;
    for (Edited* session : {&prepared, &plain}) session->replace(0, 0, toBytes("Once upon a"));
    prepared.session.prepare(settings(Speculation::Exact), prepared, {});
    QCOMPARE(prepared.session.scored(), std::size_t{11});
    prepared.generate(40, Speculation::Exact);
    plain.generate(40, Speculation::Exact);
    QVERIFY(prepared.session.text() == plain.session.text());
  }

  void timingDisturbsNothing() {
    Edited edited, undisturbed;
    for (Edited* session : {&edited, &undisturbed}) {
      session->replace(0, 0, toBytes("Once upon a time"));
      session->generate(40, Speculation::Exact);
    }
    for (const Speculation mode : {Speculation::Exact, Speculation::TopBeta, Speculation::Off})
      QVERIFY(edited.session.timeDecoding(16, 56, settings(mode), {}) > 0);
    QCOMPARE(edited.session.timeDecoding(0, 56, {}, {}), 0.0);
    QCOMPARE(edited.session.timeDecoding(60, 70, {}, {}), 0.0);
    for (Edited* session : {&edited, &undisturbed}) session->generate(40, Speculation::Exact);
    QVERIFY(edited.session.text() == undisturbed.session.text());
    edited.session.score(edited, {});
    QCOMPARE(edited.problem(), QString());
  }

  void timingDraftsFromItsFirstByteOn() {
    std::vector<Bytes> seen;
    Edited edited(std::make_shared<ScriptedDrafter>([&](ByteView text) {
      seen.emplace_back(text.begin(), text.end());
      return Bytes{' '};
    }));
    edited.replace(0, 0, toBytes("Once upon a time"));
    edited.generate(20, Speculation::Exact);
    seen.clear();
    QVERIFY(edited.session.timeDecoding(10, 30, settings(Speculation::Off), {}) > 0);
    QVERIFY(seen.empty());
    QVERIFY(edited.session.timeDecoding(10, 30, settings(Speculation::Exact), {}) > 0);
    QVERIFY(!seen.empty());
    QVERIFY(seen.front() == toBytes("Once upon "));
    QVERIFY(seen.back().size() < 30);
  }

  void anEmptyTextCannotBeContinued() {
    Edited edited;
    QVERIFY(thrown<RequestError>(
        [&] { edited.session.generate(5, settings(Speculation::Off), edited, {}); }));
    edited.session.score(edited, {});
    QCOMPARE(edited.session.scored(), std::size_t{0});
    edited.replace(0, 0, toBytes("a"));
    edited.replace(0, 1, {});
    QVERIFY(thrown<RequestError>(
        [&] { edited.session.generate(5, settings(Speculation::Off), edited, {}); }));
    edited.replace(0, 0, toBytes("a"));
    edited.generate(5, Speculation::Off);
    QCOMPARE(edited.problem(), QString());
  }

  void aSubwordModelCannotVerify() {
    const auto model = openModel(goldenFolder("subword"));
    const auto error = thrown<RequestError>([&] { Session session(model, nullptr); });
    QVERIFY(error);
    QVERIFY(mentions(error->what(), "1000", "256"));
  }
};

QTEST_GUILESS_MAIN(SessionTest)
#include "test_session.moc"
