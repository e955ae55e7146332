// Bits per byte and word perplexity, from first principles and against the published figure.
#include <QtTest>
#include <cmath>
#include <numbers>

#include "engine/error.h"
#include "engine/evaluation/evaluation.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/single_steps.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/tokenizer_files.h"

using namespace mb;
using namespace mb::test;

namespace {

Bytes dataFile(const char* name) {
  return toBytes(readFile(std::filesystem::path(MB_TEST_DATA) / name));
}

double bitsOf(std::span<const float> logits, std::size_t token) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return (top + std::log(sum) - logits[token]) / std::numbers::ln2;
}

std::shared_ptr<const Model> byteModel() {
  ModelConfig config = smallConfig();
  config.tiedHead = false;
  return modelOf(MemoryWeights(config, 61));
}

std::uint64_t wordsIn(std::string_view text) {
  return countWords(toBytes(text));
}

bool isClose(double a, double b) {
  return std::abs(a - b) <= 1e-6 * std::abs(b);
}

}  // namespace

class EvaluationTest : public QObject {
  Q_OBJECT

 private slots:
  void bitsPerByteIsTheMeanSurprisal() {
    const auto model = byteModel();
    Random random(1);
    for (const std::size_t size : {2u, 63u, 64u, 65u, 300u}) {
      const Bytes text = random.bytes(size);
      const auto logits = logitsAlong(*model, text);
      double bits = 0;
      for (std::size_t i = 1; i < size; ++i) bits += bitsOf(logits[i], text[i]);
      const Evaluation result = evaluate(*model, nullptr, text, {}, {});
      QCOMPARE(result.bytes, std::uint64_t{size - 1});
      QVERIFY(isClose(result.bitsPerByte, bits / static_cast<double>(size - 1)));
      QVERIFY(isClose(result.bytesPerSecond() * result.seconds, double(result.bytes)));
    }
  }

  void textsWithoutAScoredByteHaveNoFigures() {
    const auto model = byteModel();
    for (const char* text : {"", "a"}) {
      const Evaluation result = evaluate(*model, nullptr, toBytes(text), {}, {});
      QCOMPARE(result.bytes, std::uint64_t{0});
      QCOMPARE(result.bitsPerByte, 0.0);
      QCOMPARE(result.standardError, 0.0);
    }
  }

  void theStandardErrorIsThatOfBlockMeans() {
    SurprisalSum sum;
    QCOMPARE(sum.standardError(), 0.0);
    const double blocks[] = {1.0, 2.0, 4.0, 1.5};
    for (const double bits : blocks) {
      for (int i = 0; i < 1024; ++i) sum.add(bits, 1);
      if (&bits == &blocks[0]) QCOMPARE(sum.standardError(), 0.0);
    }
    // Mean 2.125; squares 1.265625 + 0.015625 + 3.515625 + 0.390625 = 5.1875; / 3 / 4.
    const double expected = std::sqrt(5.1875 / 3 / 4);
    QVERIFY(isClose(sum.standardError(), expected));
    QVERIFY(isClose(sum.bitsPerByte(), 2.125));
    for (int i = 0; i < 1000; ++i) sum.add(100, 1);  // a block that is not whole counts for nothing
    QVERIFY(isClose(sum.standardError(), expected));
    QCOMPARE(sum.bytes(), std::uint64_t{5096});
  }

  void tokensCountInTheBlockTheyStartIn() {
    SurprisalSum sum;
    for (int i = 0; i < 204; ++i) sum.add(5, 5);  // 1020 bytes
    sum.add(12, 6);                               // 1026: closes the first block
    for (int i = 0; i < 1022; ++i) sum.add(3, 1);
    sum.add(6, 2);  // 1024: closes the second
    const double first = (204 * 5 + 12) / 1026.0;
    const double difference = 3 - first;
    QVERIFY(isClose(sum.standardError(), std::abs(difference) / 2));  // of two values
    QVERIFY(isClose(sum.bits(), 204 * 5 + 12 + 1022 * 3 + 6));
  }

  void theErrorOfAWholeEvaluationIsTheSame() {
    const auto model = byteModel();
    Random random(2);
    const Bytes text = random.bytes(3500);
    const auto logits = logitsAlong(*model, text);
    SurprisalSum sum;
    for (std::size_t i = 1; i < text.size(); ++i) sum.add(bitsOf(logits[i], text[i]), 1);
    const Evaluation result = evaluate(*model, nullptr, text, {}, {});
    QVERIFY(result.standardError > 0);
    QVERIFY(std::abs(result.standardError - sum.standardError()) < 1e-6);
  }

  void aContextBeginsWithAnEmptyState() {
    const auto model = byteModel();
    Random random(4);
    const Bytes text = random.bytes(700);
    double bits = 0;
    std::uint64_t bytes = 0;
    for (std::size_t first = 0; first < text.size(); first += 300) {
      const Evaluation part =
          evaluate(*model, nullptr,
                   ByteView(text).subspan(first, std::min<std::size_t>(300, 700 - first)), {}, {});
      bits += part.bitsPerByte * double(part.bytes);
      bytes += part.bytes;
    }
    const Evaluation whole = evaluate(*model, nullptr, text, {}, {}, 300);
    QCOMPARE(whole.bytes, bytes);
    QVERIFY(isClose(whole.bitsPerByte, bits / double(bytes)));
    QVERIFY(!isClose(whole.bitsPerByte, evaluate(*model, nullptr, text, {}, {}).bitsPerByte));
  }

  void surprisalIsCountedByPosition() {
    const auto model = byteModel();
    Random random(5);
    const Bytes text = random.bytes(600);
    std::vector<double> expected(4);
    std::vector<std::uint64_t> counts(4);
    for (std::size_t first = 0; first < 600; first += 300) {
      const auto logits = logitsAlong(*model, ByteView(text).subspan(first, 300));
      for (std::size_t i = 1; i < 300; ++i) {
        const std::size_t bucket = i < 64 ? 0 : i < 128 ? 1 : i < 256 ? 2 : 3;
        expected[bucket] += bitsOf(logits[i], text[first + i]);
        ++counts[bucket];
      }
    }
    const Evaluation result = evaluate(*model, nullptr, text, {}, {}, 300);
    QCOMPARE(result.positions.size(), std::size_t{4});
    for (std::size_t i = 0; i < 4; ++i) {
      const PositionBucket& bucket = result.positions[i];
      QCOMPARE(bucket.begin, std::uint64_t(i == 0 ? 0 : 32 << i));
      QCOMPARE(bucket.end, std::uint64_t(64 << i));
      QCOMPARE(bucket.sum.bytes(), counts[i]);
      QVERIFY(isClose(bucket.sum.bits(), expected[i]));
    }
  }

  void wordsAreRunsOfWhatIsNotSpace() {
    const std::pair<const char*, std::uint64_t> cases[] = {{"", 0},
                                                           {"   ", 0},
                                                           {"one", 1},
                                                           {"one two", 2},
                                                           {" one  two ", 2},
                                                           {"a\tb\nc\rd\ve\ff", 6},
                                                           {"don't stop-me", 2},
                                                           {"— ,", 2},
                                                           {"a\u00a0b", 1},
                                                           {"\xff \xfe", 2},
                                                           {"x\n\n\ny\n", 2}};
    for (const auto& [text, words] : cases) QCOMPARE(wordsIn(text), words);
    QCOMPARE(wordsIn(std::string_view("a\0b", 3)), std::uint64_t{1});
  }

  void wordsAreCountedAsWcDoes() {  // wc -w tests/data/books-*.txt
    QCOMPARE(countWords(dataFile("books-test-excerpt.txt")), std::uint64_t{9981});
    QCOMPARE(countWords(dataFile("books-valid-200000.txt")), std::uint64_t{3078});
  }

  void wordPerplexityFollowsFromBitsPerByte() {
    const auto model = byteModel();
    const Bytes text = toBytes("It was the best of times, it was the worst of times.\n");
    const Evaluation result = evaluate(*model, nullptr, text, {}, {});
    QCOMPARE(result.words, std::uint64_t{12});
    // exp(bpb · ln 2 · L_B / L_W), MODEL.md section 6
    const double expected =
        std::exp(result.bitsPerByte * std::numbers::ln2 * static_cast<double>(result.bytes) / 12);
    QVERIFY(isClose(result.wordPerplexity, expected));
    SurprisalSum sum;
    sum.add(10, 4);
    QVERIFY(isClose(sum.wordPerplexity(2), 32));  // 2^(10 / 2)
    QVERIFY(std::isnan(sum.wordPerplexity(0)));
    // PG19: 0.930 bits per byte are a word perplexity of about 45.7.
    SurprisalSum pg19;
    pg19.add(0.930 * 41289101, 41289101);
    QVERIFY(std::abs(pg19.wordPerplexity(6965511) - 45.7) < 0.1);
  }

  // Bytes 200,000 .. 216,384 of books-valid; the models' README has the figure.
  void theBundledModelReachesItsFigure() {
    const auto model = openModel(bundledFolder("books"), WeightPrecision::BFloat16);
    const Bytes text = dataFile("books-valid-200000.txt");
    QCOMPARE(text.size(), std::size_t{16384});
    const Evaluation result = evaluate(*model, nullptr, text, {}, {});
    QVERIFY2(std::abs(result.bitsPerByte - 1.2472) < 0.002,
             qPrintable(QString::number(result.bitsPerByte, 'f', 5)));
    QVERIFY(result.standardError > 0.005 && result.standardError < 0.1);
  }

  void aSubwordModelIsMeasuredByTheBytesOfItsTokens() {
    const auto model = openModel(bundledFolder("books-draft"), WeightPrecision::BFloat16);
    const Tokenizer tokenizer(model->info().tokenizer);
    const Bytes text =
        toBytes("It was the best of times, it was the worst of times; caf\u00e9s \xff!\n");
    const std::vector<Token> tokens = tokenizer.encode(text);
    const auto runner = model->newRunner();
    State state = model->newState();
    double bits = 0;
    std::size_t bytes = 0;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      runner->advance(state, state, {&tokens[i], 1}, {});
      bits += bitsOf(runner->logits(0), static_cast<std::size_t>(tokens[i + 1]));
      bytes += tokenizer.bytes(tokens[i + 1]).size();
    }
    const Evaluation result = evaluate(*model, &tokenizer, text, {}, {});
    QCOMPARE(result.bytes, std::uint64_t{bytes});
    QCOMPARE(bytes, text.size() - tokenizer.bytes(tokens[0]).size());
    QVERIFY(isClose(result.bitsPerByte, bits / static_cast<double>(bytes)));
    QVERIFY(result.bitsPerByte < 4);
  }

  void aSubwordModelNeedsATokenizerThatFits() {
    const auto model = openModel(goldenFolder("subword"));
    QVERIFY(thrown<RequestError>([&] { evaluate(*model, nullptr, toBytes("abc"), {}, {}); }));
    const Tokenizer large(bundledFolder("books-draft") / "tokenizer.json");
    const auto error =
        thrown<RequestError>([&] { evaluate(*model, &large, toBytes("abc"), {}, {}); });
    QVERIFY(error);
    QVERIFY(mentions(error->what(), "4096", "1000"));
    const TemporaryFolder folder;
    writeFile(folder / "tokenizer.json", tokenizerJson({{"a", "b"}}).dump());
    const Tokenizer small(folder / "tokenizer.json");
    QCOMPARE(evaluate(*model, &small, toBytes("abcab"), {}, {}).bytes, std::uint64_t{3});
  }

  void progressRunsToTheEnd() {
    const auto model = byteModel();
    Random random(3);
    std::vector<std::uint64_t> done;
    evaluate(*model, nullptr, random.bytes(500),
             [&](std::uint64_t bytes, std::uint64_t total) {
               QCOMPARE(total, std::uint64_t{500});
               done.push_back(bytes);
             },
             {});
    QVERIFY(done.size() > 3);
    QVERIFY(std::ranges::is_sorted(done));
    QCOMPARE(done.back(), std::uint64_t{499});
  }

  void stopsAtOnceAndInTheMiddle() {
    const auto model = byteModel();
    Random random(4);
    const Bytes text = random.bytes(1000);
    std::stop_source early;
    early.request_stop();
    QVERIFY(thrown<Stopped>([&] { evaluate(*model, nullptr, text, {}, early.get_token()); }));
    std::stop_source source;
    int calls = 0;
    const auto progress = [&](std::uint64_t, std::uint64_t) {
      if (++calls == 3) source.request_stop();
    };
    QVERIFY(
        thrown<Stopped>([&] { evaluate(*model, nullptr, text, progress, source.get_token()); }));
    QCOMPARE(calls, 3);
  }
};

QTEST_GUILESS_MAIN(EvaluationTest)
#include "test_evaluation.moc"
