// What can go wrong, as types. Messages are complete sentences for the person at the window.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

namespace mb {

/// Base of everything the engine reports.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file that cannot be opened, read or written.
class FileError : public Error {
 public:
  FileError(const std::filesystem::path& file, const std::string& problem)
      : Error(file.string() + ": " + problem), m_file(file) {}
  const std::filesystem::path& file() const { return m_file; }

 private:
  std::filesystem::path m_file;
};

/// A file whose content is not what it has to be: names the file, the part of it (often a tensor),
/// what was expected and what was found.
class FormatError : public FileError {
 public:
  FormatError(const std::filesystem::path& file, const std::string& subject,
              const std::string& expected, const std::string& found)
      : FileError(file, subject + ": expected " + expected + ", found " + found),
        m_subject(subject),
        m_expected(expected),
        m_found(found) {}
  const std::string& subject() const { return m_subject; }
  const std::string& expected() const { return m_expected; }
  const std::string& found() const { return m_found; }

 private:
  std::string m_subject;
  std::string m_expected;
  std::string m_found;
};

/// A device that is missing, full or broken.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// A request that makes no sense for the model at hand, such as a byte-level run on a subword
/// model.
class RequestError : public Error {
 public:
  using Error::Error;
};

/// Training came to a loss that is not a number. Names the step.
class DivergedError : public Error {
 public:
  using Error::Error;
};

/// Thrown out of a computation whose stop token was triggered. Not an error.
class Stopped : public std::exception {
 public:
  const char* what() const noexcept override { return "stopped"; }
};

}  // namespace mb
