// Learning byte-pair encodings: the same merges as counting everything anew before each of them, in
// files that encode as they were learned.
#include <QtTest>
#include <map>
#include <set>

#include "engine/error.h"
#include "engine/tokenizer/bpe_trainer.h"
#include "engine/tokenizer/byte_level.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/tokenizer_files.h"

using namespace mb;
using namespace mb::test;
using Json = nlohmann::json;

namespace {

using Pair = std::pair<Token, Token>;

BpeVocabulary learn(ByteView text, const BpeTraining& training) {
  BpeTrainer trainer(training);
  trainer.add(text);
  return trainer.learn();
}

BpeVocabulary learn(std::string_view text, const BpeTraining& training) {
  return learn(toBytes(text), training);
}

/// The merges in the alphabet's characters: "a+b ab+c".
std::string mergesOf(const BpeVocabulary& vocabulary) {
  const auto text = [&](Token token) {
    return alphabetText(vocabulary.tokens[static_cast<std::size_t>(token)]);
  };
  std::string merges;
  for (const auto& [left, right] : vocabulary.merges) {
    if (!merges.empty()) merges += ' ';
    merges += text(left) + '+' + text(right);
  }
  return merges;
}

Tokenizer load(const BpeVocabulary& vocabulary) {
  const TemporaryFolder folder;
  writeFile(folder / "tokenizer.json", tokenizerJsonText(vocabulary));
  return Tokenizer(folder / "tokenizer.json");
}

Bytes bookExcerpt() {
  return toBytes(readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt"));
}

/// Random letters, few enough that they repeat.
Bytes randomText(Random& random, std::string_view letters, std::size_t size) {
  Bytes text(size);
  for (Byte& byte : text) byte = static_cast<Byte>(letters[random.below(letters.size())]);
  return text;
}

/// A text in pieces of tokens, and how often each piece occurs.
using Pieces = std::map<std::vector<Token>, std::uint64_t>;

/// Pieces of a text split as a whole, each byte a token of the alphabet.
Pieces piecesOf(ByteView text, const std::vector<Bytes>& alphabet) {
  std::vector<Token> tokenOf(256);
  for (std::size_t id = 0; id < 256; ++id) tokenOf[alphabet[id][0]] = static_cast<Token>(id);
  Pieces pieces;
  std::size_t start = 0;
  for (const std::size_t length : PieceSplitter().split(text)) {
    std::vector<Token> piece;
    for (const Byte byte : text.subspan(start, length)) piece.push_back(tokenOf[byte]);
    ++pieces[piece];
    start += length;
  }
  return pieces;
}

std::vector<Token> merged(const std::vector<Token>& piece, Pair pair, Token result) {
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const bool here = i + 1 < piece.size() && Pair(piece[i], piece[i + 1]) == pair;
    tokens.push_back(here ? result : piece[i]);
    if (here) ++i;
  }
  return tokens;
}

/// The textbook's way: counts all pairs anew before every merge.
class SlowTrainer {
 public:
  SlowTrainer(ByteView text, const BpeTraining& training) : m_training(training) {
    for (int byte = 0; byte < 256; ++byte) vocabulary.tokens.push_back({static_cast<Byte>(byte)});
    std::ranges::sort(vocabulary.tokens, {}, [](const Bytes& byte) { return alphabetText(byte); });
    m_pieces = piecesOf(text, vocabulary.tokens);
    while (vocabulary.tokens.size() < training.vocabularySize && step()) continue;
    vocabulary.textBytes = text.size();
    for (const auto& [piece, count] : m_pieces) vocabulary.textTokens += piece.size() * count;
  }

  BpeVocabulary vocabulary;

 private:
  Bytes joined(Pair pair) const {
    Bytes bytes = vocabulary.tokens[static_cast<std::size_t>(pair.first)];
    const Bytes& end = vocabulary.tokens[static_cast<std::size_t>(pair.second)];
    bytes.insert(bytes.end(), end.begin(), end.end());
    return bytes;
  }

  std::optional<Pair> mostFrequent() const {
    std::map<Pair, std::uint64_t> counts;
    for (const auto& [piece, count] : m_pieces)
      for (std::size_t i = 0; i + 1 < piece.size(); ++i) counts[{piece[i], piece[i + 1]}] += count;
    std::optional<Pair> best;
    for (const auto& [pair, count] : counts) {
      if (count < m_training.leastCount || joined(pair).size() > m_training.longestToken) continue;
      if (!best || count > counts.at(*best)) best = pair;
    }
    return best;
  }

  bool step() {
    const std::optional<Pair> best = mostFrequent();
    if (!best) return false;
    const auto result = static_cast<Token>(vocabulary.tokens.size());
    vocabulary.tokens.push_back(joined(*best));
    vocabulary.merges.push_back(*best);
    Pieces pieces;
    for (const auto& [piece, count] : m_pieces) pieces[merged(piece, *best, result)] += count;
    m_pieces = std::move(pieces);
    return true;
  }

  BpeTraining m_training;
  Pieces m_pieces;
};

/// Merges the first learned pair in each piece, the leftmost first, until none is left.
std::vector<Token> encodedSlowly(const BpeVocabulary& vocabulary, ByteView text) {
  std::map<std::string, Token> tokenOf;
  for (const Bytes& token : vocabulary.tokens)
    tokenOf.emplace(toText(token), static_cast<Token>(tokenOf.size()));
  std::map<Pair, std::size_t> rankOf;
  for (const Pair& merge : vocabulary.merges) rankOf.emplace(merge, rankOf.size());
  const auto joinFirst = [&](std::vector<std::string>& parts) {
    std::size_t best = parts.size();
    std::size_t lowest = rankOf.size();
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = rankOf.find({tokenOf.at(parts[i]), tokenOf.at(parts[i + 1])});
      if (rank == rankOf.end() || rank->second >= lowest) continue;
      best = i;
      lowest = rank->second;
    }
    if (best == parts.size()) return false;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    return true;
  };
  std::vector<Token> tokens;
  std::size_t start = 0;
  for (const std::size_t length : PieceSplitter().split(text)) {
    std::vector<std::string> parts;
    for (const char byte : toText(text.subspan(start, length))) parts.emplace_back(1, byte);
    while (joinFirst(parts)) continue;
    for (const std::string& part : parts) tokens.push_back(tokenOf.at(part));
    start += length;
  }
  return tokens;
}

bool isSame(const BpeVocabulary& a, const BpeVocabulary& b) {
  return a.tokens == b.tokens && a.merges == b.merges && a.textBytes == b.textBytes &&
         a.textTokens == b.textTokens;
}

QString nameOf(const BpeTraining& training) {
  return QString("%1 tokens, least %2, longest %3")
      .arg(training.vocabularySize)
      .arg(training.leastCount)
      .arg(training.longestToken);
}

/// What a tokenizer.json holds, its ids taken to be in order.
BpeVocabulary vocabularyOf(const std::filesystem::path& file) {
  const Json model = Json::parse(readFile(file)).at("model");
  BpeVocabulary vocabulary;
  vocabulary.tokens.resize(model.at("vocab").size());
  for (const auto& [text, id] : model.at("vocab").items())
    vocabulary.tokens.at(id.get<std::size_t>()) = bytesOfAlphabet(text).value();
  for (const Json& merge : model.at("merges")) {
    const auto part = [&](std::size_t i) {
      return model.at("vocab").at(merge[i].get<std::string>()).get<Token>();
    };
    vocabulary.merges.emplace_back(part(0), part(1));
  }
  return vocabulary;
}

}  // namespace

class BpeTrainerTest : public QObject {
  Q_OBJECT

 private slots:
  void mergesAreThoseFoundByHand_data() {
    QTest::addColumn<QByteArray>("text");
    QTest::addColumn<QByteArray>("merges");
    QTest::addColumn<int>("tokens");  // that the text takes in the end
    const auto row = [](const char* text, const char* merges, int tokens) {
      QTest::newRow(text) << QByteArray(text) << QByteArray(merges) << tokens;
    };
    // "aa" occurs 4 times. With Z for it, ZabdZabac holds "Za" and "ab" twice, and "a" has the
    // smaller id; ZYdZYac holds "ZY" twice.
    row("aaabdaaabac", "a+a a+b aa+ab", 5);
    // "low" once, " low" twice, " lower" once, " new" twice: "lo" and "ow" occur 4 times, " low" 3
    // times; of "ew", "ne" and " n" the one whose left letter comes first, the space being last.
    row("low low low lower new new", "l+o lo+w Ġ+low e+w n+ew Ġ+new", 8);
    row("abababab", "a+b ab+ab", 2);  // abab would go on, but occurs next to itself only once
    row("aaa", "a+a", 2);             // "aa" occurs twice, though only one can be merged
    row("aaaaa aaaaa", "a+a aa+a aa+aaa", 3);
    row("xy xy", "x+y", 3);
    row("ab ba", "", 5);  // pieces are not joined
    row("ab", "", 2);
  }
  void mergesAreThoseFoundByHand() {
    QFETCH(QByteArray, text);
    QFETCH(QByteArray, merges);
    QFETCH(int, tokens);
    const BpeVocabulary v = learn(text.toStdString(), {.vocabularySize = 1000});
    QCOMPARE(QByteArray::fromStdString(mergesOf(v)), merges);
    QCOMPARE(v.textTokens, static_cast<std::uint64_t>(tokens));
    QCOMPARE(v.textBytes, static_cast<std::uint64_t>(text.size()));
    QCOMPARE(v.tokens.size(), 256 + v.merges.size());
  }

  void theAlphabetComesFirstInItsOrder() {
    const BpeVocabulary bundled = vocabularyOf(bundledFolder("books-draft") / "tokenizer.json");
    const BpeVocabulary v = learn("ab", {.vocabularySize = 300});
    QCOMPARE(v.tokens.size(), std::size_t{256});
    QVERIFY(std::equal(v.tokens.begin(), v.tokens.end(), bundled.tokens.begin()));
  }

  void randomTextLearnsWhatCountingAnewLearns_data() {
    QTest::addColumn<QByteArray>("letters");
    for (const char* letters : {"a", "ab", "aab ", "abc", "ab\n ", "abcd'st 12", "\xc3\xa9\xe9 a"})
      QTest::newRow(QByteArray(letters).toPercentEncoding(" '")) << QByteArray(letters);
    QByteArray all;
    for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
    QTest::newRow("all bytes") << all;
  }
  void randomTextLearnsWhatCountingAnewLearns() {
    QFETCH(QByteArray, letters);
    Random random(7);
    for (int trial = 0; trial < 60; ++trial) {
      const Bytes text = randomText(random, letters.toStdString(), 1 + random.below(400));
      const BpeTraining training{.vocabularySize = 257 + random.below(60),
                                 .leastCount = random.below(4),
                                 .longestToken = 1 + random.below(20)};
      const SlowTrainer slow(text, training);
      QVERIFY2(isSame(learn(text, training), slow.vocabulary), qPrintable(nameOf(training)));
    }
  }

  void everyTokenHasBytesOfItsOwn() {
    Random random(8);
    for (int trial = 0; trial < 100; ++trial) {
      const BpeVocabulary v = learn(randomText(random, "aab", 2000), {.vocabularySize = 600});
      std::set<std::string> different;
      for (const Bytes& token : v.tokens) different.emplace(toText(token));
      QCOMPARE(different.size(), v.tokens.size());
      QCOMPARE(v.merges.size(), v.tokens.size() - 256);
    }
  }

  void proseLearnsWhatCountingAnewLearns() {
    const Bytes text = bookExcerpt();
    const BpeTraining training{.vocabularySize = 500};
    QVERIFY(isSame(learn(text, training), SlowTrainer(text, training).vocabulary));
  }

  // It is counted a megabyte at a time. With merges of what occurs once, every piece shows.
  void longTextIsSplitAsAWhole_data() {
    QTest::addColumn<QByteArray>("letters");
    QTest::newRow("line ends after everything") << QByteArray("ab'  \n\r\n\t1.\xc3\xa9");
    QTest::newRow("mostly space") << QByteArray("a \n\n");
    QTest::newRow("no line end after a visible character") << QByteArray("\xc3\xa9 \n");
    QTest::newRow("hardly any line end") << QByteArray("aab's  .") + QByteArray(20, 'x') + '\n';
  }
  void longTextIsSplitAsAWhole() {
    QFETCH(QByteArray, letters);
    Random random(9);
    const BpeTraining training{.vocabularySize = 600, .leastCount = 1};
    for (int trial = 0; trial < 10; ++trial) {
      Bytes text = toBytes(QByteArray("y ").repeated((1 << 19) - 20).toStdString());
      const Bytes border = randomText(random, letters.toStdString(), 150);
      text.insert(text.end(), border.begin(), border.end());
      QVERIFY(isSame(learn(text, training), SlowTrainer(text, training).vocabulary));
    }
  }

  void longMonotonyIsLearnedInTime_data() {
    QTest::addColumn<QByteArray>("letters");
    for (const char* letters : {"a", "ab", "acgt", " ", "\xff"})
      QTest::newRow(QByteArray(letters).toPercentEncoding()) << QByteArray(letters);
  }
  void longMonotonyIsLearnedInTime() {  // one piece; a quadratic method would take hours
    QFETCH(QByteArray, letters);
    Random random(10);
    const Bytes text = randomText(random, letters.toStdString(), 1'000'000);
    const BpeVocabulary v = learn(text, {.vocabularySize = 1500, .longestToken = 1000});
    QVERIFY(v.textTokens < text.size() / 4);
  }

  void whatIsWrittenIsReadBack() {
    const BpeVocabulary v = learn(bookExcerpt(), {.vocabularySize = 700});
    const Tokenizer t = load(v);
    QCOMPARE(t.vocabularySize(), std::size_t{700});
    for (std::size_t id = 0; id < v.tokens.size(); ++id)
      QVERIFY(std::ranges::equal(t.bytes(static_cast<Token>(id)), v.tokens[id]));
  }

  void filesAreWrittenAsByTheTokenizersLibrary() {
    const auto file = std::filesystem::path(MB_TEST_DATA) / "tokenizer-of-tokenizers.json";
    QCOMPARE(QByteArray::fromStdString(tokenizerJsonText(vocabularyOf(file))),
             QByteArray::fromStdString(readFile(file)));
  }

  void anyBytesSurviveWhatWasLearned() {
    Random random(11);
    const Bytes noise = random.bytes(5000);
    for (const Bytes& text : {bookExcerpt(), noise}) {
      const Tokenizer t = load(learn(text, {.vocabularySize = 600}));
      for (int trial = 0; trial < 200; ++trial) {
        const Bytes bytes = random.bytes(random.below(300));
        QVERIFY(t.decode(t.encode(bytes)) == bytes);
      }
      QVERIFY(t.decode(t.encode(text)) == text);
    }
  }

  void textIsEncodedByTheMergesInOrder() {
    const Bytes text = bookExcerpt();
    const BpeVocabulary v = learn(ByteView(text).first(30000), {.vocabularySize = 800});
    const Tokenizer t = load(v);
    QVERIFY(t.encode(text) == encodedSlowly(v, text));
    Random random(12);
    for (int trial = 0; trial < 100; ++trial) {
      const Bytes letters = randomText(random, " etaoinshr\n", 200);
      QVERIFY(t.encode(letters) == encodedSlowly(v, letters));
    }
  }

  void theTextTakesTheTokensCounted() {
    Random random(16);
    for (const Bytes& text : {bookExcerpt(), randomText(random, "aab '", 20000)}) {
      const BpeVocabulary v = learn(text, {.vocabularySize = 2000});
      QCOMPARE(static_cast<std::uint64_t>(load(v).encode(text).size()), v.textTokens);
    }
  }

  void textsCountTogetherAndAreNotJoined() {
    BpeTrainer trainer({.vocabularySize = 300});
    for (const char* text : {"ab", "ab", "", "cd", "cd", "cd"}) trainer.add(toBytes(text));
    const BpeVocabulary v = trainer.learn();
    QCOMPARE(mergesOf(v), std::string("c+d a+b"));
    QCOMPARE(v.textBytes, std::uint64_t{10});
    QCOMPARE(v.textTokens, std::uint64_t{5});
  }

  void theOrderOfTextsDoesNotMatter() {
    const Bytes text = bookExcerpt();
    const ByteView parts[] = {ByteView(text).first(20000), ByteView(text).subspan(20000)};
    BpeTrainer one({.vocabularySize = 1000});
    BpeTrainer other({.vocabularySize = 1000});
    for (const int i : {0, 1}) one.add(parts[i]);
    for (const int i : {1, 0}) other.add(parts[i]);
    QVERIFY(isSame(one.learn(), other.learn()));
    QVERIFY(isSame(one.learn(), one.learn()));
  }

  void tokensAreNotLongerThanAsked_data() {
    QTest::addColumn<std::size_t>("longest");
    for (const std::size_t longest : {1, 2, 3, 7}) QTest::addRow("%zu bytes", longest) << longest;
  }
  void tokensAreNotLongerThanAsked() {
    QFETCH(std::size_t, longest);
    Random random(15);
    const BpeVocabulary v =
        learn(randomText(random, "ab", 5000), {.vocabularySize = 1000, .longestToken = longest});
    std::size_t found = 0;
    for (const Bytes& token : v.tokens) found = std::max(found, token.size());
    QCOMPARE(found, longest);
  }

  void tokensHaveAtMost16BytesByDefault() {
    const BpeVocabulary v = learn(std::string(1000, 'a'), {.vocabularySize = 300});
    QCOMPARE(mergesOf(v), std::string("a+a aa+aa aaaa+aaaa aaaaaaaa+aaaaaaaa"));
  }

  void rarePairsAreNotMerged() {
    const std::string text = "ab ab ab cd cd";
    const auto merges = [&](std::size_t least) {
      return mergesOf(learn(text, {.vocabularySize = 300, .leastCount = least}));
    };
    QCOMPARE(merges(4), std::string());
    QCOMPARE(merges(3), std::string("a+b"));
    QCOMPARE(merges(2), std::string("a+b c+d Ġ+ab Ġ+cd"));
    QCOMPARE(merges(1), merges(2));
    QCOMPARE(merges(0), merges(1));
  }

  void learningEndsWithTheTokensWanted() {
    const Bytes text = bookExcerpt();
    for (const std::size_t size : {257, 258, 1000})
      QCOMPARE(learn(text, {.vocabularySize = size}).tokens.size(), size);
  }

  void sizesOutOfRangeAreRefused_data() {
    QTest::addColumn<std::size_t>("size");
    for (const std::size_t size : {std::size_t{0}, std::size_t{256}, std::size_t{65537}})
      QTest::addRow("%zu tokens", size) << size;
  }
  void sizesOutOfRangeAreRefused() {
    QFETCH(std::size_t, size);
    const auto error =
        thrown<RequestError>([&] { BpeTrainer trainer(BpeTraining{.vocabularySize = size}); });
    QVERIFY(error);
    QVERIFY2(mentions(error->what(), "257 to 65536", "found " + std::to_string(size)),
             error->what());
  }

  void sizesAtTheEndsOfTheRangeAreTaken() {
    for (const std::size_t size : {257, 65536})
      QCOMPARE(mergesOf(learn("abab", {.vocabularySize = size})), std::string("a+b"));
  }

  void nothingToLearnFromIsRefused() {
    BpeTrainer trainer({.vocabularySize = 300});
    trainer.add({});
    const auto error = thrown<RequestError>([&] { trainer.learn(); });
    QVERIFY(error);
    QVERIFY2(mentions(error->what(), "text", "expected", "found none"), error->what());
  }

  void progressReachesItsEnd() {
    Random random(13);
    const Bytes text = randomText(random, "ab\n", 2'500'000);
    std::vector<std::uint64_t> bytes;
    std::vector<std::uint64_t> tokens;
    BpeTrainer trainer({.vocabularySize = 280});
    trainer.add(text, [&](std::uint64_t done, std::uint64_t total) {
      QCOMPARE(total, static_cast<std::uint64_t>(text.size()));
      bytes.push_back(done);
    });
    trainer.learn([&](std::uint64_t done, std::uint64_t total) {
      QCOMPARE(total, std::uint64_t{280});
      tokens.push_back(done);
    });
    QCOMPARE(bytes.size(), std::size_t{3});
    QVERIFY(std::ranges::is_sorted(bytes) && std::ranges::is_sorted(tokens));
    QCOMPARE(bytes.back(), static_cast<std::uint64_t>(text.size()));
    QCOMPARE(tokens.back(), std::uint64_t{280});
  }

  void aStopEndsCounting() {
    Random random(13);
    const Bytes text = randomText(random, "ab\n", 2'500'000);
    std::stop_source stop;
    int calls = 0;
    BpeTrainer trainer({.vocabularySize = 300});
    const auto stopAtOnce = [&](std::uint64_t, std::uint64_t) {
      ++calls;
      stop.request_stop();
    };
    QVERIFY(thrown<Stopped>([&] { trainer.add(text, stopAtOnce, stop.get_token()); }));
    QCOMPARE(calls, 1);
  }

  void aStopEndsLearningAndSpoilsNothing() {
    BpeTrainer trainer({.vocabularySize = 300});
    trainer.add(bookExcerpt());
    const BpeVocabulary whole = trainer.learn();
    std::stop_source stop;
    std::uint64_t reached = 0;
    const auto stopAt270 = [&](std::uint64_t done, std::uint64_t) {
      reached = done;
      if (done == 270) stop.request_stop();
    };
    QVERIFY(thrown<Stopped>([&] { trainer.learn(stopAt270, stop.get_token()); }));
    QCOMPARE(reached, std::uint64_t{270});
    QVERIFY(thrown<Stopped>([&] { trainer.learn({}, stop.get_token()); }));
    QVERIFY(isSame(trainer.learn(), whole));
  }
};

QTEST_GUILESS_MAIN(BpeTrainerTest)
#include "test_bpe_trainer.moc"
