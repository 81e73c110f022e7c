// The API may grow but not change: every field, enum value and method that was ever released keeps
// its number, name and type. Compares the compiled .proto files with a stored listing.
#include <algorithm>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "gtest/gtest.h"

namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumDescriptorProto;
using google::protobuf::FieldDescriptor;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;
using google::protobuf::ServiceDescriptorProto;

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

FileDescriptorSet CompiledFiles() {
  std::ifstream in(LONGDOC_API_DESCRIPTOR, std::ios::binary);
  FileDescriptorSet files;
  EXPECT_TRUE(files.ParseFromIstream(&in)) << LONGDOC_API_DESCRIPTOR;
  return files;
}

std::set<std::string> ListApi(const FileDescriptorSet& files) {
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
  const std::set<std::string> compiled = ListApi(CompiledFiles());
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

// The message and the field of the compiled files that the changes below are made to.
DescriptorProto* Message(FileDescriptorSet* files, const std::string& name) {
  for (auto& file : *files->mutable_file()) {
    for (auto& message : *file.mutable_message_type()) {
      if (file.package() == "longdoc.v1" && message.name() == name) return &message;
    }
  }
  ADD_FAILURE() << "no message " << name;
  return nullptr;
}

FieldDescriptorProto* Field(FileDescriptorSet* files, const std::string& message,
                            const std::string& name) {
  for (auto& field : *Message(files, message)->mutable_field()) {
    if (field.name() == name) return &field;
  }
  ADD_FAILURE() << "no field " << message << "." << name;
  return nullptr;
}

ServiceDescriptorProto* Service(FileDescriptorSet* files) {
  for (auto& file : *files->mutable_file()) {
    if (file.service_size() > 0) return file.mutable_service(0);
  }
  ADD_FAILURE() << "no service";
  return nullptr;
}

EnumDescriptorProto* Enum(FileDescriptorSet* files) {
  for (auto& file : *files->mutable_file()) {
    if (file.enum_type_size() > 0) return file.mutable_enum_type(0);
  }
  ADD_FAILURE() << "no enum";
  return nullptr;
}

// Everything that would break a client that exists is a line of the listing that is gone.
TEST(ApiCompat, EveryKindOfIncompatibleChangeIsSeen) {
  using Files = FileDescriptorSet*;
  const std::vector<std::pair<std::string, std::function<void(Files)>>> changes = {
      {"removed field",
       [](Files f) { Message(f, "Vector")->mutable_field()->DeleteSubrange(0, 1); }},
      {"renamed field", [](Files f) { Field(f, "Vector", "data")->set_name("payload"); }},
      {"renumbered field", [](Files f) { Field(f, "Vector", "data")->set_number(99); }},
      {"retyped field",
       [](Files f) {
         Field(f, "Vector", "dimensions")->set_type(FieldDescriptorProto::TYPE_INT64);
       }},
      {"repeated field",
       [](Files f) {
         Field(f, "Vector", "dimensions")->set_label(FieldDescriptorProto::LABEL_REPEATED);
       }},
      {"field of another message",
       [](Files f) {
         Field(f, "PassageVector", "bytes")->set_type_name(".longdoc.v1.TokenRange");
       }},
      {"presence taken away",
       [](Files f) {
         Field(f, "VectorOptions", "normalize")->clear_proto3_optional();
         Field(f, "VectorOptions", "normalize")->clear_oneof_index();
         Message(f, "VectorOptions")->clear_oneof_decl();
       }},
      {"renamed oneof",
       [](Files f) { Message(f, "DocumentChunk")->mutable_oneof_decl(0)->set_name("other"); }},
      {"renumbered enum value", [](Files f) { Enum(f)->mutable_value(1)->set_number(99); }},
      {"renamed enum value", [](Files f) { Enum(f)->mutable_value(1)->set_name("OTHER"); }},
      {"removed method", [](Files f) { Service(f)->mutable_method()->DeleteSubrange(0, 1); }},
      {"method that streams",
       [](Files f) { Service(f)->mutable_method(0)->set_client_streaming(true); }},
      {"method with another answer",
       [](Files f) { Service(f)->mutable_method(0)->set_output_type(".longdoc.v1.Vector"); }},
      {"renamed service", [](Files f) { Service(f)->set_name("Other"); }},
  };
  const FileDescriptorSet files = CompiledFiles();
  const std::set<std::string> before = ListApi(files);
  for (const auto& [what, change] : changes) {
    FileDescriptorSet changed = files;
    change(&changed);
    const std::set<std::string> after = ListApi(changed);
    EXPECT_FALSE(std::includes(after.begin(), after.end(), before.begin(), before.end())) << what;
  }
  FileDescriptorSet grown = files;
  FieldDescriptorProto* field = Message(&grown, "Vector")->add_field();
  field->set_name("novelty");
  field->set_number(99);
  field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
  field->set_type(FieldDescriptorProto::TYPE_BOOL);
  const std::set<std::string> after = ListApi(grown);
  EXPECT_TRUE(std::includes(after.begin(), after.end(), before.begin(), before.end()));
  EXPECT_EQ(after.size(), before.size() + 1);
}

}  // namespace
