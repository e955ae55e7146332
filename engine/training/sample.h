// What a model writes after a prompt, for whoever watches it learn.
#pragma once

#include <stop_token>

#include "engine/decoding/sampler.h"
#include "engine/model/model.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/types.h"

namespace mb {

/// The first words of a text to begin samples with: from the beginning of a line or at least of a
/// word. Never empty.
Bytes promptFrom(ByteView text);

/// The prompt and `count` tokens more. A byte model has no tokenizer (null). Throws Stopped, or
/// RequestError for an empty prompt.
Bytes writeSample(const Model& model, const Tokenizer* tokenizer, ByteView prompt,
                  std::size_t count, const SamplerSettings& settings, std::stop_token stop);

}  // namespace mb
