#include "tests/fuzz/hostile_inputs.h"

#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"
#include "tests/fuzz/model_files.h"

namespace mb::fuzz {

namespace {

using Json = nlohmann::json;

std::string repeated(std::string_view text, std::size_t times) {
  std::string result;
  result.reserve(text.size() * times);
  for (std::size_t i = 0; i < times; ++i) result += text;
  return result;
}

std::string join(std::initializer_list<std::string_view> parts) {
  std::string result;
  for (const std::string_view part : parts) result += part;
  return result;
}

template <class Number>
std::string littleEndian(Number value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string unicode(std::string_view text) {
  return join({"X", littleEndian(static_cast<std::uint32_t>(text.size())), text});
}

constexpr std::string_view kTensor = "ctorch._utils\n_rebuild_tensor_v2\n";
constexpr std::string_view kStorage = "ctorch\nFloatStorage\n";
constexpr std::string_view kZero("K\0", 2);
constexpr std::string_view kPut0("q\0", 2);
constexpr std::string_view kGet0("h\0", 2);
constexpr std::string_view kOneExtent = "(K\x01t";

/// A storage of that key, on the stack.
std::string storage(std::string_view key) {
  return join({"(", unicode("storage"), kStorage, unicode(key), unicode("cpu"), "K\x01tQ"});
}

/// A tensor of one value.
std::string tensor(std::string_view key) {
  return join({kTensor, "(", storage(key), kZero, kOneExtent, kOneExtent, "tR"});
}

/// A dictionary of `count` tensors made of the same arguments. Memo 0 holds the function, 1 the
/// arguments, 2 the shape.
std::string manyTensors(std::string_view key, std::string_view shape, std::size_t count) {
  std::string program =
      join({kTensor, kPut0, shape, "q\x02(", storage(key), kZero, "h\x02h\x02tq\x01}("});
  for (std::size_t i = 0; i < count; ++i)
    program += join({unicode(std::to_string(i)), kGet0, "h\x01R"});
  return program + "u.";
}

/// One dictionary entry set over and over under a long name.
std::string repeatedName(std::size_t length, std::size_t times) {
  return join({unicode(std::string(length, 'n')), kPut0, tensor("0"), "q\x01}(",
               repeated(join({kGet0, "h\x01"}), times), "u."});
}

Json tensorEntry(const Shape& shape, std::size_t begin, std::size_t end) {
  return {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

Bytes headerOf(const std::string& name, const Shape& shape, std::size_t bytes) {
  Json header = Json::object();
  header[name] = tensorEntry(shape, 0, bytes);
  return toBytes(header.dump());
}

/// Every tensor of a deep model lies in the same few kilobytes.
Bytes modelOfSharedData(std::size_t width, std::size_t layers) {
  ModelConfig config;
  config.dModel = width;
  config.dInner = 2 * width;
  config.dtRank = 8;
  config.layers = layers;
  Json header = Json::object();
  std::size_t largest = 0;
  for (const auto& [name, shape] : expectedTensors(config)) {
    const std::size_t bytes = elementCount(shape) * sizeof(float);
    header[name] = tensorEntry(shape, 0, bytes);
    largest = std::max(largest, bytes);
  }
  Bytes model = toBytes(transformersConfig(config));
  model.push_back(0);
  const Bytes weights = safetensorsFile(header.dump(), largest);
  model.insert(model.end(), weights.begin(), weights.end());
  return model;
}

/// A zip whose directory names one stored entry many times: each name reads the same bytes.
class OverlappingZip {
 public:
  void add(const Bytes& content, std::uint32_t crc, const std::vector<std::string>& names) {
    const auto at = static_cast<std::uint32_t>(m_file.size());
    const std::string size = littleEndian(static_cast<std::uint32_t>(content.size()));
    const std::string sizes = join({littleEndian(crc), size, size});
    m_file += join({"PK\x03\x04", kFixed, sizes, nameSize(names.front()), zeros(2), names.front()});
    m_file.append(content.begin(), content.end());
    for (const std::string& name : names) {
      m_directory += join({"PK\x01\x02\x14", zeros(1), kFixed, sizes, nameSize(name), zeros(12),
                           littleEndian(at), name});
      ++m_count;
    }
  }

  Bytes finish() const {
    const std::string count = littleEndian(m_count);
    return toBytes(join({m_file, m_directory, "PK\x05\x06", zeros(4), count, count,
                         littleEndian(static_cast<std::uint32_t>(m_directory.size())),
                         littleEndian(static_cast<std::uint32_t>(m_file.size())), zeros(2)}));
  }

 private:
  /// Version 2.0, no flags, method "stored", midnight of 1 January 1980.
  static constexpr std::string_view kFixed{"\x14\0\0\0\0\0\0\0\x21\0", 10};
  static std::string zeros(std::size_t count) { return std::string(count, '\0'); }
  static std::string nameSize(const std::string& name) {
    return littleEndian(static_cast<std::uint16_t>(name.size()));
  }

  std::string m_file;
  std::string m_directory;
  std::uint16_t m_count = 0;
};

std::uint32_t crc32(ByteView bytes) {
  std::uint32_t crc = ~0u;
  for (const Byte byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

/// `count` tensors, each in a storage entry of its own name; all names read the same megabyte.
Bytes overlappingTorchFile(std::size_t count) {
  std::string program = "}(";
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string key = std::to_string(i);
    names.push_back("archive/data/" + key);
    program += join({unicode(join({"tensor ", key})), tensor(key)});
  }
  const Bytes pickle = toBytes(program + "u.");
  const Bytes values(1 << 20);
  OverlappingZip zip;
  zip.add(pickle, crc32(pickle), {"archive/data.pkl"});
  zip.add(values, crc32(values), names);
  return zip.finish();
}

/// Each added token lies as far behind the last as the reader lets it.
Bytes growingTokenizer(std::size_t added) {
  Json json = Json::parse(smallTokenizer(0));
  std::size_t size = json["model"]["vocab"].size();
  for (std::size_t i = 0; i < added; ++i) {
    size += added + 1024;
    json["added_tokens"].push_back({{"id", size}, {"content", "x"}});
    ++size;
  }
  return toBytes(json.dump());
}

}  // namespace

std::vector<Sample> hostilePickles() {
  const std::string longShape = join({"(", repeated("K\x01", 30000), "t"});
  const std::string longKey(200000, 'k');
  return {
      {"many tensors of one long shape", toBytes(manyTensors("0", longShape, 10000))},
      {"many tensors of one long storage key", toBytes(manyTensors(longKey, kOneExtent, 20000))},
      {"one long name set over and over", toBytes(repeatedName(1 << 20, 100000))},
      {"millions of values", toBytes(join({repeated("N", 8 << 20), "."}))},
      {"nested tuples", toBytes(join({")", repeated("\x85", 1 << 20), "."}))},
      {"a dictionary in itself", toBytes(join({"}", kPut0, kGet0, kGet0, "s."}))},
      {"names of control bytes",
       toBytes(join({"}", unicode("a\nb\x1b[31m\r"), tensor("\n\x1b"), "s."}))},
      {"a name of control bytes for no tensor",
       toBytes(join({"}", unicode("a\nb\x1b[31m\r"), "Ns."}))},
  };
}

std::vector<Sample> hostileTorchFiles() {
  return {{"overlapping entries", overlappingTorchFile(3000)}};
}

std::vector<Sample> hostileHeaders() {
  return {
      {"nested arrays", toBytes(repeated("[", 1 << 20))},
      {"nested objects", toBytes(repeated("{\"a\":", 1 << 18))},
      {"nested shape",
       toBytes(join({R"({"t":{"shape":)", repeated("[", 100000), repeated("]", 100000),
                     R"(,"dtype":"F32","data_offsets":[0,4]}})"}))},
      {"a shape of many extents", headerOf("t", Shape(100000, 2), 4)},
      {"a name of control bytes", headerOf("a\nb\x1b[31m\r", {2}, 4)},
      {"a long name", headerOf(std::string(1 << 20, 'n'), {2}, 4)},
      {"an overflowing shape", headerOf("t", {1ull << 62, 8}, 4)},
      {"offsets behind each other",
       toBytes(R"({"t":{"shape":[1],"dtype":"F32","data_offsets":[4,0]}})")},
  };
}

std::vector<Sample> hostileModels() {
  return {{"a deep model of shared data", modelOfSharedData(128, 4096)}};
}

std::vector<Sample> hostileConfigs() {
  return {
      {"nested arrays", toBytes(repeated("[", 1 << 20))},
      {"nested settings",
       toBytes(join({R"({"d_model":4,"n_layer":1,"vocab_size":256,"ssm_cfg":{"dt_rank":)",
                     repeated("[", 100000), repeated("]", 100000), "}}"}))},
      {"a model type of control bytes", toBytes(R"({"model_type":"a\nb\u001b[31m"})")},
  };
}

std::vector<Sample> hostileTokenizers() {
  Json longName = Json::parse(smallTokenizer(0));
  longName["model"]["merges"].push_back(join({"a\n ", std::string(1 << 20, 'n')}));
  return {
      {"added tokens far apart", growingTokenizer(8000)},
      {"nested arrays", toBytes(repeated("[", 1 << 20))},
      {"a long merge", toBytes(longName.dump())},
  };
}

}  // namespace mb::fuzz
