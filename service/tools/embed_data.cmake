# cmake -DINPUT=FILE -DOUTPUT=FILE.cc -DFUNCTION=Name -P embed_data.cmake
# Writes a C++ source whose longdoc::tools::Name() returns the bytes of INPUT.
file(READ ${INPUT} hex HEX)
string(LENGTH "${hex}" hex_length)
math(EXPR size "${hex_length} / 2")
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
file(WRITE ${OUTPUT}
  "#include \"service/tools/embedded.h\"\n\n"
  "namespace longdoc::tools {\n"
  "namespace {\nconstexpr char kData[] = {\n${bytes}};\n}  // namespace\n\n"
  "std::string_view ${FUNCTION}() { return std::string_view(kData, ${size}); }\n"
  "}  // namespace longdoc::tools\n")
