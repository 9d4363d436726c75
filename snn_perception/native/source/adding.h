// The innermost loop: rows of weights are added to the sums of an output row, as the lists of spikes say.
#pragma once

#include "lists.h"

namespace {

// Adds one row of weights, or of sums of weights, to sums that lie in registers.
template <int N, bool WITH_VALUES>
inline void add_row(const float *weights, const uint8_t *row, const float *value, Vec *sum) {
    const float *w = weights + size_t{*row} * (N * LANES);
    __asm__("" : "+r"(w));  // an address in one register: with two, every addition takes a step more
    if (WITH_VALUES) {
        const Vec times = all(*value);
        for (int i = 0; i < N; ++i) sum[i] = multiply_add(load(w + i * LANES), times, sum[i]);
    } else {
        for (int i = 0; i < N; ++i) sum[i] += load(w + i * LANES);
    }
}

// Adds the rows of weights, or of sums of weights, that are listed to the sums of an output row.
//
// An addition waits for the one before it to the same sum: short rows go to two sums in turn.
template <int N, bool WITH_VALUES>
void add_list(const List &list, const float *weights, float *sums) {
    const uint8_t *c = list.rows;
    const float *value = list.values;
    for (const Pixel *p = list.pixels; p != list.end; ++p) {
        float *out = sums + size_t{p->x} * (N * LANES);
        Vec sum[N];
        for (int i = 0; i < N; ++i) sum[i] = load(out + i * LANES);
        const uint8_t *stop = c + p->count;
        if (N <= 4) {
            Vec other[N] = {};
            for (; stop - c > 1; c += 2, value += 2 * WITH_VALUES) {
                add_row<N, WITH_VALUES>(weights, c, value, sum);
                add_row<N, WITH_VALUES>(weights, c + 1, value + 1, other);
            }
            for (int i = 0; i < N; ++i) sum[i] += other[i];
        }
        for (; c != stop; ++c, value += WITH_VALUES) add_row<N, WITH_VALUES>(weights, c, value, sum);
        for (int i = 0; i < N; ++i) store(out + i * LANES, sum[i]);
    }
}

}  // namespace
