#include "engine/resources.h"

#include <vector>

#include "engine/error.h"
#include "engine/version.h"

namespace mb {

namespace {

std::vector<std::filesystem::path> resourceFolders() {
  std::vector<std::filesystem::path> folders;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const std::filesystem::path folder = program.parent_path();
    folders.push_back(folder.parent_path() / "share" / "mambabyte-playground");
    for (auto above = folder; above != above.parent_path(); above = above.parent_path())
      folders.push_back(above / "resources");
  }
  folders.emplace_back(MB_SOURCE_RESOURCES);
  return folders;
}

}  // namespace

std::filesystem::path findResource(const std::string& name) {
  std::string searched;
  for (const std::filesystem::path& folder : resourceFolders()) {
    std::error_code error;
    const std::filesystem::path candidate = folder / name;
    if (std::filesystem::exists(candidate, error)) return candidate;
    searched += (searched.empty() ? "" : ", ") + folder.string();
  }
  throw FileError(name, "is not among the program's resources; searched " + searched);
}

}  // namespace mb
