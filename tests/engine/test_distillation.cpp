// What a verifier writes for a drafter to learn, and that the drafter is accepted more often for
// it.
#include <QtTest>
#include <nlohmann/json.hpp>

#include "engine/decoding/cursor.h"
#include "engine/error.h"
#include "engine/evaluation/acceptance.h"
#include "engine/tokenizer/bpe_trainer.h"
#include "engine/training/trainer.h"
#include "engine/training/verifier_text.h"
#include "tests/support/model_files.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

Bytes excerpt(std::size_t bytes) {
  const Bytes text =
      toBytes(readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt"));
  return {text.begin(), text.begin() + std::ptrdiff_t(bytes)};
}

WritingOptions shortWriting() {
  WritingOptions options;
  options.read = 10;
  options.write = 6;
  options.bytes = 5 * WritingOptions::kStretches * options.write;
  return options;
}

std::vector<std::shared_ptr<const Model>> tinyAuthors(std::size_t count) {
  std::vector<std::shared_ptr<const Model>> authors;
  const auto model = tinyByteModel();
  for (std::size_t i = 0; i < count; ++i) authors.push_back(model->onOwnThread());
  return authors;
}

Bytes writeAll(ByteView text, const WritingOptions& options, std::size_t authors) {
  Bytes written;
  writeOn(written, text, options, tinyAuthors(authors), {}, {});
  return written;
}

/// A verifier and a drafter that have read the same short text.
class SmallPair {
 public:
  SmallPair() : m_text(excerpt(6000)) {
    BpeTrainer bpe({.vocabularySize = 400});
    bpe.add(m_text);
    writeFile(m_folder / "tokenizer.json", tokenizerJsonText(bpe.learn()));
    m_tokenizer = std::make_shared<const Tokenizer>(m_folder / "tokenizer.json");
    ModelConfig config = smallConfig();
    config.dModel = 32;
    config.dInner = 64;
    m_verifierLayout = std::make_unique<ParameterLayout>(config);
    std::vector<Token> bytes(m_text.begin(), m_text.end());
    const auto weights =
        trained(*m_verifierLayout, initialParameters(*m_verifierLayout, 1), bytes, {}, 120);
    mb::writeModel(m_folder / "verifier", *m_verifierLayout, weights);
    config = smallConfig();
    config.vocabSize = m_tokenizer->vocabularySize();
    m_drafterLayout = std::make_unique<ParameterLayout>(config);
    m_drafter = trained(*m_drafterLayout, initialParameters(*m_drafterLayout, 2),
                        m_tokenizer->encode(m_text), {}, 80);
  }

  std::shared_ptr<const Model> verifier() const { return openModel(m_folder / "verifier"); }

  std::vector<float> learnedMoreOfTheText(std::uint64_t steps) const {
    return trained(*m_drafterLayout, m_drafter, m_tokenizer->encode(m_text), {}, steps);
  }
  std::vector<float> distilled(std::uint64_t steps) const {
    WritingOptions options;
    options.bytes = 2 * WritingOptions::kStretches * options.write;
    Bytes written;
    const std::vector authors{verifier()->onOwnThread(), verifier()->onOwnThread()};
    writeOn(written, m_text, options, authors, {}, {});
    const std::vector<Token> tokens = m_tokenizer->encode(written);
    return trained(*m_drafterLayout, m_drafter, tokens,
                   tokensOfTheVerifier(tokens, m_tokenizer.get(), options), steps);
  }
  const std::vector<float>& drafter() const { return m_drafter; }

  double acceptance(const std::vector<float>& drafterWeights) const {
    mb::writeModel(m_folder / "drafter", *m_drafterLayout, drafterWeights);
    const auto drafter =
        std::make_shared<SubwordDrafter>(openModel(m_folder / "drafter"), m_tokenizer);
    GenerationSettings settings;
    settings.speculation = Speculation::Exact;
    return measureAcceptance(verifier(), drafter, m_text, settings,
                             {.prompts = 5, .promptBytes = 60, .bytes = 80}, {}, {})
        .acceptance();
  }

 private:
  std::vector<float> trained(const ParameterLayout& layout, std::vector<float> weights,
                             TokenView text, std::vector<std::uint8_t> counts,
                             std::uint64_t steps) const {
    TrainingOptions options;
    options.steps = steps;
    options.segment = 64;
    options.streams = 4;
    options.warmUp = 5;
    options.learningRate = 0.005;
    auto source = counts.empty()
                      ? std::make_unique<TextSource>(text, layout.config().vocabSize, options)
                      : std::make_unique<TextSource>(text, std::move(counts),
                                                     layout.config().vocabSize, options);
    Trainer trainer(layout, std::move(weights), std::move(source), options, m_pool);
    while (!trainer.isDone()) trainer.step({});
    return {trainer.parameters().begin(), trainer.parameters().end()};
  }

  TemporaryFolder m_folder;
  Bytes m_text;
  std::shared_ptr<const Tokenizer> m_tokenizer;
  std::unique_ptr<ParameterLayout> m_verifierLayout;
  std::unique_ptr<ParameterLayout> m_drafterLayout;
  std::vector<float> m_drafter;
  mutable cpu::ThreadPool m_pool{2};
};

}  // namespace

class DistillationTest : public QObject {
  Q_OBJECT

 private slots:
  void theVerifierGoesOnAfterEachStretchOfTheText_data() {
    QTest::addColumn<double>("temperature");
    QTest::newRow("greedy") << 0.0;
    QTest::newRow("sampled") << 0.8;
  }
  /// One byte at a time, from the beginning of the part.
  void theVerifierGoesOnAfterEachStretchOfTheText() {
    QFETCH(double, temperature);
    WritingOptions options = shortWriting();
    options.sampler.temperature = temperature;
    const Bytes text = excerpt(3000);
    const Bytes written = writeAll(text, options, 1);
    QCOMPARE(written.size(), 5 * options.partBytes());
    const auto model = tinyByteModel();
    const auto runner = model->newRunner();
    std::size_t agree = 0;
    for (std::size_t part = 0; part < 5; ++part) {
      State state = model->newState();
      std::size_t place = part * text.size() / 5;
      for (std::size_t i = 0; i < options.partBytes(); ++i) {
        const Token token = written[part * options.partBytes() + i];
        if (!options.isWritten(i))
          QCOMPARE(token, Token(text[place++ % text.size()]));
        else if (temperature == 0)
          QCOMPARE(token, argmax(runner->logits(0)));
        else
          agree += token == argmax(runner->logits(0));
        runner->advance(state, state, {&token, 1}, {LogitsWanted::Last, {}, {}});
      }
    }
    QVERIFY(agree < 300);  // of 960
  }

  void howManyWriteDoesNotMatter() {
    WritingOptions options = shortWriting();
    options.sampler.temperature = 1;
    const Bytes text = excerpt(700);
    const Bytes expected = writeAll(text, options, 1);
    QVERIFY(writeAll(text, options, 3) == expected);
    options.sampler.seed = 1;
    QVERIFY(writeAll(text, options, 3) != expected);
  }

  void partsTakeTurnsAtTheTemperatures() {
    WritingOptions options = shortWriting();
    const Bytes text = excerpt(700);
    const Bytes greedy = writeAll(text, options, 1);
    options.sampler.temperature = 1;
    const Bytes sampled = writeAll(text, options, 1);
    options.temperatures = {0, 1};
    const Bytes both = writeAll(text, options, 2);
    QCOMPARE(both.size(), greedy.size());
    const auto partOf = [&](const Bytes& bytes, std::size_t part) {
      return toText(ByteView(bytes).subspan(part * options.partBytes(), options.partBytes()));
    };
    for (std::size_t part = 0; part < options.parts(); ++part) {
      QVERIFY(partOf(greedy, part) != partOf(sampled, part));
      QVERIFY(partOf(both, part) == partOf(part % 2 == 0 ? greedy : sampled, part));
    }
  }

  void goesOnWhereItWasStopped() {
    const WritingOptions options = shortWriting();
    const Bytes text = excerpt(700);
    const TemporaryFolder folder;
    const VerifierTextFile file(folder.path(), options, "a text");
    QVERIFY(file.load().empty());
    Bytes written;
    std::stop_source stop;
    const auto stopAfterTwo = [&](std::uint64_t done, std::uint64_t total) {
      QCOMPARE(total, std::uint64_t(5 * options.partBytes()));
      if (done == 2 * options.partBytes()) stop.request_stop();
    };
    QVERIFY_EXCEPTION_THROWN(
        writeOn(written, text, options, tinyAuthors(1), stopAfterTwo, stop.get_token()), Stopped);
    QCOMPARE(written.size(), 2 * options.partBytes());
    file.save(written);
    Bytes loaded = file.load();
    QVERIFY(loaded == written);
    std::filesystem::resize_file(file.path(), written.size() - 1);
    loaded = file.load();
    QCOMPARE(loaded.size(), options.partBytes());  // whole parts only
    writeOn(loaded, text, options, tinyAuthors(2), {}, {});
    QVERIFY(loaded == writeAll(text, options, 1));
    const auto other =
        thrown<FormatError>([&] { VerifierTextFile(folder.path(), options, "another").load(); });
    QVERIFY(other && mentions(other->what(), "written.json", "another", "a text"));
  }

  void aTokenIsTheVerifiersWhenItsLastByteIs() {
    WritingOptions options;
    options.read = 3;
    options.write = 2;
    const std::vector<Token> bytes{'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k'};
    const std::vector<std::uint8_t> ofBytes{0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0};
    QCOMPARE(tokensOfTheVerifier(bytes, nullptr, options), ofBytes);
    const TemporaryFolder folder;
    BpeTrainer bpe({.vocabularySize = 300, .leastCount = 1});
    bpe.add(toBytes("ab cd ab cd ab cd"));
    writeFile(folder / "tokenizer.json", tokenizerJsonText(bpe.learn()));
    const Tokenizer tokenizer(folder / "tokenizer.json");
    const std::vector<Token> tokens = tokenizer.encode(toBytes("ab cd ab"));
    QCOMPARE(tokens.size(), std::size_t{3});  // "ab", " cd", " ab"
    QCOMPARE(tokensOfTheVerifier(tokens, &tokenizer, options),
             (std::vector<std::uint8_t>{0, 1, 0}));
  }

  void onlyWhatCountsIsATarget() {
    const std::vector<Token> text{1, 2, 3, 4, 5, 6, 7};
    TrainingOptions options;
    options.segment = 3;
    options.streams = 2;
    const TextSource source(text, {0, 1, 0, 1, 1, 0, 0}, 8, options);
    Lesson lesson;
    std::uint64_t place = source.firstPlace(0);
    source.next(place, 0, lesson);
    QCOMPARE(lesson.inputs, (std::vector<Token>{1, 2, 3}));
    QCOMPARE(lesson.targets, (std::vector<Token>{2, kNoTarget, 4}));
    source.next(place, 1, lesson);
    QCOMPARE(lesson.targets, (std::vector<Token>{5, kNoTarget, kNoTarget}));
    QVERIFY(source.hash() != TextSource(text, 8, options).hash());
  }

  void raisesAcceptance() {
    const SmallPair pair;
    constexpr std::uint64_t kSteps = 80;
    const double before = pair.acceptance(pair.drafter());
    const double onText = pair.acceptance(pair.learnedMoreOfTheText(kSteps));
    const double distilled = pair.acceptance(pair.distilled(kSteps));
    const QString figures = QString("%1, %2, %3").arg(before).arg(onText).arg(distilled);
    QVERIFY2(distilled > before + 0.05, qPrintable(figures));
    QVERIFY2(distilled > onText + 0.05, qPrintable(figures));
  }

  void refusesWhatCannotWrite() {
    const WritingOptions options = shortWriting();
    Bytes written;
    const auto refused = [&](const WritingOptions& wanted, ByteView text, const Model& model,
                             const char* why) {
      const std::vector<std::shared_ptr<const Model>> authors{
          std::shared_ptr<const Model>(&model, [](const Model*) {})};
      const auto error =
          thrown<RequestError>([&] { writeOn(written, text, wanted, authors, {}, {}); });
      return error && mentions(error->what(), why, "expected", "found") && written.empty();
    };
    const Bytes text = excerpt(100);
    const auto bytes = tinyByteModel();
    const auto subwords = openModel(goldenFolder("subword"));
    QVERIFY(refused(options, {}, *bytes, "at least 1 byte"));
    QVERIFY(refused(options, text, *subwords, "found one of 1000"));
    WritingOptions none = options;
    none.write = 0;
    QVERIFY(refused(none, text, *bytes, "bytes of a stretch"));
    none = options;
    none.read = 0;
    QVERIFY(refused(none, text, *bytes, "before a stretch"));
  }

  void acceptanceNeedsATextOfAPrompt() {
    const auto error = thrown<RequestError>([&] {
      measureAcceptance(tinyByteModel(), nullptr, excerpt(10), {}, {.promptBytes = 11}, {}, {});
    });
    QVERIFY(error && mentions(error->what(), "at least 11", "found 10"));
  }
};

QTEST_APPLESS_MAIN(DistillationTest)
#include "test_distillation.moc"
