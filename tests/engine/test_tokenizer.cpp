// Byte-pair encoding: lossless on every byte string, and token by token what the file says.
#include <QtTest>
#include <set>

#include "engine/error.h"
#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/token_tree.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/tokenizer_files.h"

using namespace mb;
using namespace mb::test;
using Json = nlohmann::json;

namespace {

using Merges = std::vector<std::pair<std::string, std::string>>;

Tokenizer load(const Json& json) {
  const TemporaryFolder folder;
  writeFile(folder / "tokenizer.json", json.dump());
  return Tokenizer(folder / "tokenizer.json");
}

std::optional<FormatError> errorOf(const std::string& content) {
  const TemporaryFolder folder;
  writeFile(folder / "tokenizer.json", content);
  auto error = thrown<FormatError>([&] { Tokenizer tokenizer(folder / "tokenizer.json"); });
  if (error && error->file() != folder / "tokenizer.json") return std::nullopt;
  return error;
}

const Tokenizer& bundled() {
  static const Tokenizer kTokenizer(bundledFolder("books-draft") / "tokenizer.json");
  return kTokenizer;
}

bool isLossless(const Tokenizer& tokenizer, ByteView text) {
  const auto tokens = tokenizer.encode(text);
  return std::ranges::equal(tokenizer.decode(tokens), text) &&
         std::ranges::none_of(tokens, [&](Token t) { return tokenizer.bytes(t).empty(); });
}

std::vector<Token> encode(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(toBytes(text));
}

std::vector<std::string> piecesOf(std::string_view text) {
  std::vector<std::string> pieces;
  const Bytes bytes = toBytes(text);
  std::size_t start = 0;
  for (const std::size_t length : PieceSplitter().split(bytes)) {
    pieces.emplace_back(text.substr(start, length));
    start += length;
  }
  if (start != text.size()) pieces.emplace_back("lost bytes");
  return pieces;
}

/// Tokens of the first `bytes` bytes; nothing when a token crosses that border.
std::optional<std::vector<Token>> tokensUpTo(const Tokenizer& tokenizer, ByteView text,
                                             std::size_t bytes) {
  std::vector<Token> kept;
  std::size_t length = 0;
  for (const Token token : tokenizer.encode(text)) {
    if (length >= bytes) break;
    kept.push_back(token);
    length += tokenizer.bytes(token).size();
  }
  return length == bytes ? std::optional(kept) : std::nullopt;
}

}  // namespace

class TokenizerTest : public QObject {
  Q_OBJECT

 private slots:
  void everyByteStringSurvives_data() {
    QTest::addColumn<QByteArray>("text");
    const auto row = [](const char* name, const QByteArray& text) { QTest::newRow(name) << text; };
    row("empty", "");
    row("prose", "It was the best of times, it was the worst of times.\n\n  \"Well!\" said he.");
    row("Windows line ends", "one\r\ntwo\r\n\r\nthree\r");
    row("emoji", "\U0001F600\U0001F468\u200D\U0001F469\u200D\U0001F467 ok \u00e9e\u0301");
    row("scripts", "日本語 العربية हिन्दी Ελληνικά");
    row("zeros", QByteArray(20, '\0'));
    row("broken UTF-8", "a\xff\xfe\xc3(\xe2\x82 \xf0\x9f\x98 \xed\xa0\x80\xc0\xaf z");
    row("UTF-8 cut short", "caf\xc3");
    row("spaces of all kinds", "a\u00a0b\u2003c\u3000d \t\v\f\n e");
    row("control bytes", "\x01\x02\x1b[0m\x7f\x80\x9f");
  }
  void everyByteStringSurvives() {
    QFETCH(QByteArray, text);
    const Bytes bytes(text.begin(), text.end());
    QVERIFY(isLossless(bundled(), bytes));
    for (std::size_t cut = 0; cut < bytes.size(); ++cut)
      QVERIFY(isLossless(bundled(), ByteView(bytes).subspan(cut)));
  }

  void everySingleByteSurvives() {
    for (int value = 0; value < 256; ++value) {
      const Byte byte = static_cast<Byte>(value);
      QVERIFY(isLossless(bundled(), {&byte, 1}));
      QCOMPARE(bundled().encode({&byte, 1}).size(), std::size_t{1});
    }
  }

  void randomBytesSurvive() {
    Random random(1);
    for (int trial = 0; trial < 300; ++trial)
      QVERIFY(isLossless(bundled(), random.bytes(random.below(200))));
  }

  void longMonotonyIsEncodedInTime_data() {
    QTest::addColumn<QByteArray>("unit");
    for (const char* unit : {"a", " ", "\n", "\xff", "!", "ab", " a", "\r\n", "\xc3\xa9", "'", "9"})
      QTest::newRow(QByteArray(unit).toHex()) << QByteArray(unit);
  }
  void longMonotonyIsEncodedInTime() {  // a quadratic method would take minutes
    QFETCH(QByteArray, unit);
    const QByteArray text = unit.repeated(200 * 1024 / static_cast<int>(unit.size()));
    QVERIFY(isLossless(bundled(), Bytes(text.begin(), text.end())));
  }

  void manyRandomBytesAreEncodedInTime() {
    Random random(2);
    QVERIFY(isLossless(bundled(), random.bytes(200 * 1024)));
  }

  void proseTakesFewTokens() {
    const std::string text =
        readFile(std::filesystem::path(MB_TEST_DATA) / "books-valid-200000.txt");
    const Bytes bytes = toBytes(text);
    QVERIFY(isLossless(bundled(), bytes));
    QVERIFY(bundled().encode(bytes).size() < bytes.size() / 3);
  }

  void bytesAreWrittenInTheAlphabetOfGpt2() {
    for (int value = 0; value < 256; ++value) {
      const Byte byte = static_cast<Byte>(value);
      const auto back = bytesOfAlphabet(alphabetText({&byte, 1}));
      QVERIFY(back && *back == Bytes{byte});
    }
    QVERIFY(bytesOfAlphabet("Ġthe") == toBytes(" the"));
    QVERIFY(bytesOfAlphabet("Ċ") == toBytes("\n"));
    QVERIFY(bytesOfAlphabet("Ã©") == toBytes("é"));
    QVERIFY(!bytesOfAlphabet(" "));
    QVERIFY(!bytesOfAlphabet("—"));
    QVERIFY(!bytesOfAlphabet("\xc4"));
  }

  void mergesApplyTheLowestRankFirst_data() {
    QTest::addColumn<bool>("asText");
    QTest::newRow("merges as pairs") << false;
    QTest::newRow("merges as text") << true;
  }
  void mergesApplyTheLowestRankFirst() {
    QFETCH(bool, asText);
    // 256 "bc", 257 "ab", 258 "abc" of "a" and "bc", 259 "cd".
    const Merges merges{{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"c", "d"}};
    const Tokenizer t = load(tokenizerJson(merges, asText));
    QCOMPARE(t.vocabularySize(), std::size_t{260});
    QCOMPARE(encode(t, "bc"), (std::vector<Token>{256}));
    QCOMPARE(encode(t, "ab"), (std::vector<Token>{257}));
    QCOMPARE(encode(t, "abc"), (std::vector<Token>{258}));        // "bc" comes before "ab"
    QCOMPARE(encode(t, "abcd"), (std::vector<Token>{258, 'd'}));  // "cd" comes too late
    QCOMPARE(encode(t, "acd"), (std::vector<Token>{'a', 259}));
    QCOMPARE(encode(t, "abab"), (std::vector<Token>{257, 257}));
    QCOMPARE(encode(t, "abcbcd"), (std::vector<Token>{258, 256, 'd'}));
  }

  void equalRanksApplyFromTheLeft() {
    // 256 "aa", 257 "aaaa", 258 " a"; runs of one letter merge pairwise from the left.
    const Tokenizer t = load(tokenizerJson({{"a", "a"}, {"aa", "aa"}, {" ", "a"}}));
    QCOMPARE(encode(t, "aaa"), (std::vector<Token>{256, 'a'}));
    QCOMPARE(encode(t, "aaaa"), (std::vector<Token>{257}));
    QCOMPARE(encode(t, "aaaaaaa"), (std::vector<Token>{257, 256, 'a'}));
    QCOMPARE(encode(t, " aa"), (std::vector<Token>{' ', 256}));  // "aa" has the lower rank
    QCOMPARE(encode(t, "b a"), (std::vector<Token>{'b', 258}));
  }

  void mergesDoNotCrossPieces() {
    Json json = tokenizerJson({{"e", " "}, {" ", "w"}, {"1", "a"}});
    QCOMPARE(encode(load(json), "he w1a"), (std::vector<Token>{'h', 'e', 257, '1', 'a'}));
    json["pre_tokenizer"]["use_regex"] = false;
    const Tokenizer whole = load(json);
    QCOMPARE(encode(whole, "he w1a"), (std::vector<Token>{'h', 256, 'w', 258}));
    QCOMPARE(whole.lastPieceStart(toBytes("he w1a")), std::size_t{0});
  }

  void wholePiecesMaySkipTheMerges() {
    Json json = tokenizerJson({{"a", "b"}});
    json["model"]["vocab"]["abc"] = 257;  // no merge leads here
    QCOMPARE(encode(load(json), "abc"), (std::vector<Token>{256, 'c'}));
    json["model"]["ignore_merges"] = true;
    QCOMPARE(encode(load(json), "abc"), (std::vector<Token>{257}));
    QCOMPARE(encode(load(json), "abcd"), (std::vector<Token>{256, 'c', 'd'}));
  }

  void specialTokensStandForNoBytesAndAreNeverProduced() {
    Json json = tokenizerJson({{"a", "b"}});
    json["model"]["vocab"]["<|end|>"] = 257;
    json["added_tokens"] = {{{"id", 257}, {"content", "<|end|>"}, {"special", true}},
                            {{"id", 258}, {"content", "  "}, {"special", false}},
                            {{"id", 260}, {"content", "<pad>"}, {"special", true}}};
    const Tokenizer t = load(json);
    QCOMPARE(t.vocabularySize(), std::size_t{261});
    for (const Token none : {257, 259, 260, 261, -1, 1 << 30}) QVERIFY(t.bytes(none).empty());
    QVERIFY(std::ranges::equal(t.bytes(258), toBytes("  ")));
    for (const char* text : {"<|end|>", "ab<|end|><pad>ab"}) {
      QVERIFY(isLossless(t, toBytes(text)));
      for (const Token token : encode(t, text)) QVERIFY(token < 257);
    }
    QCOMPARE(t.find(toBytes("<|end|>")), -1);
  }

  void textSplitsIntoPiecesAsInGpt2_data() {
    QTest::addColumn<QByteArray>("text");
    QTest::addColumn<QStringList>("pieces");
    const auto row = [](const char* text, const QStringList& pieces) {
      const QByteArray name = QByteArray(text).replace("\n", "\\n").replace("\r", "\\r");
      QTest::newRow(name) << QByteArray(text) << pieces;
    };
    row("Hello world", {"Hello", " world"});
    row("a  b", {"a", " ", " b"});
    row("a    b", {"a", "   ", " b"});
    row("end  ", {"end", "  "});
    row(" ", {" "});
    row("I'll don't we've", {"I", "'ll", " don", "'t", " we", "'ve"});
    row("you're I'm he'd it's", {"you", "'re", " I", "'m", " he", "'d", " it", "'s"});
    row("I'LL", {"I", "'", "LL"});
    row("'tis", {"'t", "is"});
    row("he said 'no'", {"he", " said", " '", "no", "'"});
    row("abc123 456,7", {"abc", "123", " 456", ",", "7"});
    row("Hi!!! ok...", {"Hi", "!!!", " ok", "..."});
    row("x=1; (y)", {"x", "=", "1", ";", " (", "y", ")"});
    row("a\nb", {"a", "\n", "b"});
    row("a\n\nb", {"a", "\n", "\n", "b"});
    row("a\n\n\nb", {"a", "\n\n", "\n", "b"});
    row("a\n b", {"a", "\n", " b"});
    row("a\n\n  b", {"a", "\n\n ", " b"});
    row("a \n", {"a", " \n"});
    row("a\t\tb", {"a", "\t", "\t", "b"});
    row("\r\n\r\nx", {"\r\n\r", "\n", "x"});
    row("é café", {"é", " café"});
    row("日本語 テスト", {"日本語", " テスト"});
    row("naïve—dash", {"naïve", "—", "dash"});
    row("½ ²x", {"½", " ²", "x"});
    row("a\u00a0b", {"a", "\u00a0", "b"});
    row("\U0001F600\U0001F600 ok", {"\U0001F600\U0001F600", " ok"});
    row("it’s", {"it", "’", "s"});
  }
  void textSplitsIntoPiecesAsInGpt2() {
    QFETCH(QByteArray, text);
    QFETCH(QStringList, pieces);
    QStringList got;
    for (const std::string& piece : piecesOf(text.toStdString()))
      got.append(QString::fromStdString(piece));
    QCOMPARE(got, pieces);
  }

  void bytesThatAreNotUtf8FormPiecesOfTheirOwn() {
    const std::pair<std::string, std::vector<std::string>> cases[] = {
        {"ab\xff cd", {"ab", "\xff", " cd"}},
        {"\xff\xfe", {"\xff\xfe"}},
        {"caf\xc3", {"caf", "\xc3"}},
        {"x\xc0\xafy", {"x", "\xc0\xaf", "y"}}};
    for (const auto& [text, pieces] : cases) QVERIFY(piecesOf(text) == pieces);
  }

  void pieceLengthsAddUpForAnyBytes() {
    Random random(3);
    const PieceSplitter splitter;
    for (int trial = 0; trial < 500; ++trial) {
      const Bytes text = random.bytes(random.below(100));
      std::size_t sum = 0;
      for (const std::size_t length : splitter.split(text)) {
        QVERIFY(length > 0);
        sum += length;
      }
      QCOMPARE(sum, text.size());
    }
  }

  void theLastPieceIsWhereASplitEnds() {
    const std::pair<const char*, std::size_t> cases[] = {
        {"", 0}, {"Hello", 0}, {"Hello world", 5}, {"a  b", 2}, {"end ", 3}, {"so.\n\n", 3}};
    for (const auto& [text, start] : cases)
      QCOMPARE(bundled().lastPieceStart(toBytes(text)), start);
  }

  // The promise that drafting rests on, at every cut of a text.
  void whatComesBeforeTheLastPieceKeepsItsTokens_data() {
    QTest::addColumn<QByteArray>("text");
    const auto row = [](const char* name, const QByteArray& text) { QTest::newRow(name) << text; };
    row("plain prose",
        "The quick brown fox, 12 of them; jumped.  Twice\n\nover the lazy dog.\n  End");
    row("contractions", "They're sure we'll find what you've lost, aren't they? 'Tis so.");
    row("letters of two bytes", "caf\u00e9s and na\u00efve fa\u00e7ades");
    Random random(6);
    row("random bytes", QByteArray::fromStdString(std::string(toText(random.bytes(150)))));
    row("dashes and quotes", "it\u2019s \u201cdone\u201d\u2014or so \u2026 we think");
  }
  void whatComesBeforeTheLastPieceKeepsItsTokens() {
    QFETCH(QByteArray, text);
    const Bytes whole(text.begin(), text.end());
    for (std::size_t cut = 1; cut <= whole.size(); ++cut) {
      const ByteView part = ByteView(whole).first(cut);
      const std::size_t settled = bundled().lastPieceStart(part);
      const auto before = tokensUpTo(bundled(), part, settled);
      const auto after = tokensUpTo(bundled(), whole, settled);
      QVERIFY(before);
      QVERIFY2(after && *after == *before,
               qPrintable("after \"" + QString::fromUtf8(text.left(static_cast<int>(cut))) + "\""));
    }
  }

  void lookUpsAgreeWithBruteForce() {
    const Tokenizer& t = bundled();
    const TokenTree tree(std::shared_ptr<const Tokenizer>(&t, [](const Tokenizer*) {}));
    const auto sorted = t.sortedTokens();
    std::set<Token> all(sorted.begin(), sorted.end());
    QCOMPARE(all.size(), sorted.size());
    for (Token token = 0; token < static_cast<Token>(t.vocabularySize()); ++token)
      QCOMPARE(all.contains(token), !t.bytes(token).empty());
    QVERIFY(std::ranges::is_sorted(sorted, [&](Token a, Token b) {
      return std::ranges::lexicographical_compare(t.bytes(a), t.bytes(b));
    }));
    std::vector<Bytes> prefixes{{}, toBytes(" "), toBytes(" the"), toBytes("zzzzzz"), {0xff}, {0}};
    Random random(4);
    for (int i = 0; i < 100; ++i) {
      const ByteView token = t.bytes(static_cast<Token>(random.below(t.vocabularySize())));
      const ByteView start = token.first(random.below(token.size() + 1));
      prefixes.emplace_back(start.begin(), start.end());
      prefixes.push_back(random.bytes(1 + random.below(3)));
    }
    for (const Bytes& prefix : prefixes) {
      std::set<Token> expected;
      std::set<Token> starts;
      Token exact = -1;
      for (Token token = static_cast<Token>(t.vocabularySize()); token-- > 0;) {
        const ByteView bytes = t.bytes(token);
        const std::size_t common = std::min(bytes.size(), prefix.size());
        if (bytes.empty() ||
            !std::ranges::equal(bytes.first(common), ByteView(prefix).first(common)))
          continue;
        (bytes.size() < prefix.size() ? starts : expected).insert(token);
        if (bytes.size() == prefix.size()) exact = token;
      }
      std::set<Token> under;
      if (const TokenTree::Node* node = tree.find(prefix)) {
        under.insert(sorted.begin() + node->first, sorted.begin() + node->last);
        QCOMPARE(node->whole > 0, exact >= 0);
      }
      QVERIFY(under == expected);
      std::set<Token> foundStarts;
      for (const std::uint32_t place : tree.startsOf(prefix)) foundStarts.insert(sorted[place]);
      QVERIFY(foundStarts == starts);
      if (!prefix.empty()) QCOMPARE(t.find(prefix), exact);
    }
  }

  void malformedFilesAreRefused_data() {
    QTest::addColumn<QByteArray>("content");
    QTest::addColumn<QString>("named");
    const auto row = [](const char* name, const char* named, auto damage) {
      Json json = tokenizerJson({{"a", "b"}, {"ab", "c"}});
      damage(json);
      QTest::newRow(name) << QByteArray::fromStdString(json.dump()) << QString(named);
    };
    row("an array", "object", [](Json& j) { j = Json::array(); });
    row("no model", "model", [](Json& j) { j.erase("model"); });
    row("no vocabulary", "vocab", [](Json& j) { j["model"].erase("vocab"); });
    row("no merges", "merges", [](Json& j) { j["model"].erase("merges"); });
    row("no pre-tokenizer", "pre_tokenizer", [](Json& j) { j["pre_tokenizer"] = nullptr; });
    row("WordPiece", "WordPiece", [](Json& j) { j["model"]["type"] = "WordPiece"; });
    row("another pre-tokenizer", "Whitespace",
        [](Json& j) { j["pre_tokenizer"]["type"] = "Whitespace"; });
    row("a sequence of pre-tokenizers", "pre_tokenizer", [](Json& j) {
      j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array()}};
    });
    row("a space put before", "add_prefix_space",
        [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; });
    row("a byte without a token", "byte 122", [](Json& j) { j["model"]["vocab"].erase("z"); });
    row("a special token in place of a byte", "byte 122", [](Json& j) {
      j["added_tokens"] = {{{"id", 122}, {"content", "<s>"}, {"special", true}}};
    });
    row("a merge of an unknown token", "xyz", [](Json& j) {
      j["model"]["merges"].push_back({"xyz", "a"});
    });
    row("a merge into an unknown token", "\"ba\"", [](Json& j) {
      j["model"]["merges"].push_back({"b", "a"});
    });
    row("a merge into other bytes", "the bytes of its parts", [](Json& j) {
      j["added_tokens"] = {{{"id", 256}, {"content", "xy"}, {"special", false}}};
    });
    row("a merge of three", "merges", [](Json& j) {
      j["model"]["merges"].push_back({"a", "b", "c"});
    });
    row("a merge of one word", "merges", [](Json& j) { j["model"]["merges"].push_back("ab"); });
    row("a merge of numbers", "merges", [](Json& j) { j["model"]["merges"].push_back({1, 2}); });
    row("merges by name", "merges", [](Json& j) { j["model"]["merges"] = Json::object(); });
    row("a huge id", "vocab", [](Json& j) { j["model"]["vocab"]["abc"] = 4000000000u; });
    row("a negative id", "vocab", [](Json& j) { j["model"]["vocab"]["abc"] = -1; });
    row("a fractional id", "vocab", [](Json& j) { j["model"]["vocab"]["abc"] = 257.5; });
    row("an id as text", "vocab", [](Json& j) { j["model"]["vocab"]["abc"] = "257"; });
    row("a vocabulary list", "vocab", [](Json& j) { j["model"]["vocab"] = {"a", "b"}; });
    row("a huge added id", "added_tokens", [](Json& j) {
      j["added_tokens"] = {{{"id", 1u << 30}, {"content", "x"}, {"special", false}}};
    });
    row("an added token without content", "added_tokens", [](Json& j) {
      j["added_tokens"] = {{{"id", 3}, {"special", false}}};
    });
    row("an added token that is a number", "added_tokens",
        [](Json& j) { j["added_tokens"] = {5}; });
    row("two tokens of one id", "vocab", [](Json& j) { j["model"]["vocab"]["Q1"] = 256; });
    QTest::newRow("not JSON") << QByteArray("{") << QString("JSON");
    QTest::newRow("empty") << QByteArray() << QString("JSON");
  }
  void malformedFilesAreRefused() {
    QFETCH(QByteArray, content);
    QFETCH(QString, named);
    const auto error = errorOf(content.toStdString());
    QVERIFY(error);
    QVERIFY2(mentions(error->what(), named.toStdString()), error->what());
  }

  void aMissingFileIsAFileError() {
    const TemporaryFolder folder;
    QVERIFY(thrown<FileError>([&] { Tokenizer tokenizer(folder / "tokenizer.json"); }));
  }
};

QTEST_GUILESS_MAIN(TokenizerTest)
#include "test_tokenizer.moc"
