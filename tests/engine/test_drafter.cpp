// SubwordDrafter: its proposals depend on the text alone, not on how the text came about.
#include <QtTest>
#include <algorithm>
#include <cstring>

#include "engine/decoding/sampler.h"
#include "engine/error.h"
#include "tests/support/forwarding_model.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/tokenizer_files.h"

using namespace mb;
using namespace mb::test;

namespace {

std::shared_ptr<const Tokenizer> bundledTokenizer() {
  static const auto kTokenizer =
      std::make_shared<const Tokenizer>(bundledFolder("books-draft") / "tokenizer.json");
  return kTokenizer;
}

/// A drafter of random weights over the bundled vocabulary: its guesses are nonsense, but cost
/// little. A tied head would make it repeat the last token.
std::shared_ptr<const Model> tinyDraftModel() {
  static const auto kModel = [] {
    ModelConfig config = smallConfig();
    config.vocabSize = 4096;
    config.tiedHead = false;
    return modelOf(MemoryWeights(config, 31), WeightPrecision::BFloat16);
  }();
  return kModel;
}

std::shared_ptr<const Model> draftModel(bool bundled) {
  static const auto kBundled = openModel(bundledFolder("books-draft"), WeightPrecision::BFloat16);
  return bundled ? kBundled : tinyDraftModel();
}

bool same(const Draft& a, const Draft& b) {
  return a.bytes == b.bytes &&
         std::ranges::equal(a.tokens, b.tokens, [](const DraftToken& x, const DraftToken& y) {
           return x.id == y.id && x.begin == y.begin && x.end == y.end;
         });
}

QString show(const Draft& draft) {
  return QString::fromStdString(std::string(toText(draft.bytes)));
}

bool endsWith(ByteView bytes, ByteView end) {
  return bytes.size() >= end.size() && std::ranges::equal(bytes.last(end.size()), end);
}

bool startsWith(ByteView bytes, ByteView start) {
  return bytes.size() >= start.size() && std::ranges::equal(bytes.first(start.size()), start);
}

/// Counts the passes over a model's weights, and may draw the most probable tokens by itself.
class CountingModel : public ForwardingModel {
 public:
  explicit CountingModel(std::shared_ptr<const Model> model, bool draws = false)
      : ForwardingModel(std::move(model)), m_draws(draws) {}
  std::unique_ptr<Runner> newRunner() const override {
    return std::make_unique<CountingRunner>(*this);
  }
  mutable std::size_t passes = 0;

 private:
  class CountingRunner : public ForwardingRunner {
   public:
    explicit CountingRunner(const CountingModel& model)
        : ForwardingRunner(model.ForwardingModel::newRunner()), m_model(model) {}
    void advance(const State& from, State& to, TokenView tokens,
                 const ChunkRequest& request) override {
      ++m_model.passes;
      ForwardingRunner::advance(from, to, tokens, request);
    }
    TokenView advanceDrawing(const State& from, std::span<State> to, Token first,
                             const Drawing& drawing, const ChunkRequest& request) override {
      if (!m_model.m_draws) return Runner::advanceDrawing(from, to, first, drawing, request);
      ++m_model.passes;
      m_tokens.assign(1, first);
      m_logits.clear();
      for (std::size_t i = 0;; ++i) {
        m_runner->advance(i == 0 ? from : to[std::min(i, to.size()) - 1],
                          to[std::min(i, to.size() - 1)], {&m_tokens.back(), 1}, request);
        keepLogits(0);
        if (i == drawing.keys.size()) break;
        m_tokens.push_back(argmax(m_logits.back()));
      }
      return TokenView(m_tokens).subspan(1);
    }

   private:
    const CountingModel& m_model;
    std::vector<Token> m_tokens;
  };
  bool m_draws;
};

/// A drafter that is driven at random, and a second one that always starts anew.
class Pairing {
 public:
  Pairing(bool bundled, const DraftSettings& settings, bool draws = false)
      : m_driven(std::make_shared<CountingModel>(draftModel(bundled), draws), bundledTokenizer()),
        m_fresh(draftModel(bundled), bundledTokenizer()) {
    m_driven.configure(settings);
    m_fresh.configure(settings);
  }

  void reset(ByteView text) {
    m_text.assign(text.begin(), text.end());
    m_driven.reset(text, {});
  }
  void append(ByteView bytes) {
    m_text.insert(m_text.end(), bytes.begin(), bytes.end());
    m_driven.append(bytes);
  }
  Draft propose(std::size_t tokens = 4, std::size_t bytes = 40) {
    return m_driven.propose(tokens, bytes, {});
  }
  Draft fresh(std::size_t tokens = 4, std::size_t bytes = 40) {
    m_fresh.reset({}, {});
    m_fresh.reset(m_text, {});
    return m_fresh.propose(tokens, bytes, {});
  }
  const Bytes& text() const { return m_text; }

 private:
  SubwordDrafter m_driven, m_fresh;
  Bytes m_text;
};

/// The tokens that healing should draft, by looking at every token of the vocabulary.
std::vector<Token> healedByHand(const Model& model, ByteView text, std::size_t count) {
  const Tokenizer& tokenizer = *bundledTokenizer();
  const std::size_t settled = tokenizer.lastPieceStart(text);
  const std::vector<Token> read = tokenizer.encode(text.first(settled));
  ByteView pending = text.subspan(settled);
  const auto runner = model.newRunner();
  State state = model.newState();
  runner->advance(state, state, read, {LogitsWanted::Last, {}, {}});
  std::vector<Token> drafted;
  while (drafted.size() < count) {
    Token best = -1;
    for (Token token = 0; token < 4096; ++token) {
      const ByteView bytes = tokenizer.bytes(token);
      if (bytes.empty() || !(startsWith(bytes, pending) || startsWith(pending, bytes))) continue;
      const auto logits = runner->logits(0);
      if (best < 0 || logits[std::size_t(token)] > logits[std::size_t(best)]) best = token;
    }
    const std::size_t length = tokenizer.bytes(best).size();
    if (length > pending.size()) drafted.push_back(best);
    pending = pending.subspan(std::min(length, pending.size()));
    runner->advance(state, state, {&best, 1}, {LogitsWanted::Last, {}, {}});
  }
  return drafted;
}

std::vector<Token> idsOf(const Draft& draft) {
  std::vector<Token> ids;
  for (const DraftToken& token : draft.tokens) ids.push_back(token.id);
  return ids;
}

Bytes excerpt(std::size_t first, std::size_t size) {
  static const std::string kText =
      readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
  return toBytes(std::string_view(kText).substr(first, size));
}

const SamplerSettings kGreedy;
const SamplerSettings kWarm{.temperature = 0.8, .topP = 0.98, .seed = 11};

/// Texts by what makes them hard to follow.
Bytes textOf(const QString& kind, std::size_t trial) {
  Random random(static_cast<std::uint32_t>(trial));
  if (kind == "book") return excerpt(1000 * (trial % 50) + 200, 400);
  if (kind == "random bytes") return random.bytes(250);
  const char* sentence =
      kind == "prose"        ? "The quick brown fox, 12 of them (no more) jumped over  the dog: so "
      : kind == "paragraphs" ? "It was so.\n\nThen it was not.\n\n\nAnd so  on\n   went the tale;\n"
      : kind == "contractions" ? "They're sure we'll find what you've lost: it's I'm he'd don't. "
      : kind == "quotes" ? "\u201cIt\u2019s done\u201d \u2014 said caf\u00e9 \u2026 \u2018so\u2019 "
                         : "A line ------------------------------------------------------ is "
                           "incomprehensibilitiesandthenmoreofthesamewithoutend, he says. ";
  Bytes text = toBytes("Some words first. ");
  while (text.size() < 250) {
    const Bytes more = toBytes(sentence);
    text.insert(text.end(), more.begin(), more.end());
  }
  return text;
}

}  // namespace

class DrafterTest : public QObject {
  Q_OBJECT

 private slots:
  void proposalsDependOnTheTextAlone_data() {
    QTest::addColumn<QString>("kind");
    QTest::addColumn<bool>("bundled");
    QTest::addColumn<bool>("draws");
    QTest::addColumn<bool>("warm");
    for (const char* kind :
         {"prose", "paragraphs", "contractions", "quotes", "long pieces", "random bytes", "book"}) {
      QTest::addRow("%s", kind) << kind << false << false << false;
      QTest::addRow("%s, model draws", kind) << kind << false << true << false;
      QTest::addRow("%s, sampled", kind) << kind << false << true << true;
    }
    QTest::newRow("prose, bundled drafter") << "prose" << true << false << false;
    QTest::newRow("book, bundled drafter") << "book" << true << true << false;
    QTest::newRow("book, bundled drafter, sampled") << "book" << true << false << true;
  }
  // Any interleaving of propose, append and reset ends where a drafter that read the text at once
  // is. What is appended is now what was proposed, now what the text says.
  void proposalsDependOnTheTextAlone() {
    QFETCH(QString, kind);
    QFETCH(bool, bundled);
    QFETCH(bool, draws);
    QFETCH(bool, warm);
    Pairing drafters(bundled, {.sampler = warm ? kWarm : kGreedy}, draws);
    for (std::size_t trial = 0; trial < (bundled ? 3 : 12); ++trial) {
      const Bytes source = textOf(kind, trial);
      Random random(static_cast<std::uint32_t>(100 + trial));
      drafters.reset(ByteView(source).first(20));
      std::size_t at = 20;
      while (at < source.size()) {
        const Draft draft = drafters.propose(1 + random.below(6), 1 + random.below(30));
        const std::size_t action = random.below(8);
        const std::size_t more = std::min(1 + random.below(6), source.size() - at);
        const ByteView next = ByteView(source).subspan(at, more);
        if (action < 3) {
          drafters.append(next);
        } else if (action < 6) {  // a prefix of the draft, then a byte of the text's
          Bytes accepted = draft.bytes;
          accepted.resize(random.below(draft.bytes.size() + 1));
          accepted.push_back(source[at]);
          drafters.append(accepted);
        } else if (action == 6) {
          Bytes longer = drafters.text();
          longer.insert(longer.end(), next.begin(), next.end());
          drafters.reset(longer);
        } else {
          drafters.reset(ByteView(source).first(at));
        }
        at += more;
        const Draft got = drafters.propose();
        const Draft expected = drafters.fresh();
        const QString end =
            QString::fromStdString(std::string(toText(ByteView(drafters.text()).last(12))));
        QVERIFY2(same(got, expected), qPrintable(QString("after \"…%1\": \"%2\" instead of \"%3\"")
                                                     .arg(end, show(got), show(expected))));
      }
    }
  }

  // Before the second piece of a text begins there is no token boundary to go back to.
  void aTextThatBeginsInMidWordIsFollowedToo() {
    for (const char* text : {"Hello world", "There was", "without end", "When the"}) {
      const Bytes whole = toBytes(text);
      for (std::size_t cut = 1; cut < 7; ++cut) {
        Pairing drafters(false, {});
        drafters.reset(ByteView(whole).first(cut));
        drafters.propose();
        drafters.append(ByteView(whole).subspan(cut));
        QVERIFY2(same(drafters.propose(), drafters.fresh()),
                 qPrintable(QString("\"%1\" cut at %2").arg(text).arg(cut)));
      }
    }
  }

  void anEmptyBeginningIsFollowedToo() {
    Pairing drafters(false, {});
    drafters.reset({});
    QVERIFY(drafters.propose().bytes.empty());
    drafters.append(toBytes("Hello wor"));
    QVERIFY(same(drafters.propose(), drafters.fresh()));
  }

  void withoutHealingEveryByteReadIsATokenOfItsOwn() {
    const auto model = draftModel(false);
    SubwordDrafter drafter(model, bundledTokenizer());
    drafter.configure({.healing = false});
    const Bytes text = toBytes("The quick brown fox jum");
    drafter.reset(text, {});
    const Draft draft = drafter.propose(5, 60, {});
    const auto runner = model->newRunner();
    State state = model->newState();
    runner->advance(state, state, bundledTokenizer()->encode(text), {LogitsWanted::Last, {}, {}});
    std::vector<Token> expected;
    for (std::size_t i = 0; i < 5; ++i) {
      expected.push_back(argmax(runner->logits(0)));
      runner->advance(state, state, {&expected.back(), 1}, {LogitsWanted::Last, {}, {}});
    }
    QCOMPARE(idsOf(draft), expected);
    QVERIFY(draft.bytes == bundledTokenizer()->decode(expected));
  }

  void healingTakesTheMostProbableTokensThatAgree_data() {
    QTest::addColumn<bool>("bundled");
    QTest::newRow("random weights") << false;
    QTest::newRow("bundled") << true;
  }
  void healingTakesTheMostProbableTokensThatAgree() {
    QFETCH(bool, bundled);
    const auto model = draftModel(bundled);
    SubwordDrafter drafter(model, bundledTokenizer());
    for (const char* text : {"The quick br", "It was the bes", "It was the ", "He said \"I wi",
                             "once upon a tim", "one, two, thr", "A strange xqzw", "In 18"}) {
      drafter.reset(toBytes(text), {});
      const Draft draft = drafter.propose(4, 60, {});
      QCOMPARE(idsOf(draft), healedByHand(*model, toBytes(text), 4));
    }
  }

  void tokensAndBytesOfADraftBelongTogether_data() {
    QTest::addColumn<bool>("healing");
    QTest::newRow("healing") << true;
    QTest::newRow("no healing") << false;
  }
  void tokensAndBytesOfADraftBelongTogether() {
    QFETCH(bool, healing);
    const Tokenizer& tokenizer = *bundledTokenizer();
    SubwordDrafter drafter(draftModel(false), bundledTokenizer());
    drafter.configure({.healing = healing});
    Random random(5);
    std::size_t healed = 0;
    for (std::size_t trial = 0; trial < 150; ++trial) {
      const Bytes text = excerpt(random.below(50000), 30 + random.below(60));
      const std::size_t most = 1 + random.below(30);
      const std::size_t tokens = 1 + random.below(8);
      drafter.reset(text, {});
      const Draft draft = drafter.propose(tokens, most, {});
      QVERIFY(!draft.bytes.empty());
      QVERIFY(draft.bytes.size() <= most);
      QVERIFY(draft.tokens.size() <= tokens);
      QVERIFY(draft.bytes.size() == most || draft.tokens.size() == tokens);
      std::size_t end = 0;
      for (const DraftToken& token : draft.tokens) {
        QCOMPARE(std::size_t{token.begin}, end);
        end = token.end;
        const ByteView fresh = ByteView(draft.bytes).subspan(token.begin, end - token.begin);
        const ByteView bytes = tokenizer.bytes(token.id);
        // Only the first token can begin in the text; only the last can be cut by the limit.
        if (token.begin > 0 || !healing) {
          QVERIFY(startsWith(bytes, fresh));
          QVERIFY(bytes.size() == fresh.size() || end == most);
          continue;
        }
        bool agrees = false;
        for (std::size_t known = 0; known < bytes.size() && !agrees; ++known) {
          agrees = endsWith(text, bytes.first(known)) && startsWith(bytes.subspan(known), fresh) &&
                   (bytes.size() - known == fresh.size() || end == most);
          healed += agrees && known > 0;
        }
        QVERIFY(agrees);
      }
      QCOMPARE(end, draft.bytes.size());
    }
    QVERIFY(healing ? healed > 20 : healed == 0);
  }

  void confidenceOnlyShortensADraft_data() {
    QTest::addColumn<bool>("warm");
    QTest::newRow("greedy") << false;
    QTest::newRow("sampled") << true;
  }
  void confidenceOnlyShortensADraft() {
    QFETCH(bool, warm);
    SubwordDrafter drafter(draftModel(true), bundledTokenizer());
    std::size_t cut = 0;
    for (const std::size_t first : {300u, 7000u, 21000u}) {
      Draft longer;
      for (const double confidence : {0.0, 0.1, 0.4, 0.8, 1.0}) {
        drafter.configure({true, confidence, warm ? kWarm : kGreedy});
        drafter.reset(excerpt(first, 150), {});
        const Draft draft = drafter.propose(6, 60, {});
        if (confidence == 0) QCOMPARE(draft.tokens.size(), std::size_t{6});
        if (confidence > 0) QVERIFY(startsWith(longer.bytes, draft.bytes));
        if (draft.tokens.size() > 1) {  // so that the last one does not begin in the text
          const DraftToken& last = draft.tokens.back();
          const std::size_t whole = drafter.tokenizer().bytes(last.id).size();
          cut += std::size_t(last.end - last.begin) < whole ? 1 : 0;
        }
        longer = draft;
      }
      QVERIFY(longer.tokens.size() < 6);  // no six tokens are certain
    }
    QVERIFY2(cut > 0, "no draft ends within a token");
  }

  void anEmptyTextProposesNothing() {
    SubwordDrafter drafter(draftModel(false), bundledTokenizer());
    QVERIFY(drafter.propose(4, 40, {}).bytes.empty());
    drafter.reset({}, {});
    QVERIFY(drafter.propose(4, 40, {}).bytes.empty());
    drafter.reset(toBytes("A"), {});
    QVERIFY(!drafter.propose(4, 40, {}).bytes.empty());
    QVERIFY(drafter.propose(0, 40, {}).bytes.empty());
    QVERIFY(drafter.propose(4, 0, {}).bytes.empty());
  }

  // 3000 dashes are one piece. Healing all of it would take a pass for each of its tokens, seconds
  // before the first draft; at most 16 bytes are to be healed.
  void aLongPieceIsNotHealedWhole() {
    const auto model = std::make_shared<CountingModel>(draftModel(false));
    SubwordDrafter drafter(model, bundledTokenizer());
    for (const char* unit : {"-", "a", "\u2014", "7"}) {
      Bytes text = toBytes("A ");
      while (text.size() < 3000) text.insert(text.end(), unit, unit + std::strlen(unit));
      drafter.reset({}, {});
      drafter.reset(text, {});
      model->passes = 0;
      QVERIFY(!drafter.propose(4, 40, {}).bytes.empty());
      QVERIFY2(model->passes <= 16 + 4, qPrintable(QString("%1 passes").arg(model->passes)));
    }
  }

  void aModelThatDrawsByItselfIsAskedOnce() {
    const auto model = std::make_shared<CountingModel>(draftModel(false), true);
    SubwordDrafter drafter(model, bundledTokenizer());
    drafter.reset(toBytes("It was the best of times, it was "), {});
    model->passes = 0;
    QCOMPARE(drafter.propose(6, 200, {}).tokens.size(), std::size_t{6});
    QVERIFY2(model->passes <= 2, qPrintable(QString("%1 passes").arg(model->passes)));
  }

  void onlyTheEndOfALongTextIsRead() {
    SubwordDrafter drafter(draftModel(false), bundledTokenizer());
    const Bytes text = excerpt(0, SubwordDrafter::kContextBytes + 900);
    drafter.reset(text, {});
    const Draft whole = drafter.propose(6, 60, {});
    drafter.reset({}, {});
    drafter.reset(ByteView(text).last(SubwordDrafter::kContextBytes), {});
    QVERIFY(same(whole, drafter.propose(6, 60, {})));
  }

  void aStopLosesTheTextUntilTheNextReset() {
    SubwordDrafter drafter(draftModel(false), bundledTokenizer());
    std::stop_source source;
    source.request_stop();
    const Bytes text = excerpt(500, 200);
    QVERIFY(thrown<Stopped>([&] { drafter.reset(text, source.get_token()); }));
    QVERIFY(drafter.propose(4, 40, {}).bytes.empty());
    drafter.reset(text, {});
    const Draft draft = drafter.propose(4, 40, {});
    QVERIFY(!draft.bytes.empty());
    // A stop between tokens of a proposal loses nothing.
    drafter.append(ByteView(draft.bytes).first(1));
    QVERIFY(thrown<Stopped>([&] { drafter.propose(6, 60, source.get_token()); }));
    Bytes longer = text;
    longer.push_back(draft.bytes[0]);
    drafter.reset(longer, {});
    const Draft again = drafter.propose(6, 60, {});
    drafter.reset({}, {});
    drafter.reset(longer, {});
    QVERIFY(same(again, drafter.propose(6, 60, {})));
  }

  void refusesATokenizerLargerThanTheVocabulary() {
    ModelConfig config = smallConfig();
    config.vocabSize = 4095;
    const auto model = modelOf(MemoryWeights(config, 1));
    const auto error =
        thrown<RequestError>([&] { SubwordDrafter drafter(model, bundledTokenizer()); });
    QVERIFY(error);
    QVERIFY(mentions(error->what(), "4096", "4095"));
  }

  void tokensWithoutBytesEndADraft() {
    const TemporaryFolder folder;
    nlohmann::json json = tokenizerJson({{" ", "a"}});
    writeFile(folder / "tokenizer.json", json.dump());
    const auto tokenizer = std::make_shared<const Tokenizer>(folder / "tokenizer.json");
    ModelConfig config = smallConfig();
    config.vocabSize = 4096;  // most of which stand for nothing
    SubwordDrafter drafter(modelOf(MemoryWeights(config, 2)), tokenizer);
    drafter.configure({.healing = false});
    for (int i = 0; i < 40; ++i) {
      drafter.reset(excerpt(std::size_t(i) * 900, 40), {});
      const Draft draft = drafter.propose(6, 60, {});
      for (const DraftToken& token : draft.tokens) QVERIFY(token.id <= 256);
    }
  }
};

QTEST_GUILESS_MAIN(DrafterTest)
#include "test_drafter.moc"
