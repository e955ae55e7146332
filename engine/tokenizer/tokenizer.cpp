#include "engine/tokenizer/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <queue>

#include "engine/checkpoint/json_reader.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/tokenizer/byte_level.h"

namespace mb {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kFileLimit = 256 << 20;

std::uint64_t pairKey(Token left, Token right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

bool lessBytes(ByteView a, ByteView b) {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
}

/// Whether the pre-tokenizer splits by pattern before merging.
bool readPreTokenizer(const JsonReader& root, const std::filesystem::path& file) {
  const JsonReader pre(root.object("pre_tokenizer"), file, "pre_tokenizer");
  const std::string type = pre.text("type");
  if (type != "ByteLevel") {
    throw FormatError(file, "pre_tokenizer \"type\"", "\"ByteLevel\"", inQuotes(type));
  }
  if (pre.flag("add_prefix_space", false))
    throw FormatError(file, "pre_tokenizer \"add_prefix_space\"", "false", "true");
  return pre.flag("use_regex", true);
}

/// Left and right text of a merge: ["a", "b"] or "a b".
std::pair<std::string, std::string> mergeParts(const Json& merge,
                                               const std::filesystem::path& file) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const std::string text = merge.get<std::string>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos) return {text.substr(0, space), text.substr(space + 1)};
  }
  throw FormatError(file, "merges", "pairs of tokens", merge.type_name());
}

/// Bytes at the end of a text that begin a UTF-8 character and do not finish it.
std::size_t unfinishedCharacter(ByteView text) {
  for (std::size_t size = 1; size <= 3 && size <= text.size(); ++size) {
    const Byte byte = text[text.size() - size];
    if ((byte & 0xc0) == 0x80) continue;
    const std::size_t needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > size ? size : 0;
  }
  return 0;
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& file) {
  const Json root = parseJson(readTextFile(file, kFileLimit), file, "tokenizer");
  const JsonReader reader(root, file, "tokenizer");
  m_splits = readPreTokenizer(reader, file);
  const JsonReader model(reader.object("model"), file, "model");
  const std::string type = model.text("type", "BPE");
  if (type != "BPE") throw FormatError(file, "model \"type\"", "\"BPE\"", inQuotes(type));
  m_wholePieces = model.flag("ignore_merges", false);
  readVocabulary(reader.object("model"), file);
  readMerges(reader.object("model"), file);
  readAddedTokens(root, file);
  checkMerges(file);
  index(file);
}

void Tokenizer::readVocabulary(const Json& model, const std::filesystem::path& file) {
  const Json& vocabulary = JsonReader(model, file, "model").object("vocab");
  // Ids run without large gaps; a stray large one must not allocate a table of its size.
  const std::size_t limit = 4 * vocabulary.size() + 1024;
  m_bytes.resize(vocabulary.size());
  std::vector<bool> taken(limit);
  for (const auto& [text, entry] : vocabulary.items()) {
    if (!entry.is_number_unsigned() || entry.get<std::uint64_t>() >= limit) {
      throw FormatError(file, "vocab " + inQuotes(text), "an id below " + std::to_string(limit),
                        entry.is_number() ? entry.dump() : entry.type_name());
    }
    const auto id = entry.get<std::size_t>();
    if (taken[id])
      throw FormatError(file, "vocab " + inQuotes(text), "an id of its own", std::to_string(id));
    taken[id] = true;
    if (id >= m_bytes.size()) m_bytes.resize(id + 1);
    // An entry outside the alphabet stands for its own text.
    m_bytes[id] = bytesOfAlphabet(text).value_or(toBytes(text));
  }
}

void Tokenizer::readMerges(const Json& model, const std::filesystem::path& file) {
  const Json& vocabulary = model.at("vocab");
  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array()) {
    throw FormatError(file, "merges", "an array",
                      merges == model.end() ? "none" : merges->type_name());
  }
  const auto idOf = [&](const std::string& text) {
    const auto entry = vocabulary.find(text);
    if (entry == vocabulary.end())
      throw FormatError(file, "merges", "tokens of the vocabulary", inQuotes(text));
    return entry->get<Token>();
  };
  std::uint32_t rank = 0;
  for (const Json& merge : *merges) {
    const auto [left, right] = mergeParts(merge, file);
    m_merges.try_emplace(pairKey(idOf(left), idOf(right)), Merge{rank++, idOf(left + right)});
  }
}

/// Special tokens stand for no bytes. The others, such as the runs of spaces of GPT-NeoX, stand for
/// their text.
void Tokenizer::readAddedTokens(const Json& root, const std::filesystem::path& file) {
  const auto added = root.find("added_tokens");
  if (added == root.end() || !added->is_array()) return;
  const std::size_t most = m_bytes.size() + added->size() + 1024;  // as for the vocabulary
  for (const Json& entry : *added) {
    const JsonReader token(entry, file, "added_tokens");
    const std::size_t id = token.size("id", 0, most);
    if (id >= m_bytes.size()) m_bytes.resize(id + 1);
    m_bytes[id] = token.flag("special", false) ? Bytes() : toBytes(token.text("content"));
  }
}

/// Encoding is lossless when every merge joins exactly the bytes of its parts.
void Tokenizer::checkMerges(const std::filesystem::path& file) const {
  for (const auto& [key, merge] : m_merges) {
    const Token parts[] = {static_cast<Token>(key >> 32), static_cast<Token>(key & 0xffffffffu)};
    const ByteView result = bytes(merge.result);
    if (!std::ranges::equal(decode(parts), result)) {
      throw FormatError(file, "merge into token " + std::to_string(merge.result),
                        "the bytes of its parts " + inQuotes(toText(decode(parts))),
                        inQuotes(toText(result)));
    }
  }
}

/// Builds the look-ups and checks that every byte can be written.
void Tokenizer::index(const std::filesystem::path& file) {
  for (std::size_t id = 0; id < m_bytes.size(); ++id)
    if (!m_bytes[id].empty()) m_sorted.push_back(static_cast<Token>(id));
  std::sort(m_sorted.begin(), m_sorted.end(), [&](Token a, Token b) {
    return lessBytes(bytes(a), bytes(b)) || (!lessBytes(bytes(b), bytes(a)) && a < b);
  });
  for (int byte = 0; byte < kByteVocabulary; ++byte) {
    const Byte value = static_cast<Byte>(byte);
    m_byteTokens.push_back(find({&value, 1}));
    if (m_byteTokens.back() < 0)
      throw FormatError(file, "vocab", "a token for every byte",
                        "none for byte " + std::to_string(byte));
  }
}

Token Tokenizer::find(ByteView wanted) const {
  const auto at = std::ranges::lower_bound(m_sorted, wanted, lessBytes,
                                           [&](Token token) { return bytes(token); });
  return at != m_sorted.end() && std::ranges::equal(bytes(*at), wanted) ? *at : -1;
}

std::vector<Token> Tokenizer::encode(ByteView text) const {
  return encode(text, {});
}

std::vector<Token> Tokenizer::encode(ByteView text, std::stop_token stop) const {
  std::vector<Token> tokens;
  if (!m_splits) {
    encodePiece(text, tokens);
    return tokens;
  }
  std::size_t start = 0;
  for (const std::size_t length : m_splitter.split(text, stop)) {
    if (stop.stop_requested()) throw Stopped();
    encodePiece(text.subspan(start, length), tokens);
    start += length;
  }
  return tokens;
}

std::vector<std::size_t> Tokenizer::pieces(ByteView text) const {
  if (m_splits) return m_splitter.split(text);
  return text.empty() ? std::vector<std::size_t>() : std::vector{text.size()};
}

/// Two endings can reach back behind the last piece: half a character, whose other half decides
/// whether it is a letter, and an apostrophe with the first letter of 're, 've or 'll.
std::size_t Tokenizer::lastPieceStart(ByteView text) const {
  if (!m_splits) return 0;
  text = text.first(text.size() - unfinishedCharacter(text));
  if (text.empty()) return 0;
  const std::vector<std::size_t> lengths = m_splitter.split(text);
  const std::size_t last = text.size() - lengths.back();
  const bool halfContraction = lengths.size() > 1 && lengths[lengths.size() - 2] == 1 &&
                               text[last - 1] == '\'' && lengths.back() == 1 &&
                               (text[last] == 'r' || text[last] == 'v' || text[last] == 'l');
  return halfContraction ? last - 1 : last;
}

/// Merges the pair of lowest rank, the leftmost first, until none is left. A heap of candidate
/// pairs over a linked list keeps long pieces at n log n.
void Tokenizer::encodePiece(ByteView piece, std::vector<Token>& out) const {
  if (m_wholePieces) {
    const Token whole = find(piece);
    if (whole >= 0) return out.push_back(whole);
  }
  struct Node {
    Token token;
    std::size_t previous;
    std::size_t next;
  };
  struct Candidate {
    std::uint32_t rank;
    std::size_t left;
    Token leftToken;
    Token rightToken;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  constexpr Token kMerged = -1;
  const std::size_t end = piece.size();
  std::vector<Node> nodes(end);
  for (std::size_t i = 0; i < end; ++i)
    nodes[i] = {m_byteTokens[piece[i]], i == 0 ? end : i - 1, i + 1};
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::size_t left) {
    if (left == end || nodes[left].next == end) return;
    const Token a = nodes[left].token;
    const Token b = nodes[nodes[left].next].token;
    const auto merge = m_merges.find(pairKey(a, b));
    if (merge != m_merges.end()) queue.push({merge->second.rank, left, a, b});
  };
  for (std::size_t i = 0; i + 1 < end; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Node& left = nodes[best.left];
    if (left.token != best.leftToken || left.next == end ||
        nodes[left.next].token != best.rightToken)
      continue;  // one of the two has been merged since
    Node& right = nodes[left.next];
    left.token = m_merges.at(pairKey(best.leftToken, best.rightToken)).result;
    right.token = kMerged;
    left.next = right.next;
    if (left.next != end) nodes[left.next].previous = best.left;
    consider(best.left);
    consider(left.previous);
  }
  for (std::size_t i = 0; i < end; i = nodes[i].next) out.push_back(nodes[i].token);
}

Bytes Tokenizer::decode(TokenView tokens) const {
  Bytes text;
  for (const Token token : tokens) {
    const ByteView part = bytes(token);
    text.insert(text.end(), part.begin(), part.end());
  }
  return text;
}

}  // namespace mb
