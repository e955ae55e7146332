// Files and folders that appear whole or not at all.
#include <QtTest>
#include <unistd.h>

#include "engine/error.h"
#include "engine/file_io.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

std::size_t entriesOf(const TemporaryFolder& folder) {
  const std::filesystem::directory_iterator entries(folder.path());
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

/// Hands out a text byte by byte.
std::function<void(const ByteSink&)> pieces(const std::string& text) {
  return [text](const ByteSink& write) {
    for (const char& byte : text) write(std::as_bytes(std::span(&byte, 1)));
  };
}

/// Writes a file of so many bytes into a folder.
auto fillingWith(std::size_t bytes) {
  return [bytes](const std::filesystem::path& folder) {
    writeFileAtomically(folder / "file", std::string(bytes, 'x'));
  };
}

}  // namespace

class FileIoTest : public QObject {
  Q_OBJECT

 private slots:
  void piecesAddUpToAFile() {
    const TemporaryFolder folder;
    writeFileAtomically(folder / "file", pieces("the first"));
    QCOMPARE(readFile(folder / "file"), std::string("the first"));
    writeFileAtomically(folder / "file", pieces("new"));
    QCOMPARE(readFile(folder / "file"), std::string("new"));
    QCOMPARE(entriesOf(folder), std::size_t{1});
  }

  void aFileWhoseContentFailsStaysAsItWas() {
    const TemporaryFolder folder;
    writeFile(folder / "file", "precious");
    QVERIFY(thrown<Stopped>([&] {
      writeFileAtomically(folder / "file", [](const ByteSink& write) {
        pieces("half")(write);
        throw Stopped();
      });
    }));
    QCOMPARE(readFile(folder / "file"), std::string("precious"));
    QCOMPARE(entriesOf(folder), std::size_t{1});
  }

  void aFullDiskNamesTheFileAndLeavesNothing() {
    const TemporaryFolder folder;
    const FileSizeLimit limit(5);
    const auto error =
        thrown<FileError>([&] { writeFileAtomically(folder / "file", pieces("too long")); });
    QVERIFY(error && error->file() == folder / "file");
    QVERIFY(mentions(error->what(), "cannot be written"));
    QCOMPARE(entriesOf(folder), std::size_t{0});
    const auto device = thrown<FileError>([] { writeFileAtomically("/dev/full", pieces("any")); });
    QVERIFY(device && mentions(device->what(), "/dev/full", "No space left"));
  }

  void aFolderAppearsWhole_data() {
    QTest::addColumn<QString>("name");
    for (const char* name : {"new", "new/", "empty", "link", "in/between/new", "empty/."})
      QTest::newRow(name) << name;
  }
  void aFolderAppearsWhole() {
    QFETCH(QString, name);
    const TemporaryFolder folder;
    std::filesystem::create_directory(folder / "empty");
    std::filesystem::create_symlink(folder / "empty", folder / "link");
    const auto before = entriesOf(folder);
    const std::filesystem::path to = folder / name.toStdString();
    writeFolderAtomically(to, [&](const std::filesystem::path& fresh) {
      QVERIFY(!std::filesystem::exists(to / "file"));
      fillingWith(3)(fresh);
      QVERIFY(!std::filesystem::exists(to / "file"));
    });
    QCOMPARE(readFile(to / "file"), std::string("xxx"));
    QCOMPARE(std::filesystem::is_symlink(folder / "link"), true);
    const bool isNew = !name.startsWith("empty") && name != "link";
    QCOMPARE(entriesOf(folder), before + (isNew ? 1 : 0));
  }

  void whatAKilledProcessLeftDoesNotGetIn() {
    const TemporaryFolder folder;
    const std::string aside = ".part" + std::to_string(::getpid());
    writeFile(folder / ("file" + aside), "half of something long");
    writeFileAtomically(folder / "file", pieces("text"));
    QCOMPARE(readFile(folder / "file"), std::string("text"));
    const auto left = folder / ("new" + aside);
    std::filesystem::create_directory(left);
    writeFile(left / "other", "half");
    writeFolderAtomically(folder / "new", fillingWith(3));
    QVERIFY(!std::filesystem::exists(folder / "new" / "other"));
    QVERIFY(!std::filesystem::exists(left));
  }

  void aFolderThatFailsLeavesNothing() {
    const TemporaryFolder folder;
    QVERIFY(thrown<Stopped>([&] {
      writeFolderAtomically(folder / "new", [](const std::filesystem::path& fresh) {
        fillingWith(3)(fresh);
        throw Stopped();
      });
    }));
    QCOMPARE(entriesOf(folder), std::size_t{0});
    const FileSizeLimit limit(10);
    const auto error =
        thrown<FileError>([&] { writeFolderAtomically(folder / "new", fillingWith(11)); });
    QVERIFY(error && mentions(error->what(), "new", "cannot be written"));
    QCOMPARE(entriesOf(folder), std::size_t{0});
  }

  void aFolderInUseIsRefusedBeforeAnythingIsWritten() {
    const TemporaryFolder folder;
    std::filesystem::create_directory(folder / "used");
    writeFile(folder / "used" / "precious", "text");
    writeFile(folder / "file", "");
    const auto refusal = [&](const char* name) {
      const auto error = thrown<RequestError>(
          [&] { writeFolderAtomically(folder / name, [](const auto&) { QFAIL("was called"); }); });
      return error ? error->what() : std::string();
    };
    QVERIFY(mentions(refusal("used"), (folder / "used").string(), "expected a new or empty folder",
                     "found precious"));
    QVERIFY(mentions(refusal("file"), "expected a new or empty folder", "found a file"));
    QCOMPARE(readFile(folder / "used" / "precious"), std::string("text"));
    QCOMPARE(entriesOf(folder), std::size_t{2});
  }

  void aPlaceThatCannotBeIsAFileError() {
    const TemporaryFolder folder;
    writeFile(folder / "file", "");
    const auto error = thrown<FileError>(
        [&] { writeFolderAtomically(folder / "file" / "below", fillingWith(3)); });
    QVERIFY(error && mentions(error->what(), "below", "cannot be made"));
  }
};

QTEST_GUILESS_MAIN(FileIoTest)
#include "test_file_io.moc"
