// Pickle programs put together by hand: what the reader understands, and that it refuses the rest.
#include <QtTest>

#include "engine/checkpoint/pickle.h"
#include "engine/checkpoint/torch_file.h"
#include "engine/error.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/torch_files.h"

using namespace mb;
using namespace mb::test;

namespace {

std::map<std::string, PickledTensor> read(const std::string& program) {
  return readPickledTensors(std::as_bytes(std::span(program)), "data.pkl");
}

std::optional<FormatError> errorOf(const std::string& program) {
  return thrown<FormatError>([&] { read(program); });
}

/// {"a": float32 [2, 3] at element 4 of storage "0"}
Pickle oneTensor() {
  Pickle pickle;
  return pickle.start().emptyDict().raw("(").text("a").tensor("FloatStorage", "0", 10, 4, {2, 3},
                                                              {3, 1});
}

/// Hostile or damaged programs by name.
std::vector<std::pair<const char*, std::string>> hostilePrograms() {
  const auto program = [] { return Pickle().start(); };
  const std::string deep(100000, '(');
  std::vector<std::pair<const char*, std::string>> all = {
      {"empty", ""},
      {"only a stop", "."},
      {"no stop", Pickle(oneTensor()).raw("u").program()},
      {"os.system", program().global("os", "system").text("true").raw("\x85R.").program()},
      {"builtins.eval", program().global("builtins", "eval").text("1").raw("\x85R.").program()},
      {"posix.system by its real name",
       program().global("posix", "system").text("true").raw("\x85R.").program()},
      {"a name with a dot",
       program().global("collections", "OrderedDict.clear").raw(".").program()},
      {"storage of another module", program().global("evil", "FloatStorage").raw(".").program()},
      {"torch.load", program().global("torch", "load").raw(".").program()},
      {"INST", program().raw("(ios\nsystem\n.").program()},
      {"OBJ", program().raw("(").global("collections", "OrderedDict").raw("o.").program()},
      {"STACK_GLOBAL", program().text("os").text("system").raw("\x93.").program()},
      {"EXT1", program().raw("\x82\x01.").program()},
      {"EXT2", program().raw(std::string("\x83\x01\x00.", 4)).program()},
      {"EXT4", program().raw(std::string("\x84\x01\x00\x00\x00.", 6)).program()},
      {"NEWOBJ", program().global("collections", "OrderedDict").raw(")\x81.").program()},
      {"NEWOBJ_EX", program().global("collections", "OrderedDict").raw(")}\x92.").program()},
      {"a textual persistent id", program().raw("Pstorage\n.").program()},
      {"textual integers", program().raw("I5\n.").program()},
      {"unknown opcode", program().raw("\xff.").program()},
      {"pop", program().raw("N0.").program()},
      {"stack underflow by tuple", program().raw("N\x87.").program()},
      {"stack underflow by setitem", program().raw("}Ns.").program()},
      {"stack underflow by reduce", program().raw("R.").program()},
      {"stack underflow by build", program().raw("b.").program()},
      {"stack underflow by persistent id", program().raw("Q.").program()},
      {"no mark for a tuple", program().raw("NNt.").program()},
      {"no mark for items", program().raw("}NNu.").program()},
      {"an odd number of items", program().raw("}(NNNu.").program()},
      {"items into a mark", program().raw("(").text("k").raw("Ns.").program()},
      {"items into a number", program().raw("K\x05(").text("k").raw("Nu.").program()},
      {"remembering nothing", program().raw(std::string("q\x00.", 3)).program()},
      {"recalling what was never stored", program().raw("h\x07.").program()},
      {"recalling far away", program().raw("j\xff\xff\xff\xff.").program()},
      {"a number as the result", program().raw("K\x05.").program()},
      {"a mark as the result", program().raw("(.").program()},
      {"a global as the result", program().global("collections", "OrderedDict").raw(".").program()},
      {"a dictionary that contains itself", program()
                                                .raw("}q")
                                                .raw(std::string(1, '\0'))
                                                .text("me")
                                                .raw(std::string("h\x00s.", 4))
                                                .program()},
      {"a number as a name", program().raw("}K\x01Ns.").program()},
      {"a number as a tensor", program().raw("}").text("a").raw("K\x01s.").program()},
      {"nested dictionaries", program().raw("}").text("a").raw("}s.").program()},
      {"OrderedDict of arguments",
       program().global("collections", "OrderedDict").raw("K\x01\x85R.").program()},
      {"calling a number", program().raw("K\x05)R.").program()},
      {"calling a storage type", program().global("torch", "FloatStorage").raw(")R.").program()},
      {"arguments that are no tuple",
       program().global("collections", "OrderedDict").raw("}R.").program()},
      {"a tensor without arguments",
       program().global("torch._utils", "_rebuild_tensor_v2").raw(")R.").program()},
      {"a tensor of numbers", program()
                                  .global("torch._utils", "_rebuild_tensor_v2")
                                  .tuple({1, 2, 3, 4})
                                  .raw("R.")
                                  .program()},
      {"persistent id of a number", program().raw("K\x05Q.").program()},
      {"persistent id of another kind", program()
                                            .raw("(")
                                            .text("module")
                                            .global("torch", "FloatStorage")
                                            .text("0")
                                            .text("cpu")
                                            .number(1)
                                            .raw("tQ.")
                                            .program()},
      {"persistent id too short", program().raw("(").text("storage").raw("tQ.").program()},
      {"persistent id of nothing", program().raw(")Q.").program()},
      {"a storage of doubles", program().storage("DoubleStorage", "0", 5).raw(".").program()},
      {"a storage of integers", program().storage("LongStorage", "0", 5).raw(".").program()},
      {"a storage of negative size", program().storage("FloatStorage", "0", -5).raw(".").program()},
      {"a text longer than the program", program()
                                             .raw("X\xff\xff\xff\xff"
                                                  "abc.")
                                             .program()},
      {"a frame longer than the program",
       program().raw("\x95").raw(std::string(8, '\xff')).program()},
      {"an integer of 255 bytes", program().raw("\x8a\xff").raw(std::string(255, '\1')).program()},
      {"a line without end", program().raw("ctorch").program()},
      {"marks without end", program().raw(deep).program()},
      {"tuples in tuples without end",
       program().raw("N").raw(std::string(100000, '\x85')).raw(".").program()},
  };
  const auto tensor = [&](std::int32_t offset, std::vector<std::int32_t> shape,
                          std::vector<std::int32_t> strides) {
    return program()
        .raw("}")
        .text("a")
        .tensor("FloatStorage", "0", 10, offset, shape, strides)
        .raw("s.")
        .program();
  };
  all.emplace_back("a negative offset", tensor(-1, {2}, {1}));
  all.emplace_back("a negative extent", tensor(0, {-2}, {1}));
  all.emplace_back("a negative stride", tensor(0, {2}, {-1}));
  return all;
}

/// A torch file with one tensor "a" over a storage of ten floats.
std::optional<FormatError> torchErrorOf(std::int32_t offset, const std::vector<std::int32_t>& shape,
                                        const std::vector<std::int32_t>& strides,
                                        std::int32_t elements = 10) {
  const TemporaryFolder folder;
  Pickle pickle;
  pickle.start().raw("}").text("a").tensor("FloatStorage", "0", elements, offset, shape, strides);
  writeTorchFile(folder / "m.bin", pickle.raw("s.").program(), {{"0", std::string(40, '\1')}});
  auto error = thrown<FormatError>([&] { readTorchFile(folder / "m.bin"); });
  if (error && error->file() != folder / "m.bin") return std::nullopt;
  return error;
}

}  // namespace

class PickleTest : public QObject {
  Q_OBJECT

 private slots:
  void readsAStateDictionary() {
    const auto tensors = read(oneTensor().raw("u").stop().program());
    QCOMPARE(tensors.size(), std::size_t{1});
    const PickledTensor& a = tensors.at("a");
    QCOMPARE(a.storage, std::string("0"));
    QVERIFY(a.type == DataType::Float32);
    QCOMPARE(a.storageElements, std::size_t{10});
    QCOMPARE(a.offset, std::size_t{4});
    QCOMPARE(a.shape, (Shape{2, 3}));
    QCOMPARE(a.strides, (std::vector<std::size_t>{3, 1}));
  }

  // As torch writes it: memo after memo, shared globals recalled, _metadata attached by BUILD.
  void readsMemosAndMetadata() {
    Pickle p;
    p.start().emptyDict().raw(std::string("q\x00(", 3));
    p.text("first").raw("q\x01").global("torch._utils", "_rebuild_tensor_v2").raw("q\x02(");
    p.storage("HalfStorage", "7", 6).raw("q\x03").raw(std::string("K\x00K\x06\x85K\x01\x85", 8));
    p.raw("\x89").emptyDict().raw("tRr").integer(300);
    p.text("second").raw("h\x02(h\x03K\x02K\x02K\x02\x86K\x02K\x01\x86\x89").emptyDict().raw("tR");
    p.text("shared").raw("j").integer(300).raw("u");
    p.raw("}").text("_metadata").emptyDict().raw("sb").stop();
    const auto tensors = read(p.program());
    QCOMPARE(tensors.size(), std::size_t{3});
    QCOMPARE(tensors.at("first").shape, (Shape{6}));
    QVERIFY(tensors.at("first").type == DataType::Float16);
    QCOMPARE(tensors.at("second").shape, (Shape{2, 2}));
    QCOMPARE(tensors.at("second").offset, std::size_t{2});
    QCOMPARE(tensors.at("second").storage, std::string("7"));
    QCOMPARE(tensors.at("shared").shape, (Shape{6}));
  }

  void readsEveryWayToWriteASize() {
    const std::pair<std::string, std::size_t> sizes[] = {
        {std::string("K\xff"), 255},
        {std::string("M\x01\x02"), 0x201},
        {std::string("J\x01\x00\x00\x7f", 5), 0x7f000001},
        {std::string("\x8a\x00", 2), 0},
        {std::string("\x8a\x02\xff\x00", 4), 255},
        {std::string("\x8a\x05\x00\x00\x00\x00\x01", 7), std::size_t{1} << 32}};
    for (const auto& [code, value] : sizes) {
      Pickle p;
      p.start().raw("}").text("a").global("torch._utils", "_rebuild_tensor_v2").raw("(");
      p.storage("BFloat16Storage", "k", 1).raw(code).tuple({}).tuple({}).raw("tRs").stop();
      QCOMPARE(read(p.program()).at("a").offset, value);
    }
    Pickle negative;
    negative.start().raw("}").text("a").global("torch._utils", "_rebuild_tensor_v2").raw("(");
    negative.storage("FloatStorage", "k", 1).raw("\x8a\x01\xff").tuple({}).tuple({}).raw("tRs.");
    QVERIFY(errorOf(negative.program()));
  }

  void readsThePublishedLayout() {
    const auto tensors = readTorchFile(goldenFolder("tiny-byte-statespaces") / "pytorch_model.bin");
    QCOMPARE(tensors.at("backbone.embedding.weight").shape, (Shape{256, 48}));
  }

  void refusesHostilePrograms_data() {
    QTest::addColumn<QByteArray>("program");
    for (const auto& [name, program] : hostilePrograms())
      QTest::newRow(name) << QByteArray::fromStdString(program);
  }
  void refusesHostilePrograms() {
    QFETCH(QByteArray, program);
    const auto error = errorOf(program.toStdString());
    QVERIFY(error);
    QVERIFY(mentions(error->what(), "data.pkl", "pickle at byte"));
  }

  void namesTheForbiddenGlobal() {
    const auto error = errorOf(Pickle().start().global("os", "system").program());
    QVERIFY(error);
    QVERIFY(mentions(error->found(), "os.system"));
  }

  // N sizes in one tuple and M tensors that share it cost M + N bytes of file, but M · N of memory.
  // No weight has more than a few dimensions.
  void refusesTensorsOfAbsurdRank() {
    const std::vector<std::int32_t> extents(1000, 1);
    Pickle p;
    p.start().raw("}").text("a").tensor("FloatStorage", "0", 1, 0, extents, extents).raw("s.");
    QVERIFY(errorOf(p.program()));
  }

  void everyTruncationIsRefused() {
    Pickle whole = oneTensor();
    whole.text("b").tensor("HalfStorage", "1", 4, 0, {4}, {1}).raw("u");
    whole.raw("}").text("_metadata").emptyDict().raw("sb").stop();
    const std::string program = whole.program();
    QVERIFY(!errorOf(program));
    for (std::size_t size = 0; size < program.size(); ++size)
      QVERIFY2(errorOf(program.substr(0, size)), qPrintable(QString::number(size)));
  }

  void randomDamageNeverCrashes() {
    const std::string program = oneTensor().raw("u").stop().program();
    Random random(7);
    int refused = 0;
    for (int trial = 0; trial < 20000; ++trial) {
      std::string damaged = program;
      for (std::size_t i = 0; i <= random.below(3); ++i)
        damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
      refused += errorOf(damaged).has_value();
    }
    QVERIFY(refused > 10000);
    for (int trial = 0; trial < 20000; ++trial)
      QVERIFY(errorOf(std::string(toText(random.bytes(1 + random.below(40))))) || true);
  }

  void aTorchFileGivesItsValues() {
    const TemporaryFolder folder;
    const std::vector<float> stored{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    writeTorchFile(folder / "m.bin", oneTensor().raw("u").stop().program(),
                   {{"0", encodeValues(DataType::Float32, stored)}});
    const auto tensors = readTorchFile(folder / "m.bin");
    std::vector<float> values(6);
    tensors.at("a").read(0, values);
    QCOMPARE(values, (std::vector<float>{4, 5, 6, 7, 8, 9}));
    QVERIFY(tensors.at("a").file == folder / "m.bin");
  }

  void windowsMustLieInTheirStorage() {
    QVERIFY(!torchErrorOf(4, {2, 3}, {3, 1}));
    QVERIFY(!torchErrorOf(10, {0}, {1}));
    for (const std::int32_t offset : {5, 10, 11, 0x7fffffff}) {
      const auto error = torchErrorOf(offset, {2, 3}, {3, 1});
      QVERIFY(error);
      QVERIFY(mentions(error->what(), "tensor \"a\"", std::to_string(offset), "40 bytes"));
    }
    QVERIFY(torchErrorOf(0, {11}, {1}));
    QVERIFY(torchErrorOf(0, {0x7fffffff, 0x7fffffff, 0x7fffffff}, {1, 1, 1}));
    QVERIFY(torchErrorOf(0, {0x7fffffff, 0x40000000}, {0x40000000, 1}));
    QVERIFY(
        torchErrorOf(0, {11}, {1}, 1000));  // what the pickle claims of the storage is not trusted
  }

  void onlyContiguousTensorsAreRead() {
    QVERIFY(!torchErrorOf(0, {1, 5}, {77, 1}));  // the stride of a single row is never used
    QVERIFY(!torchErrorOf(0, {}, {}));
    for (const auto& strides : std::vector<std::vector<std::int32_t>>{
             {1, 2}, {3, 2}, {0, 1}, {4, 1}, {3, 0}, {3}, {3, 1, 1}}) {
      const auto error = torchErrorOf(0, {2, 3}, strides);
      QVERIFY(error);
      QVERIFY(mentions(error->what(), "tensor \"a\"", "contiguous"));
    }
  }

  void archivesWithoutTheirPartsAreRefused() {
    const TemporaryFolder folder;
    const std::string program = oneTensor().raw("u").stop().program();
    const auto refuses = [&] {
      return thrown<FormatError>([&] { readTorchFile(folder / "m.bin"); }).has_value();
    };
    writeTorchFile(folder / "m.bin", program, {});
    QVERIFY(refuses());
    writeTorchFile(folder / "m.bin", program, {{"1", std::string(40, 'x')}});
    QVERIFY(refuses());
    writeTorchFile(folder / "m.bin", program, {{"0", std::string(400, 'x')}}, true);
    QVERIFY(refuses());
    writeFile(folder / "m.bin", program);
    QVERIFY(refuses());
    writeFile(folder / "m.bin", "");
    QVERIFY(refuses());
    QVERIFY(thrown<FileError>([&] { readTorchFile(folder / "none.bin"); }));
  }

  void damagedArchivesNeverCrash() {
    const TemporaryFolder folder;
    writeTorchFile(folder / "m.bin", oneTensor().raw("u").stop().program(),
                   {{"0", std::string(40, 'x')}});
    const std::string whole = readFile(folder / "m.bin");
    const auto refuses = [&](const std::string& content) {
      writeFile(folder / "d.bin", content);
      return thrown<FormatError>([&] { readTorchFile(folder / "d.bin"); }).has_value();
    };
    for (std::size_t size = 0; size < whole.size(); size += 3)
      QVERIFY(refuses(whole.substr(0, size)));
    Random random(8);
    int refused = 0;
    for (int trial = 0; trial < 500; ++trial) {
      std::string damaged = whole;
      damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
      refused += refuses(damaged);
    }
    QVERIFY(refused > 100);
  }

  void aFlippedByteOfATensorIsNoticed() {
    const TemporaryFolder folder;
    writeTorchFile(folder / "m.bin", oneTensor().raw("u").stop().program(),
                   {{"0", std::string(40, 'x')}});
    std::string damaged = readFile(folder / "m.bin");
    damaged[damaged.find(std::string(40, 'x')) + 20] = 'y';
    writeFile(folder / "m.bin", damaged);
    QVERIFY(thrown<FormatError>([&] { readTorchFile(folder / "m.bin"); }));
  }
};

QTEST_GUILESS_MAIN(PickleTest)
#include "test_pickle.moc"
