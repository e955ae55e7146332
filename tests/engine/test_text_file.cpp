// Texts from plain and compressed files, whole and damaged.
#include <QtTest>
#include <lzma.h>
#include <zstd.h>

#include "engine/error.h"
#include "engine/text_file.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

std::string packed(const QString& kind, const std::string& text) {
  std::string out(text.size() + 4096, '\0');
  if (kind == "xz") {
    std::size_t size = 0;
    const auto* from = reinterpret_cast<const std::uint8_t*>(text.data());
    if (lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, from, text.size(),
                                reinterpret_cast<std::uint8_t*>(out.data()), &size,
                                out.size()) != LZMA_OK)
      return {};
    out.resize(size);
  } else if (kind == "zst") {
    out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  } else {
    out = text;
  }
  return out;
}

/// Some megabytes, half of them hard to compress.
std::string longText() {
  Random random(3);
  std::string text;
  for (int i = 0; i < 20; ++i) {
    const Bytes noise = random.bytes(60'000);
    text.append(noise.begin(), noise.end());
    text.append(60'000, static_cast<char>('a' + i));
  }
  return text;
}

std::string textOf(const Bytes& bytes) {
  return {bytes.begin(), bytes.end()};
}

void addKinds() {
  QTest::addColumn<QString>("kind");
  for (const char* kind : {"xz", "zst"}) QTest::newRow(kind) << kind;
}

}  // namespace

class TextFileTest : public QObject {
  Q_OBJECT

 private slots:
  void readsWhatWasWritten_data() {
    addKinds();
    QTest::newRow("plain") << "plain";
  }
  void readsWhatWasWritten() {
    QFETCH(QString, kind);
    const TemporaryFolder folder;
    for (const std::string& text : {std::string(), std::string("a"), longText()}) {
      writeFile(folder / "text", packed(kind, text));
      QVERIFY(textOf(readText(folder / "text")) == text);
    }
    // Files of several parts, one after the other.
    writeFile(folder / "text", packed(kind, "first, ") + packed(kind, "second"));
    QCOMPARE(textOf(readText(folder / "text")), std::string("first, second"));
  }

  void saysWhatIsDamaged_data() { addKinds(); }
  void saysWhatIsDamaged() {
    QFETCH(QString, kind);
    const TemporaryFolder folder;
    const std::string whole = packed(kind, longText());
    const auto refused = [&](const std::string& bytes) {
      writeFile(folder / "text", bytes);
      const auto error = thrown<FormatError>([&] { readText(folder / "text"); });
      return error && mentions(error->what(), "text", "whole");
    };
    for (const std::size_t kept : {std::size_t{8}, whole.size() / 2, whole.size() - 1})
      QVERIFY2(refused(whole.substr(0, kept)), qPrintable(QString::number(kept)));
    std::string damaged = whole;
    for (std::size_t i = 0; i < 64; ++i) damaged[whole.size() / 2 + i] ^= 0x55;
    if (kind == "xz") QVERIFY(refused(damaged));  // zstd's one-call frames carry no checksum
    QVERIFY(refused(whole + "more"));
  }

  void stops() {
    const TemporaryFolder folder;
    std::stop_source source;
    source.request_stop();
    for (const char* kind : {"xz", "zst"}) {
      writeFile(folder / "text", packed(kind, longText()));
      QVERIFY_EXCEPTION_THROWN(readText(folder / "text", source.get_token()), Stopped);
    }
    QVERIFY_EXCEPTION_THROWN(readText(folder / "none"), FileError);
  }
};

QTEST_APPLESS_MAIN(TextFileTest)
#include "test_text_file.moc"
