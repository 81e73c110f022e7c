#include "tests/support/safetensors_writer.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "engine/base/check.h"

namespace longdoc::testing {

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i) & 0xff));
  bytes.append(header);
  bytes.append(data);
  return bytes;
}

void WriteFileOrDie(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  LD_CHECK(out.good());
}

std::string ReadFileOrDie(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  LD_CHECK(in.good());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void SafetensorsWriter::AddF32(const std::string& name, std::vector<int64_t> shape,
                               std::vector<float> values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  AddRaw(name, "F32", std::move(shape), std::move(bytes));
}

void SafetensorsWriter::AddRaw(const std::string& name, const std::string& dtype,
                               std::vector<int64_t> shape, std::string bytes) {
  tensors_[name] = Tensor{dtype, std::move(shape), std::move(bytes)};
}

std::vector<float> SafetensorsWriter::F32(const std::string& name) const {
  const Tensor& tensor = tensors_.at(name);
  LD_CHECK(tensor.dtype == "F32");
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

std::vector<std::string> SafetensorsWriter::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

void SafetensorsWriter::WriteFile(const std::string& path) const {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors_) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  WriteFileOrDie(path, SafetensorsBytes(text, data));
}

}  // namespace longdoc::testing
