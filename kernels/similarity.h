// Late interaction of many candidates with one document's token vectors: the largest product of
// each candidate token over spans of the document's tokens, from products that come in tiles.
//
// A tile is a matrix [rows, columns]: rows are tokens of the document, columns tokens of all
// candidates. ColumnMaxima takes from it the largest of every column over ranges of rows, into
// "maxima", rows of such numbers; SumMaxima makes of those what a span of the document scores.
#pragma once

#include <cstdint>

namespace longdoc::kernels {

// Rows [begin, end) of a tile, not empty, whose largest go to row `slot` of the maxima.
struct RowRange {
  int32_t begin = 0, end = 0;
  int64_t slot = 0;
};

// out[range.slot][c] = max of in[r][c] over the range's rows r, for every range and column. NaN is
// passed over; -infinity where there is nothing else. No two ranges have one slot.
struct ColumnMaximaArgs {
  int64_t rows = 0, columns = 0;
  const float* in = nullptr;  // [rows, columns] dense
  const RowRange* ranges = nullptr;
  int64_t num_ranges = 0;
  float* out = nullptr;     // [slots, columns], row stride `out_stride`
  int64_t out_stride = 0;   // elements
  void* scratch = nullptr;  // of a device: ColumnMaximaWorkspaceBytes()
};

// What a span of tokens is made of: rows of the maxima, -1 where there is none at that end, and
// rows [begin, end) between them. At least one row in all.
struct MaximaSpan {
  int64_t first = -1, last = -1;
  int64_t begin = 0, end = 0;
};

// scores[candidate][span] = mean over the candidate's columns of the largest of the span's rows.
// Sums are double, in an order that depends on nothing but the candidate's number of columns.
struct SumMaximaArgs {
  const float* maxima = nullptr;  // [slots, columns], row stride `stride`
  int64_t stride = 0;             // elements
  const MaximaSpan* spans = nullptr;
  int64_t num_spans = 0;
  const int64_t* columns = nullptr;  // [num_candidates + 1] candidate i has [columns[i], [i + 1])
  int64_t num_candidates = 0;
  double* scores = nullptr;  // [num_candidates, num_spans], row stride `scores_stride`
  int64_t scores_stride = 0;
};

// Rows [rows, dim] fp32, each scaled to unit length and rounded to bf16. Zeros stay; what is not
// finite gives NaN or zeros.
struct UnitRowsArgs {
  int64_t rows = 0, dim = 0;
  const float* in = nullptr;
  uint16_t* out = nullptr;
};

}  // namespace longdoc::kernels
