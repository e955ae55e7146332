#include "engine/training/verifier_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/file_io.h"
#include "engine/model/mix.h"

namespace mb {

namespace {

constexpr std::size_t kLargestDescription = 1 << 16;

/// Reads and writes one part with a verifier.
class Author {
 public:
  Author(const Model& model, const WritingOptions& options, std::stop_token stop)
      : m_runner(model.newRunner()),
        m_state(model.newState()),
        m_sampler(options.sampler),
        m_stop(std::move(stop)) {}

  void read(ByteView bytes) {
    const std::vector<Token> tokens(bytes.begin(), bytes.end());
    for (std::size_t first = 0; first < tokens.size(); first += m_runner->maxRead())
      advance(
          TokenView(tokens).subspan(first, std::min(m_runner->maxRead(), tokens.size() - first)));
    m_part.insert(m_part.end(), bytes.begin(), bytes.end());
  }
  void write(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const Token token = m_sampler.draw(m_runner->logits(0), m_part.size(), ByteView(m_part));
      m_part.push_back(static_cast<Byte>(token));
      advance({&token, 1});
    }
  }
  Bytes take() { return std::move(m_part); }

 private:
  void advance(TokenView tokens) {
    m_runner->advance(m_state, m_state, tokens, {LogitsWanted::Last, {}, m_stop});
  }

  std::unique_ptr<Runner> m_runner;
  State m_state;
  Sampler m_sampler;
  std::stop_token m_stop;
  Bytes m_part;
};

/// Parts begin evenly spread over the text, which is read around its end.
Bytes makePart(std::size_t part, ByteView text, const WritingOptions& options, const Model& model,
               std::stop_token stop) {
  WritingOptions own = options;
  own.sampler.seed = mix(options.sampler.seed, part);
  if (const auto& turns = options.temperatures; !turns.empty())
    own.sampler.temperature = turns[part % turns.size()];
  Author author(model, own, std::move(stop));
  std::size_t place = static_cast<std::size_t>(part * text.size() / options.parts());
  Bytes prompt(options.read);
  for (std::size_t i = 0; i < WritingOptions::kStretches; ++i) {
    for (Byte& byte : prompt) byte = text[place++ % text.size()];
    author.read(prompt);
    author.write(options.write);
  }
  return author.take();
}

/// Parts from `first` on, one an author.
std::vector<Bytes> makeParts(std::size_t first, std::size_t count, ByteView text,
                             const WritingOptions& options,
                             std::span<const std::shared_ptr<const Model>> authors,
                             std::stop_token stop) {
  std::vector<Bytes> parts(count);
  std::vector<std::exception_ptr> errors(count);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < count; ++i) {
      threads.emplace_back([&, i] {
        try {
          parts[i] = makePart(first + i, text, options, *authors[i], stop);
        } catch (...) {
          errors[i] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return parts;
}

nlohmann::json describe(const WritingOptions& o) {
  nlohmann::json json = {{"bytes", o.bytes},        {"read", o.read},
                         {"write", o.write},        {"temperature", o.sampler.temperature},
                         {"top_k", o.sampler.topK}, {"top_p", o.sampler.topP},
                         {"min_p", o.sampler.minP}, {"seed", o.sampler.seed}};
  if (o.temperatures.size() > 1) json["temperature"] = o.temperatures;
  return json;
}

}  // namespace

std::size_t WritingOptions::parts() const {
  const std::uint64_t part = kStretches * write;
  return static_cast<std::size_t>((bytes + part - 1) / part);
}

void checkOptions(const WritingOptions& o) {
  const auto atLeastOne = [](const char* what, std::uint64_t value) {
    if (value < 1)
      throw RequestError(std::string(what) + ": expected at least 1, found " +
                         std::to_string(value));
  };
  atLeastOne("bytes that the verifier writes", o.bytes);
  atLeastOne("bytes of the text before a stretch", o.read);
  atLeastOne("bytes of a stretch", o.write);
}

void writeOn(Bytes& written, ByteView text, const WritingOptions& options,
             std::span<const std::shared_ptr<const Model>> authors, const WritingProgress& progress,
             std::stop_token stop) {
  checkOptions(options);
  if (text.empty()) throw RequestError("text to go on from: expected at least 1 byte, found none");
  for (const auto& author : authors)
    if (!author->config().isByteLevel())
      throw RequestError(
          "verifier: expected a byte model, with a vocabulary of 256, found one of " +
          std::to_string(author->config().vocabSize));
  for (std::size_t part = written.size() / options.partBytes(); part < options.parts();) {
    const std::size_t count = std::min(authors.size(), options.parts() - part);
    for (const Bytes& bytes : makeParts(part, count, text, options, authors, stop))
      written.insert(written.end(), bytes.begin(), bytes.end());
    part += count;
    if (progress) progress(written.size(), options.parts() * options.partBytes());
  }
}

std::vector<std::uint8_t> tokensOfTheVerifier(TokenView tokens, const Tokenizer* tokenizer,
                                              const WritingOptions& options) {
  std::vector<std::uint8_t> written(tokens.size());
  std::size_t end = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    end += tokenizer ? tokenizer->bytes(tokens[i]).size() : 1;
    written[i] = options.isWritten(end - 1) ? 1 : 0;
  }
  return written;
}

VerifierTextFile::VerifierTextFile(std::filesystem::path folder, const WritingOptions& options,
                                   const nlohmann::json& origin)
    : m_folder(std::move(folder)),
      m_partBytes(options.partBytes()),
      m_description(nlohmann::json({{"origin", origin}, {"options", describe(options)}}).dump()) {}

Bytes VerifierTextFile::load() const {
  const std::filesystem::path description = m_folder / "written.json";
  if (!std::filesystem::exists(description) || !std::filesystem::exists(path())) return {};
  const std::string found = readTextFile(description, kLargestDescription);
  if (found != m_description)
    throw FormatError(description, "how the verifier's text came to be", m_description, found);
  const MappedFile content(path());
  const auto* data = reinterpret_cast<const Byte*>(content.bytes().data());
  return {data, data + content.bytes().size() / m_partBytes * m_partBytes};
}

void VerifierTextFile::save(ByteView written) const {
  makeFolder(m_folder);
  writeFileAtomically(m_folder / "written.json", m_description);
  writeFileAtomically(path(), toText(written));
}

}  // namespace mb
