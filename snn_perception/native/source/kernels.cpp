// Event-driven convolution for one instruction set. Compiled once for each, with ISA as the name of what it defines.
//
// Output rows are made a strip at a time: their sums lie in the fastest cache while the spikes of the input rows are
// added, one kernel row, 64 input channels and one kernel column after the other, so that the weights in use lie there
// too. The strip then goes through the neuron, or out.

#include <cstdlib>

#include "adding.h"
#include "lists.h"
#include "neuron.h"
#include "tiles.h"

namespace {

#ifndef SUM_BYTES
#define SUM_BYTES 24576
#endif

constexpr int64_t MOST_ROWS = 16;  // of a strip

// Division that rounds down, also below 0.
inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }

// ------------------------------------------------------------------------------------------------------------ strips

// Sums of the rows of a strip, with room at both ends for what falls beside the image.
struct Strip {
    int64_t left, stride;  // vectors of `channels` in front of the first column, and from row to row
};

inline Strip strip_of(const Geometry &g) {
    const int64_t left = most(0, ceil_div(g.kernel_w - 1 - g.pad_w, g.stride_w));
    const int64_t last = floor_div(g.width - 1 + g.pad_w, g.stride_w);
    return {left, left + most(g.out_width, last + 1)};
}

inline int64_t rows_at_once(int64_t row_bytes) {
    return least(MOST_ROWS, most(1, SUM_BYTES / row_bytes));
}

// The input row, of all images, that kernel row `ky` of an output row reads; -1 in the padding.
inline int64_t input_row(const Geometry &g, int64_t out_row, int64_t ky) {
    const int64_t y = out_row % g.out_height * g.stride_h - g.pad_h + ky;
    return y < 0 || y >= g.height ? -1 : out_row / g.out_height * g.height + y;
}

template <int N>
struct StripMaker {
    const Call &call;
    const Geometry &g;
    const Block &block;
    const Lists &lists;
    float *sums;
    Strip strip;

    void start(int64_t rows) const {
        Vec bias[N];
        for (int i = 0; i < N; ++i) {
            const int64_t left = g.out_channels - block.channel - i * LANES;
            bias[i] = call.bias ? load_part(call.bias + block.channel + i * LANES, left) : Vec{};
        }
        for (int64_t x = 0; x < rows * strip.stride; ++x)
            for (int i = 0; i < N; ++i) store(sums + (x * N + i) * LANES, bias[i]);
    }

    float *at(int64_t row, int64_t x) const { return sums + (row * strip.stride + strip.left + x) * N * LANES; }

    void add_tap(const int64_t *in_rows, int64_t rows, int64_t ky, int64_t word, int64_t kx) const {
        const int64_t tap = ky * g.kernel_w + kx;
        const float *weights = call.method == TABLES ? call.tables + tables_at(g, block, tap) + word * 256 * N * LANES
                                                     : call.rows + rows_at(g, block, tap) + word * 64 * N * LANES;
        // Input columns x * stride + rest meet this kernel column in output columns x + shift.
        const int64_t rest = kx - g.pad_w - floor_div(kx - g.pad_w, g.stride_w) * g.stride_w;
        const int64_t shift = (rest + g.pad_w - kx) / g.stride_w;
        for (int64_t r = 0; r < rows; ++r) {
            if (in_rows[r] < 0) continue;
            const List list = lists.of(in_rows[r], word, rest);
            if (list.values)
                add_list<N, true>(list, weights, at(r, shift));
            else
                add_list<N, false>(list, weights, at(r, shift));
        }
    }

    void add(int64_t first, int64_t rows) const {
        int64_t in_rows[MOST_ROWS];
        for (int64_t ky = 0; ky < g.kernel_h; ++ky) {
            for (int64_t r = 0; r < rows; ++r) in_rows[r] = input_row(g, first + r, ky);
            for (int64_t word = 0; word < words_of(g.in_channels); ++word)
                for (int64_t kx = 0; kx < g.kernel_w; ++kx) add_tap(in_rows, rows, ky, word, kx);
        }
    }
};

// Sends the sums of a strip out, or through the neuron.
template <int CHARGE>
void finish(const Call &call, const Block &block, const Strip &strip, const float *sums, int64_t first, int64_t rows) {
    const Geometry &g = call.geometry;
    const Output &out = call.output;
    const int64_t out_words = words_of(g.out_channels);
    for (int64_t r = 0; r < rows; ++r) {
        const float *sum = sums + (r * strip.stride + strip.left) * block.vectors * LANES;
        int64_t pixel = (first + r) * g.out_width;
        for (int64_t x = 0; x < g.out_width; ++x, ++pixel)
            for (int i = 0; i < block.vectors; ++i, sum += LANES) {
                const int64_t channel = block.channel + i * LANES, lanes = g.out_channels - channel;
                const int64_t at = pixel * g.out_channels + channel;
                uint64_t *word = out.words ? out.words + pixel * out_words + channel / 64 : nullptr;
                if (CHARGE == NONE)
                    store_part(out.current + at, load(sum), lanes);
                else
                    fire<CHARGE>(call.neuron, out, load(sum), at, lanes, word, channel % 64);
            }
    }
}

template <int N>
Status make_block(const Call &call, const Block &block, const Lists &lists, int64_t first, int64_t last) {
    const Geometry &g = call.geometry;
    const Strip strip = strip_of(g);
    const int64_t row_bytes = strip.stride * N * LANES * sizeof(float), at_once = rows_at_once(row_bytes);
    float *sums = static_cast<float *>(aligned_alloc(64, ceil_div(at_once * row_bytes, 64) * 64));
    if (!sums) return NO_MEMORY;
    const StripMaker<N> maker{call, g, block, lists, sums, strip};
    with_charge(call.neuron.charge, [&](auto charge) {
        for (int64_t row = first; row < last; row += at_once) {
            const int64_t rows = least(at_once, last - row);
            maker.start(rows);
            maker.add(row, rows);
            finish<decltype(charge)::value>(call, block, strip, sums, row, rows);
        }
    });
    free(sums);
    return DONE;
}

Status make_any_block(const Call &call, const Block &block, const Lists &lists, int64_t first, int64_t last) {
    switch (block.vectors) {
        case 1: return make_block<1>(call, block, lists, first, last);
        case 2: return make_block<2>(call, block, lists, first, last);
        case 3: return make_block<3>(call, block, lists, first, last);
        case 4: return make_block<4>(call, block, lists, first, last);
#if !defined(SPIKES_AVX512)
        case 6: return make_block<6>(call, block, lists, first, last);
        case 8: return make_block<8>(call, block, lists, first, last);
#endif
#if defined(__aarch64__)
        case 16: return make_block<16>(call, block, lists, first, last);
#endif
    }
    return NO_SUCH_ISA;
}

Status make_blocks(const Call &call, const Lists &lists, int64_t first, int64_t last) {
    Status status = DONE;
    each_block(call.geometry, [&](const Block &block) {
        if (status == DONE) status = make_any_block(call, block, lists, first, last);
    });
    return status;
}

Status convolve(const Call *call, int64_t first, int64_t last) {
    const Geometry &g = call->geometry;
    const int64_t top = first % g.out_height * g.stride_h - g.pad_h;
    const int64_t bottom = (last - 1) % g.out_height * g.stride_h - g.pad_h + g.kernel_h;
    const int64_t from = first / g.out_height * g.height + least(most(top, 0), g.height);
    const int64_t to = (last - 1) / g.out_height * g.height + least(most(bottom, 0), g.height);
    const Lists lists(*call, from, most(from, to));
    return lists.ok ? make_blocks(*call, lists, first, last) : NO_MEMORY;
}

// ----------------------------------------------------------------------------------------------------------- packing

int64_t rows_size(const Geometry *g) { return vectors_of(*g) * taps_of(*g) * g->in_channels * LANES; }
int64_t tables_size(const Geometry *g) { return vectors_of(*g) * taps_of(*g) * quads_of(g->in_channels) * 16 * LANES; }

void pack_rows(const Geometry *geometry, const float *weights, float *rows) {
    const Geometry &g = *geometry;
    each_block(g, [&](const Block &block) {
        for (int64_t tap = 0; tap < taps_of(g); ++tap) {
            float *row = rows + rows_at(g, block, tap);
            for (int64_t c = 0; c < g.in_channels; ++c)
                for (int64_t i = 0; i < block.vectors * LANES; ++i) {
                    const int64_t o = block.channel + i;
                    *row++ = o < g.out_channels ? weights[(o * g.in_channels + c) * taps_of(g) + tap] : 0.0f;
                }
        }
    });
}

void pack_tables(const Geometry *geometry, const float *rows, float *tables) {
    const Geometry &g = *geometry;
    each_block(g, [&](const Block &block) {
        const int64_t size = block.vectors * LANES;
        for (int64_t tap = 0; tap < taps_of(g); ++tap)
            for (int64_t quad = 0; quad < quads_of(g.in_channels); ++quad)
                for (int64_t set = 0; set < 16; ++set) {
                    float *sum = tables + tables_at(g, block, tap) + (quad * 16 + set) * size;
                    for (int64_t i = 0; i < size; ++i) sum[i] = 0.0f;
                    for (int64_t c = quad * 4; c < least(quad * 4 + 4, g.in_channels); ++c)
                        if (set >> (c % 4) & 1) {
                            const float *row = rows + rows_at(g, block, tap) + c * size;
                            for (int64_t i = 0; i < size; ++i) sum[i] += row[i];
                        }
                }
    });
}

Status pack_spikes(const void *input, int32_t kind, int64_t channels, int64_t first, int64_t last, uint64_t *words) {
    const int64_t per_pixel = words_of(channels);
    IntVec wrong{};
    uint64_t wrong_bytes = 0;
    for (int64_t pixel = first; pixel < last; ++pixel)
        for (int64_t w = 0; w < per_pixel; ++w) {
            const int64_t n = least(64, channels - w * 64);
            uint64_t bits = 0;
            if (kind == FLOATS) {
                const float *p = static_cast<const float *>(input) + pixel * channels + w * 64;
                for (int64_t i = 0; i < n; i += LANES) {
                    const Vec x = load_part(p + i, n - i);
                    const IntVec one = x == 1.0f;
                    wrong |= (x != 0.0f) & ~one;
                    bits |= bits_of(one) << i;
                }
            } else {
                const uint8_t *p = static_cast<const uint8_t *>(input) + pixel * channels + w * 64;
                for (int64_t i = 0; i < n; i += 8) {
                    const uint64_t bytes = load_bytes(p + i, n - i);
                    wrong_bytes |= bytes & ~0x0101010101010101ull;
                    bits |= lowest_bits(bytes) << i;
                }
            }
            words[pixel * per_pixel + w] = bits;
        }
    return bits_of(wrong != 0) || wrong_bytes ? NOT_BINARY : DONE;
}

void fire_pixels(const Neuron *neuron, const float *current, const Output *out, int64_t channels, int64_t first,
                 int64_t last) {
    const int64_t words = words_of(channels);
    with_charge(neuron->charge, [&](auto charge) {
        for (int64_t pixel = first; pixel < last; ++pixel)
            for (int64_t c = 0; c < channels; c += LANES) {
                const int64_t at = pixel * channels + c, lanes = channels - c;
                uint64_t *word = out->words ? out->words + pixel * words + c / 64 : nullptr;
                fire<decltype(charge)::value>(*neuron, *out, load_part(current + at, lanes), at, lanes, word, c % 64);
            }
    });
}

// All steps of a neuron that fires whole numbers, elements `first` to `last` - 1 of `size` in a step; the membrane stays
// in a register from step to step.
void fire_whole(const Neuron *neuron, const float *current, const Output *out, int64_t steps, int64_t size,
                int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i += LANES) {
        const int64_t lanes = last - i;
        Vec v = out->v ? load_part(out->v + i, lanes) : Vec{};
        for (int64_t at = i; at < steps * size; at += size) {
            const Vec spikes = whole_step(*neuron, load_part(current + at, lanes), v);
            if (out->floats) store_part(out->floats + at, spikes, lanes);
            if (out->bytes) store_bytes(out->bytes + at, spikes, lanes);
        }
        store_part(out->v_after + i, v, lanes);
    }
}

int64_t count(const uint64_t *words, int64_t number) {
    int64_t spikes = 0;
    for (int64_t i = 0; i < number; ++i) spikes += __builtin_popcountll(words[i]);
    return spikes;
}

}  // namespace

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
extern const Kernels ISA;
const Kernels ISA = {rows_size, tables_size, pack_rows, pack_tables, pack_spikes, convolve, fire_pixels, fire_whole,
                     count, tile_weights_size, tile_channels, pack_tiles, convolve_tiles, TEXT(ISA)};
