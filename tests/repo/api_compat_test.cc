// The API may grow but not change: every field, enum value and method that was ever released keeps
// its number, name and type. Compares the compiled .proto files with a stored listing.
#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "gtest/gtest.h"

namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;

std::string TypeOf(const FieldDescriptor& field) {
  std::string type = field.is_repeated() ? "repeated " : field.has_presence() ? "optional " : "";
  if (field.message_type() != nullptr) return type + field.message_type()->full_name();
  if (field.enum_type() != nullptr) return type + field.enum_type()->full_name();
  return type + field.type_name();
}

void ListEnum(const EnumDescriptor& type, std::set<std::string>* lines) {
  for (int i = 0; i < type.value_count(); ++i) {
    lines->insert(absl::StrCat("value ", type.full_name(), " ", type.value(i)->number(), " ",
                               type.value(i)->name()));
  }
}

void ListMessage(const Descriptor& message, std::set<std::string>* lines) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const auto* oneof = field.real_containing_oneof();
    lines->insert(absl::StrCat("field ", message.full_name(), " ", field.number(), " ",
                               field.name(), " ", TypeOf(field),
                               oneof ? absl::StrCat(" in ", oneof->name()) : std::string()));
  }
  for (int i = 0; i < message.nested_type_count(); ++i) ListMessage(*message.nested_type(i), lines);
  for (int i = 0; i < message.enum_type_count(); ++i) ListEnum(*message.enum_type(i), lines);
}

void ListService(const ServiceDescriptor& service, std::set<std::string>* lines) {
  for (int i = 0; i < service.method_count(); ++i) {
    const MethodDescriptor& method = *service.method(i);
    lines->insert(absl::StrCat(
        "method ", method.full_name(), " (", method.client_streaming() ? "stream " : "",
        method.input_type()->full_name(), ") returns (", method.server_streaming() ? "stream " : "",
        method.output_type()->full_name(), ")"));
  }
}

std::set<std::string> CompiledApi() {
  std::ifstream in(LONGDOC_API_DESCRIPTOR, std::ios::binary);
  FileDescriptorSet files;
  EXPECT_TRUE(files.ParseFromIstream(&in)) << LONGDOC_API_DESCRIPTOR;
  DescriptorPool pool;
  std::set<std::string> lines;
  for (const auto& proto : files.file()) {
    const FileDescriptor* file = pool.BuildFile(proto);
    if (file == nullptr) {
      ADD_FAILURE() << "cannot build " << proto.name();
      continue;
    }
    if (file->package().rfind("longdoc.", 0) != 0) continue;  // imports from elsewhere
    for (int i = 0; i < file->message_type_count(); ++i)
      ListMessage(*file->message_type(i), &lines);
    for (int i = 0; i < file->enum_type_count(); ++i) ListEnum(*file->enum_type(i), &lines);
    for (int i = 0; i < file->service_count(); ++i) ListService(*file->service(i), &lines);
  }
  return lines;
}

TEST(ApiCompat, EveryStoredElementIsUnchangedAndEveryNewOneIsStored) {
  const std::string path = LONGDOC_SOURCE_DIR "/tests/compat/api_descriptor.txt";
  std::ifstream in(path);
  std::set<std::string> stored;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty() && line[0] != '#') stored.insert(line);
  }
  const std::set<std::string> compiled = CompiledApi();
  EXPECT_GT(compiled.size(), 50u);
  std::string changed, added;
  for (const std::string& line : stored) {
    if (compiled.count(line) == 0) changed += line + "\n";
  }
  for (const std::string& line : compiled) {
    if (stored.count(line) == 0) added += line + "\n";
  }
  EXPECT_EQ(changed, "") << "removed or changed: clients that exist would break; deprecate instead";
  EXPECT_EQ(added, "") << "new: append these lines to " << path;
}

}  // namespace
