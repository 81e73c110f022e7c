// dim3 and the vector types of CUDA.
#pragma once

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};
struct uint3 {
  unsigned x, y, z;
};

#define LONGDOC_VECTOR_TYPES(type, name, align2, align4)              \
  struct alignas(align2) name##2 {                                    \
    type x, y;                                                        \
  };                                                                  \
  struct alignas(align4) name##4 {                                    \
    type x, y, z, w;                                                  \
  };                                                                  \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; } \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
LONGDOC_VECTOR_TYPES(signed char, char, 2, 4)
LONGDOC_VECTOR_TYPES(unsigned char, uchar, 2, 4)
LONGDOC_VECTOR_TYPES(short, short, 4, 8)
LONGDOC_VECTOR_TYPES(unsigned short, ushort, 4, 8)
LONGDOC_VECTOR_TYPES(int, int, 8, 16)
LONGDOC_VECTOR_TYPES(unsigned, uint, 8, 16)
LONGDOC_VECTOR_TYPES(float, float, 8, 16)
LONGDOC_VECTOR_TYPES(long long, longlong, 16, 16)
LONGDOC_VECTOR_TYPES(unsigned long long, ulonglong, 16, 16)
LONGDOC_VECTOR_TYPES(double, double, 16, 16)
#undef LONGDOC_VECTOR_TYPES
