// Pickle programs put together by hand, and the zip archives that torch.save wraps them in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/checkpoint/tensor.h"

namespace mb::test {

/// A pickle as it grows, opcode by opcode (protocol 2, as torch.save writes it).
class Pickle {
 public:
  Pickle& raw(const std::string& bytes) {
    m_program += bytes;
    return *this;
  }
  Pickle& start() { return raw("\x80\x02"); }
  Pickle& stop() { return raw("."); }
  Pickle& global(const std::string& module, const std::string& name) {
    return raw("c" + module + "\n" + name + "\n");
  }
  Pickle& text(const std::string& value) {
    return raw("X").integer(static_cast<std::uint32_t>(value.size())).raw(value);
  }
  Pickle& number(std::int32_t value) { return raw("J").integer(static_cast<std::uint32_t>(value)); }
  Pickle& tuple(const std::vector<std::int32_t>& values) {
    raw("(");
    for (const std::int32_t value : values) number(value);
    return raw("t");
  }
  /// ('storage', torch.<type>, key, 'cpu', elements) and the persistent load of it.
  Pickle& storage(const std::string& type, const std::string& key, std::int32_t elements) {
    return raw("(")
        .text("storage")
        .global("torch", type)
        .text(key)
        .text("cpu")
        .number(elements)
        .raw("tQ");
  }
  /// _rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())
  Pickle& tensor(const std::string& type, const std::string& key, std::int32_t elements,
                 std::int32_t offset, const std::vector<std::int32_t>& shape,
                 const std::vector<std::int32_t>& strides) {
    global("torch._utils", "_rebuild_tensor_v2").raw("(").storage(type, key, elements);
    return number(offset).tuple(shape).tuple(strides).raw("\x89").emptyDict().raw("tR");
  }
  Pickle& emptyDict() { return global("collections", "OrderedDict").raw(")R"); }
  Pickle& integer(std::uint32_t value) {
    return raw({reinterpret_cast<const char*>(&value), sizeof value});
  }

  const std::string& program() const { return m_program; }

 private:
  std::string m_program;
};

/// Row-major strides.
std::vector<std::int32_t> stridesOf(const std::vector<std::int32_t>& shape);

/// A zip with "archive/data.pkl" and "archive/data/<key>". Entries are stored, or compressed when
/// asked for.
void writeTorchFile(const std::filesystem::path& file, const std::string& program,
                    const std::map<std::string, std::string>& storages, bool compressed = false);

}  // namespace mb::test
