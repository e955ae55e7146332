// Models that tests run on.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/decoding/subword_drafter.h"
#include "engine/model/model.h"

namespace mb::test {

std::filesystem::path goldenFolder(const std::string& name);
std::filesystem::path bundledFolder(const std::string& name);

/// What the reference implementation computed for a golden model.
struct Golden {
  std::vector<Token> inputs;
  std::vector<double> nll;                      ///< nats, of each next input
  std::vector<Token> greedy48;                  ///< continuation
  std::vector<float> logits;                    ///< [inputs][vocabulary]
  std::vector<std::vector<float>> hidden;       ///< per layer [e][n]
  std::vector<std::vector<float>> convolution;  ///< per layer [e][k]
};
Golden loadGolden(const std::string& name);
/// Names of the folders with expected values, and of those in the state-spaces layout.
std::vector<std::string> goldenNames();

std::shared_ptr<const Model> openModel(const std::filesystem::path& folder,
                                       WeightPrecision precision = WeightPrecision::Float32,
                                       const std::string& simd = "", std::size_t threads = 2);
/// A byte model of random weights small enough for thousands of runs.
std::shared_ptr<const Model> tinyByteModel();
/// The bundled pair, sharing one team of threads.
struct Pair {
  std::shared_ptr<const Model> verifier;
  std::shared_ptr<SubwordDrafter> drafter;
};
Pair bundledPair();

/// A folder that is deleted with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return m_path; }
  std::filesystem::path operator/(const std::string& name) const { return m_path / name; }

 private:
  std::filesystem::path m_path;
};

std::string readFile(const std::filesystem::path& file);
void writeFile(const std::filesystem::path& file, std::string_view content);

}  // namespace mb::test
