#include "engine/text_file.h"

#include <algorithm>
#include <lzma.h>
#include <memory>
#include <span>
#include <zstd.h>

#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kStep = 1 << 20;  // bytes from one look at the stop token to the next

bool startsWith(ByteView bytes, std::initializer_list<Byte> magic) {
  return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
}

FormatError damaged(const std::filesystem::path& file, const char* kind,
                    const std::string& problem) {
  return {file, kind, "a whole compressed text", problem};
}

Bytes readXz(const std::filesystem::path& file, ByteView packed, std::stop_token stop) {
  lzma_stream stream = LZMA_STREAM_INIT;
  const std::unique_ptr<lzma_stream, decltype(&lzma_end)> owner(&stream, lzma_end);
  if (lzma_stream_decoder(&stream, UINT64_MAX, LZMA_CONCATENATED) != LZMA_OK)
    throw std::bad_alloc();
  stream.next_in = packed.data();
  stream.avail_in = packed.size();
  Bytes text;
  lzma_ret status = LZMA_OK;
  while (status == LZMA_OK) {
    if (stop.stop_requested()) throw Stopped();
    const std::size_t size = text.size();
    text.resize(size + kStep);
    stream.next_out = text.data() + size;
    stream.avail_out = kStep;
    status = lzma_code(&stream, LZMA_FINISH);
    text.resize(text.size() - stream.avail_out);
  }
  if (status == LZMA_MEM_ERROR) throw std::bad_alloc();
  if (status == LZMA_BUF_ERROR) throw damaged(file, "xz data", "one that is cut off");
  if (status != LZMA_STREAM_END) throw damaged(file, "xz data", "one that is damaged");
  return text;
}

Bytes readZstd(const std::filesystem::path& file, ByteView packed, std::stop_token stop) {
  const std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream(ZSTD_createDStream(),
                                                                          ZSTD_freeDStream);
  if (!stream) throw std::bad_alloc();
  ZSTD_inBuffer in{packed.data(), packed.size(), 0};
  Bytes text;
  std::size_t missing = 1;  // of the current frame; 0 at its end
  bool isFull = false;      // the decoder may hold more
  while (in.pos < in.size || isFull) {
    if (stop.stop_requested()) throw Stopped();
    const std::size_t size = text.size();
    text.resize(size + kStep);
    ZSTD_outBuffer out{text.data() + size, kStep, 0};
    missing = ZSTD_decompressStream(stream.get(), &out, &in);
    text.resize(size + out.pos);
    if (ZSTD_isError(missing)) throw damaged(file, "zstd data", ZSTD_getErrorName(missing));
    isFull = out.pos == kStep;
  }
  if (missing != 0) throw damaged(file, "zstd data", "one that is cut off");
  return text;
}

}  // namespace

Bytes readText(const std::filesystem::path& file, std::stop_token stop) {
  const MappedFile mapped(file);
  const ByteView bytes(reinterpret_cast<const Byte*>(mapped.bytes().data()), mapped.bytes().size());
  if (startsWith(bytes, {0xfd, '7', 'z', 'X', 'Z', 0x00})) return readXz(file, bytes, stop);
  if (startsWith(bytes, {0x28, 0xb5, 0x2f, 0xfd})) return readZstd(file, bytes, stop);
  return {bytes.begin(), bytes.end()};
}

}  // namespace mb
