// The spikes of each input row as lists of the rows of weights that they add, pixels with few entries first.
//
// Sorted like this, the loop over a pixel's entries runs as often as that of the pixel before it, and the processor
// foresees its end; in the order of the image it would guess wrong at most pixels, which costs more than the additions.
// With tables an entry is a quad of channels of which some fired, and names the sum of their weights.
#pragma once

#include <cstdlib>

#include "layout.h"

namespace {

struct Pixel {
    uint16_t x, count;  // column, in steps of the stride; entries
};

// The lists of one input row, 64 channels, and the columns that leave one rest when divided by the stride.
struct List {
    const Pixel *pixels, *end;
    const uint8_t *rows;  // entries of all pixels, one after the other: a channel, or 16 * quad + set of channels
    const float *values;  // of the same entries; null where all are 1
};

class Lists {
public:
    // Lists of the rows of all images from `first` to `last` - 1; `ok` is false without memory for them.
    Lists(const Call &call, int64_t first, int64_t last) : g(call.geometry), first(first) {
        words = words_of(g.in_channels);
        const int64_t rows = last - first, all = rows * words * g.stride_w;
        begins = allocate<Begin>(all + 1);
        pixels = allocate<Pixel>(rows * words * g.width);
        binary = call.input_kind == WORDS;
        tables = call.method == TABLES;
        scratch = allocate<uint64_t>(g.width * words);
        order = allocate<uint16_t>(g.width);
        int64_t count = 0;
        if (ok)
            for (int64_t row = first; row < last; ++row) count += count_row(call, row);
        entries = allocate<uint8_t>(count + 8);
        if (!binary) values = allocate<float>(count);
        if (!ok) return;
        Begin at{0, 0};
        for (int64_t row = first; row < last; ++row) at = list_row(call, row, at);
        begins[all] = at;
    }
    ~Lists() {
        free(begins), free(pixels), free(scratch), free(order), free(entries), free(values);
    }
    Lists(const Lists &) = delete;
    Lists &operator=(const Lists &) = delete;

    List of(int64_t row, int64_t word, int64_t rest) const {
        const Begin *b = begins + ((row - first) * words + word) * g.stride_w + rest;
        return {pixels + b[0].pixel, pixels + b[1].pixel, entries + b[0].entry, binary ? nullptr : values + b[0].entry};
    }

    bool ok = true;

private:
    struct Begin {
        int64_t pixel, entry;
    };
    const Geometry &g;
    int64_t first, words;
    bool binary, tables;
    Begin *begins = nullptr;
    Pixel *pixels = nullptr;
    uint64_t *scratch = nullptr;
    uint16_t *order = nullptr;
    uint8_t *entries = nullptr;
    float *values = nullptr;

    template <class T>
    T *allocate(int64_t count) {
        T *p = ok ? static_cast<T *>(malloc(count * sizeof(T) + 1)) : nullptr;
        ok = p != nullptr;
        return p;
    }

    // The words of a row's pixels; bits are set where the input is not zero.
    const uint64_t *masks(const Call &call, int64_t row) {
        if (binary) return static_cast<const uint64_t *>(call.input) + row * g.width * words;
        for (int64_t x = 0; x < g.width; ++x)
            for (int64_t w = 0; w < words; ++w) scratch[x * words + w] = nonzero(call, row * g.width + x, w);
        return scratch;
    }

    uint64_t nonzero(const Call &call, int64_t pixel, int64_t word) const {
        const int64_t begin = word * 64, n = g.in_channels - begin < 64 ? g.in_channels - begin : 64;
        uint64_t bits = 0;
        if (call.input_kind == FLOATS) {
            const float *p = static_cast<const float *>(call.input) + pixel * g.in_channels + begin;
            for (int64_t i = 0; i < n; i += LANES) bits |= bits_of(load_part(p + i, n - i) != Vec{}) << i;
        } else {
            const uint8_t *p = static_cast<const uint8_t *>(call.input) + pixel * g.in_channels + begin;
            for (int64_t i = 0; i < n; i += 8) bits |= nonzero_bits(load_bytes(p + i, n - i)) << i;
        }
        return bits;
    }

    int64_t count_row(const Call &call, int64_t row) {
        const uint64_t *m = masks(call, row);
        int64_t total = 0;
        for (int64_t i = 0; i < g.width * words; ++i) total += entries_of(m[i]);
        return total;
    }

    float value(const Call &call, int64_t index) const {
        if (call.input_kind == FLOATS) return static_cast<const float *>(call.input)[index];
        return static_cast<const uint8_t *>(call.input)[index];
    }

    Begin list_row(const Call &call, int64_t row, Begin at) {
        const uint64_t *m = masks(call, row);
        for (int64_t w = 0; w < words; ++w)
            for (int64_t rest = 0; rest < g.stride_w; ++rest) {
                begins[((row - first) * words + w) * g.stride_w + rest] = at;
                const int64_t found = sort(m + w, rest);
                for (int64_t i = 0; i < found; ++i) {
                    const int64_t x = order[i] * g.stride_w + rest;
                    const uint64_t bits = m[x * words + w];
                    const int n = entries_of(bits);
                    pixels[at.pixel++] = {order[i], static_cast<uint16_t>(n)};
                    if (tables)
                        list_quads(bits, n, entries + at.entry);
                    else
                        list_channels(bits, n, entries + at.entry);
                    if (!binary) list_values(call, (row * g.width + x) * g.in_channels + w * 64, n, at.entry);
                    at.entry += n;
                }
            }
        return at;
    }

    // The lowest bit of each quad of which some bits are set.
    static uint64_t quads(uint64_t bits) {
        bits |= bits >> 1;
        return (bits | bits >> 2) & 0x1111111111111111ull;
    }

    int entries_of(uint64_t bits) const { return __builtin_popcountll(tables ? quads(bits) : bits); }

    static void list_channels(uint64_t bits, int count, uint8_t *to) {
        for (int k = 0; k < count; ++k, bits &= bits - 1) to[k] = static_cast<uint8_t>(__builtin_ctzll(bits));
    }

    static void list_quads(uint64_t bits, int count, uint8_t *to) {
        uint64_t left = quads(bits);
        for (int k = 0; k < count; ++k, left &= left - 1) {
            const int at = __builtin_ctzll(left);
            to[k] = static_cast<uint8_t>(4 * at + (bits >> at & 15));
        }
    }

    void list_values(const Call &call, int64_t begin, int count, int64_t at) {
        for (int k = 0; k < count; ++k) values[at + k] = value(call, begin + entries[at + k]);
    }

    // Puts the columns with entries into `order`, few entries first, and returns how many there are.
    int64_t sort(const uint64_t *m, int64_t rest) {
        int32_t begin[66] = {};
        for (int64_t x = rest; x < g.width; x += g.stride_w) ++begin[entries_of(m[x * words]) + 1];
        const int32_t silent = begin[1];
        begin[1] = 0;
        for (int n = 1; n <= 64; ++n) begin[n + 1] += begin[n];
        int64_t column = 0;
        for (int64_t x = rest; x < g.width; x += g.stride_w, ++column) {
            const int n = entries_of(m[x * words]);
            if (n) order[begin[n]++] = static_cast<uint16_t>(column);
        }
        return column - silent;
    }
};

}  // namespace
