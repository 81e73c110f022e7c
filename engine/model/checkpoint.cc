// Checkpoint: one safetensors file, or the shards that an index names.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/base/hash.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/model/json_sax.h"
#include "engine/model/safetensors.h"

namespace longdoc {
namespace {

constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr int64_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxShards = 10'000;
// Bytes before the header: its length as a little-endian 64-bit number.
constexpr int64_t kLengthBytes = 8;

struct Shard {
  std::string path;
  MappedFile file;
  int64_t data_begin = 0;  // file offset of the data section
  std::map<std::string, TensorEntry> tensors;

  std::string_view header() const {
    return file.bytes().substr(kLengthBytes, static_cast<size_t>(data_begin - kLengthBytes));
  }
};

absl::Status Annotate(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

absl::StatusOr<Shard> OpenShard(const std::string& path) {
  Shard shard;
  shard.path = path;
  ASSIGN_OR_RETURN(shard.file, MappedFile::Open(path));
  const int64_t size = shard.file.size();
  if (size < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes are too few for a safetensors file, at least %d are needed",
                        path, size, kLengthBytes));
  }
  uint64_t length = 0;
  for (int i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(shard.file.data()[i]) << (8 * i);
  }
  if (length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: header length %d is over the limit of %d bytes", path, length, kMaxHeaderBytes));
  }
  if (static_cast<int64_t>(length) > size - kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: header length %d exceeds the %d bytes that follow it", path, length,
                        size - kLengthBytes));
  }
  shard.data_begin = kLengthBytes + static_cast<int64_t>(length);
  auto tensors = ParseSafetensorsHeader(shard.header(), size - shard.data_begin);
  if (!tensors.ok()) return Annotate(path, tensors.status());
  shard.tensors = std::move(tensors).value();
  return shard;
}

// {"metadata": {…}, "weight_map": {"tensor": "file", …}}
class IndexSax final : public JsonSax {
 public:
  IndexSax() : JsonSax("index", /*max_depth=*/16) {}
  std::map<std::string, std::string> TakeWeightMap() { return std::move(weight_map_); }
  bool has_weight_map() const { return has_weight_map_; }

 private:
  bool InWeightMap() const { return top_key_ == "weight_map"; }

  bool OnStartObject() override {
    if (!InWeightMap()) return true;
    if (depth() != 1) return Unexpected("an object");
    has_weight_map_ = true;
    return true;
  }
  bool OnStartArray() override {
    return depth() > 0 && !InWeightMap() ? true : Unexpected("an array");
  }
  bool OnKey(const std::string& key) override {
    (depth() == 1 ? top_key_ : name_) = key;
    return true;
  }
  bool OnString(const std::string& file) override {
    if (!InWeightMap()) return depth() > 0 ? true : Unexpected("a string");
    if (depth() != 2) return Unexpected("a string");
    // Shards lie beside the index: a name that could lead elsewhere is refused.
    if (file.empty() || file.size() > 255 || file.find('/') != std::string::npos ||
        file.find('\\') != std::string::npos || file.find("..") != std::string::npos ||
        file.find('\0') != std::string::npos) {
      return Fail(absl::StrCat("tensor ", Quoted(name_), ": file name ", Quoted(file),
                               " is not a plain file name"));
    }
    weight_map_.emplace(name_, file);
    return true;
  }
  bool OnUnsigned(uint64_t) override { return !InWeightMap() ? true : Unexpected("a number"); }
  bool OnOther(const char* kind) override { return !InWeightMap() ? true : Unexpected(kind); }

  std::string top_key_, name_;
  std::map<std::string, std::string> weight_map_;
  bool has_weight_map_ = false;
};

class CheckpointImpl final : public Checkpoint {
 public:
  absl::Status AddFile(const std::string& path) {
    ASSIGN_OR_RETURN(Shard shard, OpenShard(path));
    auto owned = std::make_unique<Shard>(std::move(shard));
    for (const auto& [name, entry] : owned->tensors) tensors_[name] = {owned.get(), &entry};
    shards_.push_back(std::move(owned));
    return absl::OkStatus();
  }

  absl::Status AddIndex(const std::string& model_dir, const std::string& index_path) {
    ASSIGN_OR_RETURN(const std::string json, ReadSmallFile(index_path, kMaxIndexBytes));
    IndexSax sax;
    if (absl::Status status = sax.Run(json); !status.ok()) return Annotate(index_path, status);
    if (!sax.has_weight_map()) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": index: has no weight_map"));
    }
    const std::map<std::string, std::string> weight_map = sax.TakeWeightMap();
    std::set<std::string> files;
    for (const auto& [name, file] : weight_map) files.insert(file);
    if (files.size() > kMaxShards) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: index: %d shards, limit is %d",
                                                        index_path, files.size(), kMaxShards));
    }
    std::map<std::string, const Shard*> by_file;
    for (const std::string& file : files) {
      auto shard = OpenShard(absl::StrCat(model_dir, "/", file));
      if (absl::IsNotFound(shard.status())) {
        // The index is there, its shard is not: the model is broken rather than absent.
        return absl::InvalidArgumentError(
            absl::StrCat(index_path, ": index: ", std::string(shard.status().message())));
      }
      if (!shard.ok()) return shard.status();
      shards_.push_back(std::make_unique<Shard>(std::move(shard).value()));
      by_file[file] = shards_.back().get();
    }
    for (const auto& [name, file] : weight_map) {
      const Shard* shard = by_file.at(file);
      const auto it = shard->tensors.find(name);
      if (it == shard->tensors.end()) {
        return absl::InvalidArgumentError(absl::StrCat(index_path, ": index: tensor ", Quoted(name),
                                                       " is not in ", Quoted(file)));
      }
      tensors_[name] = {shard, &it->second};
    }
    return absl::OkStatus();
  }

  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    names.reserve(tensors_.size());
    for (const auto& [name, place] : tensors_) names.push_back(name);
    return names;
  }

  bool Has(std::string_view name) const override { return tensors_.find(name) != tensors_.end(); }

  const TensorEntry* Find(std::string_view name) const override {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : it->second.entry;
  }

  absl::StatusOr<TensorView> Get(std::string_view name,
                                 const std::vector<int64_t>& shape) const override {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) {
      return absl::NotFoundError(absl::StrCat("checkpoint has no tensor ", Quoted(name)));
    }
    const auto& [shard, entry] = it->second;
    if (entry->dtype_name != "F32" && entry->dtype_name != "BF16" && entry->dtype_name != "F16") {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: tensor %s has dtype %s, F32, BF16 or F16 is needed", shard->path,
                          Quoted(name), entry->dtype_name));
    }
    if (entry->shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: tensor %s has shape [%s], [%s] is needed", shard->path, Quoted(name),
                          absl::StrJoin(entry->shape, ", "), absl::StrJoin(shape, ", ")));
    }
    return TensorView{entry->dtype, shape, AlignedData(it->first, it->second)};
  }

  void Release(std::string_view name) const override {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return;
    const auto& [shard, entry] = it->second;
    shard->file.Release(shard->data_begin + entry->begin, shard->data_begin + entry->end);
  }

  int64_t file_bytes() const override {
    int64_t bytes = 0;
    for (const auto& shard : shards_) bytes += shard->file.size();
    return bytes;
  }

  uint64_t Fingerprint() const override {
    constexpr int64_t kSampleBytes = 64;
    uint64_t hash = kFnvOffset;
    for (const auto& shard : shards_) {
      hash = Fnv1a(absl::StrCat(shard->file.size(), ";"), hash);
      hash = Fnv1a(shard->header(), hash);
      for (const auto& [name, entry] : shard->tensors) {
        const int64_t bytes = std::min(kSampleBytes, entry.end - entry.begin);
        hash =
            Fnv1a(shard->file.bytes().substr(static_cast<size_t>(shard->data_begin + entry.begin),
                                             static_cast<size_t>(bytes)),
                  hash);
      }
    }
    return hash;
  }

 private:
  struct Place {
    const Shard* shard = nullptr;
    const TensorEntry* entry = nullptr;
  };

  // The tensor's bytes at an address that its type allows. The format does not promise alignment;
  // writers of today give it, so the copy is for old files.
  const void* AlignedData(const std::string& name, const Place& place) const {
    const uint8_t* data = place.shard->file.data() + place.shard->data_begin + place.entry->begin;
    if (reinterpret_cast<uintptr_t>(data) % kernels::SizeOf(place.entry->dtype) == 0) return data;
    std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<uint8_t[]>& copy = copies_[name];
    if (copy == nullptr) {
      const size_t bytes = static_cast<size_t>(place.entry->end - place.entry->begin);
      copy = std::make_unique<uint8_t[]>(bytes);
      std::memcpy(copy.get(), data, bytes);
    }
    return copy.get();
  }

  std::vector<std::unique_ptr<Shard>> shards_;
  std::map<std::string, Place, std::less<>> tensors_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::unique_ptr<uint8_t[]>> copies_;  // guarded by mutex_
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& model_dir) {
  auto checkpoint = std::make_unique<CheckpointImpl>();
  const std::string single = absl::StrCat(model_dir, "/model.safetensors");
  absl::Status status = checkpoint->AddFile(single);
  if (absl::IsNotFound(status)) {
    const std::string index = absl::StrCat(single, ".index.json");
    status = checkpoint->AddIndex(model_dir, index);
    if (absl::IsNotFound(status)) {
      return absl::NotFoundError(absl::StrFormat(
          "%s has neither model.safetensors nor model.safetensors.index.json", model_dir));
    }
  }
  RETURN_IF_ERROR(status);
  return checkpoint;
}

}  // namespace longdoc
