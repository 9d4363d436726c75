// How weights lie in memory. Output channels are cut into blocks of at most MOST_VECTORS vectors; then, one after the
// other: block, kernel row, kernel column, and for lists one row of weights per input channel, for tables the 16 sums
// of every four input channels ("quad"): sum j holds the channels whose bits are set in j.
#pragma once

#include "simd.h"
#include "spikes.h"

namespace {

struct Block {
    int64_t channel;  // first output channel
    int vectors;
    int64_t start;    // vectors in the blocks before it
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t words_of(int64_t channels) { return ceil_div(channels, 64); }
inline int64_t quads_of(int64_t channels) { return ceil_div(channels, 4); }
inline int64_t vectors_of(const Geometry &g) { return ceil_div(g.out_channels, LANES); }
inline int64_t taps_of(const Geometry &g) { return g.kernel_h * g.kernel_w; }

// Sizes for which the kernels are compiled.
inline bool is_size(int vectors) { return vectors <= 4 || vectors == 6 || vectors == 8 || vectors == 16; }

// Calls visit(Block) for every block, of as equal sizes as there are kernels for.
template <class Visit>
inline void each_block(const Geometry &g, Visit visit) {
    int64_t left = vectors_of(g), start = 0;
    while (left) {
        int size = static_cast<int>(ceil_div(left, ceil_div(left, MOST_VECTORS)));
        while (!is_size(size)) --size;
        visit(Block{start * LANES, size, start});
        start += size, left -= size;
    }
}

// Floats before the weights of a tap of a block.
inline int64_t rows_at(const Geometry &g, const Block &b, int64_t tap) {
    return (b.start * taps_of(g) + tap * b.vectors) * g.in_channels * LANES;
}
inline int64_t tables_at(const Geometry &g, const Block &b, int64_t tap) {
    return (b.start * taps_of(g) + tap * b.vectors) * quads_of(g.in_channels) * 16 * LANES;
}

}  // namespace
