#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdexcept>

#include "engine/error.h"
#include "engine/tokenizer/tokenizer.h"

namespace mb {

namespace {

/// OpenAI's GPT-2 pre-tokenizer pattern, which GPT-NeoX shares.
constexpr std::string_view kPieces =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};

}  // namespace

struct PieceSplitter::Pattern {
  Pattern() {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPieces.data()), kPieces.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &error, &offset, nullptr);
    if (!code) throw std::logic_error("the piece pattern does not compile");
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  }
  ~Pattern() { pcre2_code_free(code); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  pcre2_code* code = nullptr;
};

PieceSplitter::PieceSplitter() : m_pattern(std::make_unique<Pattern>()) {}
PieceSplitter::~PieceSplitter() = default;
PieceSplitter::PieceSplitter(PieceSplitter&&) noexcept = default;
PieceSplitter& PieceSplitter::operator=(PieceSplitter&&) noexcept = default;

std::vector<std::size_t> PieceSplitter::split(ByteView text, std::stop_token stop) const {
  const std::unique_ptr<pcre2_match_data, FreeMatch> match(
      pcre2_match_data_create_from_pattern(m_pattern->code, nullptr));
  std::vector<std::size_t> lengths;
  std::size_t done = 0;
  while (done < text.size()) {
    if (stop.stop_requested()) throw Stopped();
    const int found =
        pcre2_match(m_pattern->code, text.data(), text.size(), done, 0, match.get(), nullptr);
    if (found <= 0) break;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
    if (range[0] > done) lengths.push_back(range[0] - done);  // bytes that are not UTF-8
    lengths.push_back(range[1] - range[0]);
    done = range[1];
  }
  if (done < text.size()) lengths.push_back(text.size() - done);
  return lengths;
}

}  // namespace mb
