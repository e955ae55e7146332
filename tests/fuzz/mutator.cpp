#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/model/mix.h"

namespace mb::fuzz {

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kInteresting[] = {0,
                                          1,
                                          2,
                                          3,
                                          7,
                                          8,
                                          15,
                                          16,
                                          17,
                                          127,
                                          128,
                                          255,
                                          256,
                                          511,
                                          1000,
                                          4095,
                                          4096,
                                          65535,
                                          65536,
                                          0x7fffffff,
                                          0x80000000,
                                          0xfffffffe,
                                          0xffffffff,
                                          1ull << 32,
                                          1ull << 40,
                                          1ull << 53,
                                          1ull << 62,
                                          (1ull << 63) - 1,
                                          1ull << 63,
                                          ~0ull - 7,
                                          ~0ull - 1,
                                          ~0ull,
                                          100000000,
                                          100000001,
                                          0xff,
                                          0xfff0,
                                          0x7ff0000000000000,
                                          0x7f800000,
                                          0x7fc0};

constexpr std::string_view kJsonValues[] = {"0",
                                            "-1",
                                            "1",
                                            "-0",
                                            "2",
                                            "3",
                                            "5",
                                            "1.5",
                                            "0.0",
                                            "1e5",
                                            "1e308",
                                            "1e400",
                                            "-1e400",
                                            "1e-400",
                                            "255",
                                            "256",
                                            "257",
                                            "4096",
                                            "65536",
                                            "65537",
                                            "1048576",
                                            "4194304",
                                            "2147483647",
                                            "2147483648",
                                            "4294967295",
                                            "4294967296",
                                            "9223372036854775807",
                                            "9223372036854775808",
                                            "18446744073709551615",
                                            "18446744073709551616",
                                            "-9223372036854775808",
                                            "-9223372036854775809",
                                            "1000000000000000000000000000000",
                                            "true",
                                            "false",
                                            "null",
                                            "[]",
                                            "{}",
                                            "\"\"",
                                            "[1]",
                                            "[0,0]",
                                            "[[[]]]",
                                            "{\"a\":1}",
                                            "\"auto\"",
                                            "\"F32\"",
                                            "\"F16\"",
                                            "\"BF16\"",
                                            "\"F64\"",
                                            "\"I8\"",
                                            "\"mamba\"",
                                            "\"mamba2\"",
                                            "\"silu\"",
                                            "\"..\"",
                                            "\"/etc/passwd\"",
                                            "\"a/b\"",
                                            "\".\"",
                                            "\"\\u0000\"",
                                            "\"\\ud800\"",
                                            "\"\\ud83d\\ude00\"",
                                            "\"\\n\"",
                                            "\"\xff\"",
                                            "\"a.safetensors\"",
                                            "\"config.json\"",
                                            "\"\xc4\xa0\"",
                                            "\"a b\"",
                                            "[\"a\",\"b\"]",
                                            "\" \"",
                                            "+1",
                                            "01",
                                            ".5",
                                            "1.",
                                            "Infinity",
                                            "NaN"};

constexpr std::string_view kPickleOps[] = {
    "(",    ".",    "N",    "}",    ")",    "]",    "t",    "\x85", "\x86", "\x87", "R",    "b",
    "s",    "u",    "Q",    "\x94", "\x88", "\x89", "0",    "2",    "e",    "a",    "l",    "d",
    "o",    "i",    "P",    "B",    "C",    "G",    "I",    "F",    "L",    "S",    "\x8b", "\x8d",
    "\x8e", "\x8f", "\x90", "\x91", "\x92", "\x93", "\x96", "\x97", "\x98"};

constexpr std::string_view kPickleLines[] = {"ccollections\nOrderedDict\n",
                                             "ctorch._utils\n_rebuild_tensor_v2\n",
                                             "ctorch\nFloatStorage\n",
                                             "ctorch\nHalfStorage\n",
                                             "ctorch\nBFloat16Storage\n",
                                             "ctorch\nDoubleStorage\n",
                                             "cos\nsystem\n",
                                             "cbuiltins\neval\n",
                                             "c\n\n",
                                             "c",
                                             "ctorch\n",
                                             "X\x04",
                                             "X\xff\xff\xff\xff",
                                             "\x8c\xff",
                                             "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
                                             "\x8a\x09",
                                             "J\xff\xff\xff\xff",
                                             "J\xff\xff\xff\x7f",
                                             "K\xff",
                                             "M\xff\xff",
                                             "\x95\xff\xff\xff\xff\xff\xff\xff\xff"};

/// One position; half of the time near the start or the end, where headers and directories are.
std::size_t placeIn(std::size_t size, Choices& choices) {
  constexpr std::size_t kNear = 256;
  if (size == 0) return 0;
  if (size <= kNear || choices.oneIn(2)) return choices.below(size);
  return choices.oneIn(2) ? choices.below(kNear) : size - 1 - choices.below(kNear);
}

/// A range of `size` bytes, most often short.
Piece rangeIn(std::size_t size, Choices& choices) {
  const std::size_t begin = placeIn(size, choices);
  const std::size_t longest = choices.oneIn(4) ? size : std::min<std::size_t>(size, 32);
  return {begin, std::min(size - begin, choices.below(longest + 1))};
}

void replace(Bytes& bytes, Piece piece, ByteView by) {
  if (bytes.size() - piece.second + by.size() > kMostBytes) return;
  const Bytes copy(by.begin(), by.end());  // `by` may lie in `bytes`
  const auto at = bytes.begin() + static_cast<std::ptrdiff_t>(piece.first);
  const auto after = bytes.erase(at, at + static_cast<std::ptrdiff_t>(piece.second));
  bytes.insert(after, copy.begin(), copy.end());
}

void replace(Bytes& bytes, Piece piece, std::string_view by) {
  replace(bytes, piece, ByteView(reinterpret_cast<const Byte*>(by.data()), by.size()));
}

ByteView view(const Bytes& bytes, Piece piece) {
  return ByteView(bytes).subspan(piece.first, piece.second);
}

// ---- any format

/// A length or an offset: 1, 2, 4 or 8 bytes, little endian.
void changeNumber(Bytes& bytes, Choices& choices) {
  const std::size_t size = std::size_t{1} << choices.below(4);
  if (bytes.size() < size) return;
  const std::size_t at = std::min(placeIn(bytes.size(), choices), bytes.size() - size);
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data() + at, size);
  switch (choices.below(4)) {
    case 0: value += choices.below(16) + 1; break;
    case 1: value -= choices.below(16) + 1; break;
    case 2: value *= 2; break;
    default: value = choices.of(kInteresting);
  }
  std::memcpy(bytes.data() + at, &value, size);
}

void changeByte(Bytes& bytes, Choices& choices) {
  if (bytes.empty()) return;
  Byte& byte = bytes[placeIn(bytes.size(), choices)];
  if (choices.oneIn(2))
    byte = static_cast<Byte>(byte ^ 1u << choices.below(8));
  else
    byte = static_cast<Byte>(choices.oneIn(2) ? choices.below(256) : choices.of(kInteresting));
}

void insertBytes(Bytes& bytes, Choices& choices) {
  Bytes inserted(choices.below(choices.oneIn(8) ? 5000 : 16));
  const bool same = choices.oneIn(2);
  const Byte first = static_cast<Byte>(choices.below(256));
  for (Byte& byte : inserted) byte = same ? first : static_cast<Byte>(choices.below(256));
  replace(bytes, {placeIn(bytes.size(), choices), 0}, inserted);
}

void copyRange(Bytes& bytes, Choices& choices) {
  const Piece source = rangeIn(bytes.size(), choices);
  Piece target{placeIn(bytes.size(), choices), 0};
  if (choices.oneIn(2)) target.second = std::min(source.second, bytes.size() - target.first);
  replace(bytes, target, view(bytes, source));
}

/// The start of one input and the end of another.
void splice(Bytes& bytes, const Bytes& other, Choices& choices) {
  const std::size_t cut = placeIn(bytes.size(), choices);
  const std::size_t from =
      choices.oneIn(2) ? std::min(cut, other.size()) : placeIn(other.size(), choices);
  replace(bytes, {cut, bytes.size() - cut}, view(other, {from, other.size() - from}));
}

void mutateBytes(Bytes& bytes, const Bytes& other, Choices& choices) {
  switch (choices.below(12)) {
    case 0:
    case 1:
    case 2: return changeByte(bytes, choices);
    case 3:
    case 4:
    case 5: return changeNumber(bytes, choices);
    case 6: return bytes.resize(placeIn(bytes.size(), choices));
    case 7: return replace(bytes, rangeIn(bytes.size(), choices), ByteView());
    case 8: return insertBytes(bytes, choices);
    case 9:
    case 10: return copyRange(bytes, choices);
    default: return splice(bytes, other, choices);
  }
}

// ---- JSON

bool isJsonWord(Byte byte) {
  return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
         (byte >= 'A' && byte <= 'Z') || byte == '-' || byte == '+' || byte == '.';
}

/// Many opening brackets, with or without the closing ones.
std::string nesting(Choices& choices) {
  const std::size_t depth = std::size_t{1} << choices.below(15);
  const bool objects = choices.oneIn(2);
  std::string text;
  for (std::size_t i = 0; i < depth; ++i) text += objects ? "{\"a\":" : "[";
  if (objects) text += "1";
  if (choices.oneIn(4)) return text;
  return text + std::string(depth, objects ? '}' : ']');
}

std::string jsonValue(Choices& choices) {
  if (choices.oneIn(16)) return nesting(choices);
  if (choices.oneIn(4)) return std::to_string(choices.of(kInteresting));
  if (choices.oneIn(16)) return Json(std::string(choices.below(20000), 'x')).dump();
  return std::string(choices.of(kJsonValues));
}

void mutateJsonText(Bytes& text, Choices& choices) {
  const std::vector<Piece> tokens = jsonTokens(text);
  if (tokens.empty()) return;
  const Piece target = choices.of(tokens);
  switch (choices.below(4)) {
    case 0:  // from elsewhere in the text
      return replace(text, target, view(text, choices.of(tokens)));
    case 1:  // a digit or a character within
      text[target.first + choices.below(target.second)] =
          static_cast<Byte>("0123456789-.eE\"\\u"[choices.below(17)]);
      return;
    default: return replace(text, target, jsonValue(choices));
  }
}

/// A random value of the document, most often deep in it.
Json* valueIn(Json& root, Choices& choices) {
  Json* value = &root;
  while (value->is_structured() && !value->empty() && !choices.oneIn(8)) {
    auto child = value->begin();
    std::advance(child, static_cast<std::ptrdiff_t>(choices.below(value->size())));
    value = &*child;
  }
  return value;
}

/// Printing a document takes stack for every level.
bool isDeep(ByteView text) {
  constexpr int kDeep = 500;
  int depth = 0;
  for (const Byte byte : text) {
    depth += byte == '[' || byte == '{' ? 1 : byte == ']' || byte == '}' ? -1 : 0;
    if (depth > kDeep) return true;
  }
  return false;
}

/// Null for what is no JSON.
Json parsed(const std::string& text) {
  if (isDeep(ByteView(reinterpret_cast<const Byte*>(text.data()), text.size()))) return {};
  const Json value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json() : value;
}

void eraseOne(Json& value, Choices& choices) {
  if (!value.is_structured() || value.empty()) return;
  auto child = value.begin();
  std::advance(child, static_cast<std::ptrdiff_t>(choices.below(value.size())));
  value.erase(child);
}

void mutateDocument(Json& root, Choices& choices) {
  Json& target = *valueIn(root, choices);
  const Json other = *valueIn(root, choices);
  switch (choices.below(5)) {
    case 0: return eraseOne(root.is_structured() && choices.oneIn(2) ? root : target, choices);
    case 1: target = other; return;
    case 2:
      if (target.is_array()) return target.push_back(other);
      if (target.is_object()) target[choices.oneIn(2) ? "shape" : "x"] = other;
      return;
    case 3:
      if (target.is_number_integer()) {
        target = target.get<std::uint64_t>() + choices.below(9) - 4;
        return;
      }
      [[fallthrough]];
    default: target = parsed(jsonValue(choices));
  }
}

/// Changes values of the document and keeps it JSON.
void mutateJson(Bytes& text, Choices& choices) {
  if (isDeep(text)) return mutateJsonText(text, choices);
  Json root = Json::parse(text.begin(), text.end(), nullptr, false);
  if (root.is_discarded()) return mutateJsonText(text, choices);
  for (std::size_t i = choices.below(3) + 1; i > 0; --i) mutateDocument(root, choices);
  const std::string changed =
      root.dump(choices.oneIn(2) ? 1 : -1, ' ', false, Json::error_handler_t::replace);
  if (changed.size() <= kMostBytes) text = toBytes(changed);
}

// ---- pickles

std::size_t lineEnd(ByteView program, std::size_t at) {
  const auto end = std::ranges::find(program.subspan(std::min(at, program.size())), Byte{'\n'});
  return static_cast<std::size_t>(end - program.begin()) + 1;
}

/// Bytes of the opcode at `at` and its arguments.
std::size_t opcodeSize(ByteView program, std::size_t at) {
  const auto lengthAt = [&](std::size_t bytes) {
    std::uint64_t length = 0;
    std::memcpy(&length, program.data() + at + 1, std::min(bytes, program.size() - at - 1));
    return 1 + bytes + static_cast<std::size_t>(length);
  };
  switch (program[at]) {
    case 'K':
    case 'q':
    case 'h':
    case 0x80: return 2;
    case 'M': return 3;
    case 'J':
    case 'r':
    case 'j': return 5;
    case 0x95: return 9;
    case 'X': return lengthAt(4);
    case 0x8a:
    case 0x8c: return lengthAt(1);
    case 'c': return lineEnd(program, lineEnd(program, at + 1)) - at;
    default: return 1;
  }
}

void changeArgument(Bytes& program, Piece opcode, Choices& choices) {
  if (opcode.second < 2) return replace(program, opcode, choices.of(kPickleOps));
  program[opcode.first + 1 + choices.below(opcode.second - 1)] =
      static_cast<Byte>(choices.of(kInteresting));
}

void mutatePickle(Bytes& program, Choices& choices) {
  const std::vector<Piece> opcodes = pickleOpcodes(program);
  if (opcodes.empty()) return;
  const Piece target = choices.of(opcodes);
  switch (choices.below(8)) {
    case 0: return replace(program, target, ByteView());
    case 1: return replace(program, {target.first, 0}, view(program, choices.of(opcodes)));
    case 2: return replace(program, target, view(program, choices.of(opcodes)));
    case 3: return replace(program, {target.first, 0}, choices.of(kPickleOps));
    case 4:
      return replace(program, {target.first, choices.oneIn(2) ? target.second : 0},
                     choices.of(kPickleLines));
    case 5: {  // a run of opcodes again
      const Piece end = choices.of(opcodes);
      const std::size_t from = std::min(target.first, end.first);
      const std::size_t to = std::max(target.first, end.first);
      return replace(program, {to, 0},
                     view(program, {from, std::min<std::size_t>(to - from, 4096)}));
    }
    default: return changeArgument(program, target, choices);
  }
}

// ---- inputs of several parts

/// Where the parts of an input lie; all but the last end before a zero byte.
std::vector<Piece> partsOf(ByteView input, std::size_t count) {
  std::vector<Piece> parts;
  std::size_t begin = 0;
  while (parts.size() + 1 < count) {
    const auto zero = std::ranges::find(input.subspan(begin), Byte{0});
    if (zero == input.end()) break;
    const auto end = static_cast<std::size_t>(zero - input.begin());
    parts.emplace_back(begin, end - begin);
    begin = end + 1;
  }
  parts.emplace_back(begin, input.size() - begin);
  return parts;
}

void mutatePart(Bytes& part, const Bytes& other, Format format, Choices& choices) {
  if (format == Format::Json && !choices.oneIn(3))
    return choices.oneIn(3) ? mutateJsonText(part, choices) : mutateJson(part, choices);
  if (format == Format::Pickle && !choices.oneIn(4)) return mutatePickle(part, choices);
  mutateBytes(part, other, choices);
}

std::uint64_t hashOf(std::string_view name) {
  std::uint64_t hash = 0;
  for (const char c : name) hash = mix(hash, static_cast<unsigned char>(c));
  return hash;
}

}  // namespace

std::uint64_t Choices::next() {
  return mix(m_seed, m_counter++);
}

std::vector<Piece> jsonTokens(ByteView text) {
  std::vector<Piece> tokens;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i + 1;
    if (text[i] == '"') {
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
      tokens.emplace_back(i, end - i);
    } else if (isJsonWord(text[i])) {
      while (end < text.size() && isJsonWord(text[end])) ++end;
      tokens.emplace_back(i, end - i);
    }
    i = end;
  }
  return tokens;
}

std::vector<Piece> pickleOpcodes(ByteView program) {
  std::vector<Piece> opcodes;
  for (std::size_t at = 0; at < program.size();) {
    const std::size_t size = std::min(opcodeSize(program, at), program.size() - at);
    opcodes.emplace_back(at, size);
    at += size;
  }
  return opcodes;
}

Bytes mutated(const Target& target, const std::vector<Sample>& seeds, std::uint64_t runSeed,
              std::uint64_t index) {
  Choices choices(mix(runSeed ^ hashOf(target.name), index));
  Bytes input = choices.of(seeds).input;
  const Bytes& other = choices.of(seeds).input;
  std::size_t rounds = 1;
  while (rounds < 8 && choices.oneIn(2)) ++rounds;
  for (; rounds > 0; --rounds) {
    const std::vector<Piece> parts = partsOf(input, target.parts.size());
    const std::size_t chosen = choices.below(parts.size());
    const ByteView piece = view(input, parts[chosen]);
    Bytes part(piece.begin(), piece.end());
    mutatePart(part, other, target.parts[chosen], choices);
    replace(input, parts[chosen], part);
  }
  return input;
}

}  // namespace mb::fuzz
