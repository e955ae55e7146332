#include "engine/checkpoint/pickle.h"

#include <cstring>
#include <functional>
#include <optional>
#include <unordered_map>
#include <variant>

#include "engine/checkpoint/json_reader.h"
#include "engine/error.h"

namespace mb {

namespace {

/// Values live in one arena and refer to each other by index, so that a pickle which makes a value
/// contain itself leaks nothing and cannot recurse.
using Index = std::size_t;

/// Far beyond any model, and low enough that the largest program asks for little memory.
constexpr std::size_t kMostOpcodes = 1 << 20;
constexpr std::size_t kMostText = 512;
constexpr std::size_t kMostExtents = 8;  // tensors may share sizes in the file, not in memory

struct None {};
struct Mark {};
struct Tuple {
  std::vector<Index> items;
};
struct Dict {
  std::vector<std::pair<Index, Index>> items;
};
struct Global {
  std::string name;
};
struct Storage {
  std::string key;
  DataType type;
  std::size_t elements;
};
using Value = std::variant<None, Mark, bool, std::int64_t, std::string, Tuple, Dict, Global,
                           Storage, PickledTensor>;

const char* describe(const Value& value) {
  static constexpr const char* kNames[] = {"None",    "a mark",  "a truth value", "a number",
                                           "text",    "a tuple", "a dictionary",  "a global",
                                           "storage", "a tensor"};
  return kNames[value.index()];
}

std::string hex(std::uint8_t byte) {
  static constexpr char kDigits[] = "0123456789abcdef";
  return std::string("0x") + kDigits[byte >> 4] + kDigits[byte & 15];
}

enum Opcode : std::uint8_t {
  kMark = '(',
  kStop = '.',
  kNone = 'N',
  kInt32 = 'J',
  kByteInt = 'K',
  kShortInt = 'M',
  kLong1 = 0x8a,
  kTrue = 0x88,
  kFalse = 0x89,
  kUnicode = 'X',
  kShortUnicode = 0x8c,
  kEmptyDict = '}',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kGlobal = 'c',
  kReduce = 'R',
  kBuild = 'b',
  kSetItem = 's',
  kSetItems = 'u',
  kPersistentId = 'Q',
  kPut = 'q',
  kLongPut = 'r',
  kGet = 'h',
  kLongGet = 'j',
  kProtocol = 0x80,
  kFrame = 0x95,
  kMemoize = 0x94,
};

class Machine {
 public:
  Machine(std::span<const std::byte> program, const std::filesystem::path& file)
      : m_program(program), m_file(file) {}

  std::map<std::string, PickledTensor> run() {
    while (true) {
      const std::uint8_t opcode = number<std::uint8_t>();
      if (++m_opcodes > kMostOpcodes)
        fail("at most " + std::to_string(kMostOpcodes) + " opcodes", "more");
      if (opcode == kStop) return result();
      if (!pushConstant(opcode) && !pushCollection(opcode) && !useMemo(opcode) && !call(opcode))
        fail("an opcode of a tensor dictionary", hex(opcode));
    }
  }

 private:
  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    throw FormatError(m_file, "pickle at byte " + std::to_string(m_position), expected, found);
  }

  std::string_view take(std::size_t size) {
    if (size > m_program.size() - m_position) fail("more data", "the end of the file");
    const auto* start = reinterpret_cast<const char*>(m_program.data()) + m_position;
    m_position += size;
    return {start, size};
  }

  template <class Integer>
  Integer number() {
    Integer value;
    std::memcpy(&value, take(sizeof(Integer)).data(), sizeof(Integer));
    return value;
  }

  std::string text(std::size_t size) {
    if (size > kMostText)
      fail("text of at most " + std::to_string(kMostText) + " bytes", std::to_string(size));
    return std::string(take(size));
  }

  std::string line() {
    const auto rest = reinterpret_cast<const char*>(m_program.data()) + m_position;
    const auto* end =
        static_cast<const char*>(std::memchr(rest, '\n', m_program.size() - m_position));
    if (!end) fail("a line", "no end of line");
    const std::string found = text(static_cast<std::size_t>(end - rest));
    take(1);
    return found;
  }

  Index push(Value value) {
    m_values.push_back(std::move(value));
    m_stack.push_back(m_values.size() - 1);
    return m_stack.back();
  }

  Index pop() {
    if (m_stack.empty()) fail("a value on the stack", "none");
    const Index top = m_stack.back();
    m_stack.pop_back();
    return top;
  }

  /// Everything above the last mark, which is removed too.
  std::vector<Index> popToMark() {
    std::vector<Index> items;
    while (true) {
      const Index top = pop();
      if (std::holds_alternative<Mark>(m_values[top])) break;
      items.push_back(top);
    }
    return {items.rbegin(), items.rend()};
  }

  template <class T>
  const T& as(Index index, const char* expected) const {
    if (const T* value = std::get_if<T>(&m_values[index])) return *value;
    fail(expected, describe(m_values[index]));
  }

  std::size_t sizeAt(Index index) const {
    const std::int64_t value = as<std::int64_t>(index, "a size");
    if (value < 0) fail("a size", std::to_string(value));
    return static_cast<std::size_t>(value);
  }

  std::vector<std::size_t> sizesAt(Index index) const {
    std::vector<std::size_t> sizes;
    const std::vector<Index>& items = as<Tuple>(index, "a tuple of sizes").items;
    if (items.size() > kMostExtents)
      fail("at most " + std::to_string(kMostExtents) + " sizes", std::to_string(items.size()));
    for (const Index item : items) sizes.push_back(sizeAt(item));
    return sizes;
  }

  std::int64_t longInteger() {
    const std::size_t size = number<std::uint8_t>();
    if (size > 8) fail("an integer of at most 8 bytes", std::to_string(size) + " bytes");
    const std::string_view bytes = take(size);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i)
      value |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(bytes[i])) << (8 * i);
    const bool negative = size > 0 && (bytes[size - 1] & 0x80);
    if (negative && size < 8) value |= ~std::uint64_t{0} << (8 * size);
    return static_cast<std::int64_t>(value);
  }

  bool pushConstant(std::uint8_t opcode) {
    switch (opcode) {
      case kNone: return push(None{}), true;
      case kMark: return push(Mark{}), true;
      case kTrue: return push(true), true;
      case kFalse: return push(false), true;
      case kInt32: return push(std::int64_t{number<std::int32_t>()}), true;
      case kByteInt: return push(std::int64_t{number<std::uint8_t>()}), true;
      case kShortInt: return push(std::int64_t{number<std::uint16_t>()}), true;
      case kLong1: return push(longInteger()), true;
      case kUnicode: return push(text(number<std::uint32_t>())), true;
      case kShortUnicode: return push(text(number<std::uint8_t>())), true;
      case kProtocol: return take(1), true;
      case kFrame: return take(8), true;
      default: return false;
    }
  }

  bool pushCollection(std::uint8_t opcode) {
    switch (opcode) {
      case kEmptyDict: return push(Dict{}), true;
      case kEmptyTuple:
      case kEmptyList: return push(Tuple{}), true;
      case kTuple: return push(Tuple{popToMark()}), true;
      case kTuple1: return pushTuple(1), true;
      case kTuple2: return pushTuple(2), true;
      case kTuple3: return pushTuple(3), true;
      case kSetItem: {
        const Index value = pop();
        const Index key = pop();
        return addItems({key, value}), true;
      }
      case kSetItems: return addItems(popToMark()), true;
      default: return false;
    }
  }

  void pushTuple(std::size_t size) {
    Tuple tuple{std::vector<Index>(size)};
    for (std::size_t i = size; i-- > 0;) tuple.items[i] = pop();
    push(std::move(tuple));
  }

  void addItems(const std::vector<Index>& items) {
    if (items.size() % 2 != 0) fail("pairs of key and value", "an odd number of items");
    const Index target = pop();
    as<Dict>(target, "a dictionary");
    m_stack.push_back(target);
    Dict& dict = std::get<Dict>(m_values[target]);
    for (std::size_t i = 0; i < items.size(); i += 2)
      dict.items.emplace_back(items[i], items[i + 1]);
  }

  bool useMemo(std::uint8_t opcode) {
    switch (opcode) {
      case kPut: return remember(number<std::uint8_t>()), true;
      case kLongPut: return remember(number<std::uint32_t>()), true;
      case kMemoize: return remember(m_memo.size()), true;
      case kGet: return recall(number<std::uint8_t>()), true;
      case kLongGet: return recall(number<std::uint32_t>()), true;
      default: return false;
    }
  }

  void remember(std::size_t slot) {
    if (m_stack.empty()) fail("a value to remember", "an empty stack");
    m_memo[slot] = m_stack.back();
  }

  void recall(std::size_t slot) {
    const auto entry = m_memo.find(slot);
    if (entry == m_memo.end()) fail("a remembered value", "none at " + std::to_string(slot));
    m_stack.push_back(entry->second);
  }

  bool call(std::uint8_t opcode) {
    switch (opcode) {
      case kGlobal: return pushGlobal(), true;
      case kPersistentId: return pushStorage(), true;
      case kReduce: return reduce(), true;
      case kBuild: return pop(), true;  // attributes of the OrderedDict, such as _metadata
      default: return false;
    }
  }

  void pushGlobal() {
    const std::string module = line();
    const std::string name = module + "." + line();
    const bool isStorage = module == "torch" && name.ends_with("Storage");
    if (name != "collections.OrderedDict" && name != "torch._utils._rebuild_tensor_v2" &&
        !isStorage)
      fail("a global of a tensor dictionary", inQuotes(name));
    push(Global{name});
  }

  DataType storageType(const std::string& name) const {
    if (name == "torch.FloatStorage") return DataType::Float32;
    if (name == "torch.HalfStorage") return DataType::Float16;
    if (name == "torch.BFloat16Storage") return DataType::BFloat16;
    fail("float32, float16 or bfloat16 storage", inQuotes(name));
  }

  /// ("storage", torch.FloatStorage, key, location, element count)
  void pushStorage() {
    const Index id = pop();
    const std::vector<Index>& items = as<Tuple>(id, "a tuple naming a storage").items;
    if (items.size() != 5 || as<std::string>(items[0], "text") != "storage")
      fail("a storage of 5 entries", std::to_string(items.size()) + " entries");
    push(Storage{as<std::string>(items[2], "a storage key"),
                 storageType(as<Global>(items[1], "a storage type").name), sizeAt(items[4])});
  }

  void reduce() {
    const Index argumentsIndex = pop();
    const Index function = pop();
    const std::string name = as<Global>(function, "a function").name;
    const std::vector<Index>& arguments = as<Tuple>(argumentsIndex, "arguments").items;
    if (name == "collections.OrderedDict" && arguments.empty()) {
      push(Dict{});
    } else if (name == "torch._utils._rebuild_tensor_v2" && arguments.size() >= 4) {
      const Storage storage = as<Storage>(arguments[0], "storage");
      push(PickledTensor{storage.key, storage.type, storage.elements, sizeAt(arguments[1]),
                         sizesAt(arguments[2]), sizesAt(arguments[3])});
    } else {
      fail("an empty OrderedDict or a tensor",
           inQuotes(name) + " of " + std::to_string(arguments.size()) + " arguments");
    }
  }

  std::map<std::string, PickledTensor> result() {
    const Index top = pop();
    std::map<std::string, PickledTensor> tensors;
    for (const auto& [key, value] : as<Dict>(top, "a dictionary of tensors").items) {
      tensors.insert_or_assign(as<std::string>(key, "a tensor name"),
                               as<PickledTensor>(value, "a tensor"));
    }
    return tensors;
  }

  std::span<const std::byte> m_program;
  const std::filesystem::path& m_file;
  std::size_t m_position = 0;
  std::size_t m_opcodes = 0;
  std::vector<Value> m_values;
  std::vector<Index> m_stack;
  std::unordered_map<std::size_t, Index> m_memo;
};

}  // namespace

std::map<std::string, PickledTensor> readPickledTensors(std::span<const std::byte> program,
                                                        const std::filesystem::path& file) {
  return Machine(program, file).run();
}

}  // namespace mb
