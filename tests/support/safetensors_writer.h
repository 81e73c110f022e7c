// Writes small safetensors files for tests, good ones and, through the raw parts, broken ones.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace longdoc::testing {

// Little-endian length, header, data: the file as it lies on disk.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

void WriteFileOrDie(const std::string& path, std::string_view bytes);
std::string ReadFileOrDie(const std::string& path);

// Collects tensors and lays them out in the order of their names.
class SafetensorsWriter {
 public:
  void AddF32(const std::string& name, std::vector<int64_t> shape, std::vector<float> values);
  void AddRaw(const std::string& name, const std::string& dtype, std::vector<int64_t> shape,
              std::string bytes);
  void Remove(const std::string& name) { tensors_.erase(name); }

  bool Has(const std::string& name) const { return tensors_.count(name) != 0; }
  std::vector<float> F32(const std::string& name) const;
  std::vector<std::string> Names() const;
  void WriteFile(const std::string& path) const;

 private:
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };
  std::map<std::string, Tensor> tensors_;
};

}  // namespace longdoc::testing
