// The safetensors format and the values of its types.
#include <QtTest>
#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/error.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;
using Json = nlohmann::json;

namespace {

Json entry(const std::string& dtype, const Json& shape, const Json& offsets) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", offsets}};
}

/// The error that reading these bytes as a file ends with.
std::optional<FormatError> errorOf(const std::string& bytes) {
  const TemporaryFolder folder;
  writeFile(folder / "model.safetensors", bytes);
  auto error = thrown<FormatError>([&] { readSafetensors(folder / "model.safetensors"); });
  if (error && error->file() != folder / "model.safetensors") return std::nullopt;
  return error;
}

/// Of a file with 64 bytes of data and this entry for tensor "t".
std::optional<FormatError> errorOf(const Json& t) {
  return errorOf(safetensorsBytes(Json({{"t", t}}).dump(), std::string(64, '\1')));
}

float widened(DataType type, std::uint16_t bits) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&bits);
  Tensor tensor{{}, "t", type, {1}, {bytes, 2}, {}};
  float value = 0;
  tensor.read(0, {&value, 1});
  return value;
}

}  // namespace

class TensorFilesTest : public QObject {
  Q_OBJECT

 private slots:
  void readsEveryTypeFromAnyElement() {
    const TemporaryFolder folder;
    const std::vector<float> values{1.5f, -2, 0, 0.25f, 1024, -0.0f};
    for (const DataType type : {DataType::Float32, DataType::Float16, DataType::BFloat16}) {
      FileTensors tensors;
      tensors["a"] = {nameOf(type), {2, 3}, encodeValues(type, values)};
      tensors["pad"] = {"BF16", {1}, "xy"};  // what follows lies at an odd offset
      tensors["z"] = {nameOf(type), {6}, encodeValues(type, values)};
      writeFile(folder / "f", safetensorsBytes(tensors));
      const auto read = readSafetensors(folder / "f");
      QCOMPARE(read.size(), std::size_t{3});
      for (const char* name : {"a", "z"}) {
        const Tensor& tensor = read.at(name);
        QVERIFY(tensor.type == type);
        QCOMPARE(tensor.name, std::string(name));
        for (std::size_t first = 0; first < values.size(); ++first) {
          std::vector<float> got(values.size() - first);
          tensor.read(first, got);
          QVERIFY(std::equal(got.begin(), got.end(), values.begin() + long(first)));
        }
      }
      QCOMPARE(read.at("a").shape, (Shape{2, 3}));
    }
  }

  void tensorsOutliveTheReader() {
    const TemporaryFolder folder;
    writeFile(folder / "f",
              safetensorsBytes({{"t", {"F32", {1}, encodeValues(DataType::Float32, {{3.5f}})}}}));
    const Tensor tensor = [&] { return readSafetensors(folder / "f").at("t"); }();
    std::filesystem::remove(folder / "f");
    float value = 0;
    tensor.read(0, {&value, 1});
    QCOMPARE(value, 3.5f);
  }

  void halvesWidenAsIeeeSaysForEveryBitPattern() {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
      const int sign = bits & 0x8000 ? -1 : 1;
      const int exponent = static_cast<int>(bits >> 10 & 0x1f);
      const int mantissa = static_cast<int>(bits & 0x3ff);
      const float got = widened(DataType::Float16, static_cast<std::uint16_t>(bits));
      if (exponent == 31) {
        QVERIFY(mantissa ? std::isnan(got) : std::isinf(got) && (got < 0) == (sign < 0));
        continue;
      }
      const double expected =
          exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
      QCOMPARE(static_cast<double>(got), sign * expected);
      QCOMPARE(std::signbit(got), sign < 0);
    }
  }

  void bfloatsAreTheUpperHalfOfAFloat() {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
      const float got = widened(DataType::BFloat16, static_cast<std::uint16_t>(bits));
      QCOMPARE(std::bit_cast<std::uint32_t>(got), bits << 16);
    }
  }

  void headerLengthsBeyondTheFileAreRefused() {
    for (std::size_t size = 0; size < 8; ++size) QVERIFY(errorOf(std::string(size, '\0')));
    for (const std::uint64_t length :
         {std::uint64_t{3}, std::uint64_t{1} << 40, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
      const auto error = errorOf(std::string(reinterpret_cast<const char*>(&length), 8) + "{}");
      QVERIFY(error);
      QVERIFY(mentions(error->what(), "header length", std::to_string(length)));
    }
  }

  void everyTruncationIsRefused() {
    FileTensors tensors;
    tensors["a"] = {"F32", {2}, std::string(8, '\1')};
    tensors["b"] = {"BF16", {3}, std::string(6, '\2')};
    const std::string whole = safetensorsBytes(tensors);
    QVERIFY(!errorOf(whole));
    for (std::size_t size = 0; size < whole.size(); ++size)
      QVERIFY2(errorOf(whole.substr(0, size)), qPrintable(QString::number(size)));
  }

  void headersThatAreNotObjectsAreRefused() {
    for (const std::string header :
         {"", "[]", "3", "{\"t\": 3}", "{\"t\": []}", "{", "null", "\xff"})
      QVERIFY2(errorOf(safetensorsBytes(header, std::string(64, '\1'))), header.c_str());
    QVERIFY(errorOf(safetensorsBytes(std::string(100000, '['), "")));
  }

  void incompleteEntriesNameTheTensor() {
    const Json whole = entry("F32", {16}, {0, 64});
    QVERIFY(!errorOf(whole));
    for (const char* key : {"dtype", "shape", "data_offsets"}) {
      Json without = whole;
      without.erase(key);
      const auto error = errorOf(without);
      QVERIFY(error);
      QVERIFY(mentions(error->what(), "tensor \"t\"", key));
      Json wrong = whole;
      wrong[key] = {{"not", "this"}};
      QVERIFY(errorOf(wrong));
    }
  }

  void otherTypesAreRefused() {
    for (const char* type : {"I64", "F64", "I8", "BOOL", "F8_E4M3", "f32", ""}) {
      const auto error = errorOf(entry(type, {8}, {0, 64}));
      QVERIFY(error);
      QVERIFY(mentions(error->what(), "tensor \"t\"", "F32, F16 or BF16", std::string(type)));
    }
  }

  void offsetsOutsideTheDataAreRefused_data() {
    QTest::addColumn<QString>("shape");
    QTest::addColumn<QString>("offsets");
    const auto row = [](const char* name, const char* shape, const char* offsets) {
      QTest::newRow(name) << shape << offsets;
    };
    row("behind the data", "[16]", "[4, 68]");
    row("far behind", "[1]", "[1000000, 1000004]");
    row("wrapping around", "[16]", "[18446744073709551600, 48]");
    row("backwards", "[16]", "[64, 0]");
    row("negative", "[16]", "[-64, 0]");
    row("one", "[16]", "[64]");
    row("three", "[16]", "[0, 64, 64]");
    row("fractional", "[16]", "[0, 64.0]");
    row("too little for the shape", "[17]", "[0, 64]");
    row("too much for the shape", "[15]", "[0, 64]");
    row("empty for a scalar", "[]", "[0, 0]");
  }
  void offsetsOutsideTheDataAreRefused() {
    QFETCH(QString, shape);
    QFETCH(QString, offsets);
    const auto error =
        errorOf(entry("F32", Json::parse(shape.toStdString()), Json::parse(offsets.toStdString())));
    QVERIFY(error);
    QVERIFY2(mentions(error->what(), "tensor \"t\""), error->what());
  }

  void absurdShapesAreRefused_data() {
    QTest::addColumn<QString>("shape");
    for (const char* shape :
         {"[-16]", "[4, -4]", "[18446744073709551615]", "[4294967296, 4294967296, 16]",
          "[4611686018427387904]", "[4611686018427387920]", "[1e3]", "[\"16\"]", "16",
          "[18446744073709551616]", "[9223372036854775808, 2]"})
      QTest::newRow(shape) << shape;
  }
  void absurdShapesAreRefused() {
    QFETCH(QString, shape);
    const auto error = errorOf(entry("F32", Json::parse(shape.toStdString()), {0, 64}));
    QVERIFY(error);
    QVERIFY2(mentions(error->what(), "tensor \"t\""), error->what());
  }

  // The format allows neither; a file in which two tensors share bytes is damaged.
  void overlappingTensorsAreRefused() {
    const Json header = {{"a", entry("F32", {8}, {0, 32})}, {"b", entry("F32", {8}, {28, 60})}};
    QVERIFY(errorOf(safetensorsBytes(header.dump(), std::string(64, '\1'))));
  }

  void damagedHeadersNeverCrash() {
    const std::string whole = safetensorsBytes(randomTensors(smallConfig(), 1));
    const std::size_t header = 8 + *reinterpret_cast<const std::uint64_t*>(whole.data());
    Random random(3);
    int refused = 0;
    for (int trial = 0; trial < 400; ++trial) {
      std::string damaged = whole;
      for (int i = 0; i < 3; ++i)
        damaged[random.below(header)] = static_cast<char>(random.below(256));
      refused += errorOf(damaged).has_value();
    }
    QVERIFY(refused > 100);
  }

  void hashesTellFilesApart() {
    const TemporaryFolder folder;
    Random random(5);
    const Bytes content = random.bytes(5000);
    const auto hashOf = [&](const Bytes& bytes) {
      writeFile(folder / "f", toText(bytes));
      return hashOfFiles({folder / "f"});
    };
    const std::string original = hashOf(content);
    QCOMPARE(original.size(), std::size_t{32});
    QVERIFY(original.find_first_not_of("0123456789abcdef") == std::string::npos);
    QCOMPARE(hashOf(content), original);
    for (const std::size_t i : {0u, 2500u, 4999u}) {
      Bytes changed = content;
      changed[i] ^= 1;
      QVERIFY(hashOf(changed) != original);
    }
    hashOf(content);
    writeFile(folder / "g", "more");
    QVERIFY(hashOfFiles({folder / "f", folder / "g"}) != original);
    QVERIFY(hashOfFiles({folder / "f", folder / "g"}) != hashOfFiles({folder / "g", folder / "f"}));
    QVERIFY(thrown<FileError>([&] { hashOfFiles({folder / "none"}); }));
    // XXH3 of nothing, from the published test vectors (seed 0, 128 bits).
    writeFile(folder / "empty", "");
    QCOMPARE(hashOfFiles({folder / "empty"}), std::string("99aa06d3014798d86001c324468d497f"));
  }
};

QTEST_GUILESS_MAIN(TensorFilesTest)
#include "test_tensor_files.moc"
