// 3x3 convolutions of small whole numbers, tile by tile: Winograd's F(2x2, 3x3) (Lavin & Gray, CVPR 2016, eq. 8) on
// integers, in which nothing is rounded but the weights.
//
// A tile of 4x4 input pixels becomes 16 numbers a channel by additions alone: whole numbers stay whole, and small. A
// transformed weight is a whole number of 24 bits times the scale of its output channel, cut into three signed bytes
// ("limbs"), so that sums over channels are dot products of bytes, exact in 32 bits: 12 multiplications of bytes for
// 4 outputs in place of 36 of floats. Numbers are shifted to be positive; `starts` takes that back.
#pragma once

#include <cstdlib>

#include "layout.h"

namespace {

constexpr int POINTS = 16, LIMBS = 3;
constexpr int MOST_SPIKES = 16;              // in a pixel: above it, sums of two products would leave 16 bits
constexpr uint8_t SHIFT = 2 * MOST_SPIKES;   // the least of a transformed number is -2 * MOST_SPIKES
// Of transformed tiles at a time. Few lie in the second fastest cache, beside weights that do; weights that do not are
// read once for each time, so that it pays to have more tiles.
constexpr int64_t LEAST_INPUT = 1 << 18, MOST_INPUT = 5 << 19;
#if defined(SPIKES_AVX512)
constexpr int TOGETHER = 8;                  // tiles whose sums the registers hold
#else
constexpr int TOGETHER = 4;
#endif

typedef uint8_t Bytes __attribute__((vector_size(4 * LANES)));
typedef uint8_t BytesAnywhere __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef int32_t IntVecAnywhere __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
constexpr int64_t BYTES = 4 * LANES;

// sum + the dot product of four bytes, unsigned and below 128, with four signed ones in each lane.
inline IntVec dot(IntVec sum, IntVec x, IntVec w) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(x),
                                                        reinterpret_cast<__m512i>(w)));
#elif defined(SPIKES_AVX512)
    const __m512i pairs = _mm512_maddubs_epi16(reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w));
    return sum + reinterpret_cast<IntVec>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(SPIKES_AVX2)
    const __m256i pairs = _mm256_maddubs_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w));
    return sum + reinterpret_cast<IntVec>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    for (int k = 0; k < 32; k += 8) sum += (x >> k & 255) * (w << (24 - k) >> 24);
    return sum;
#endif
}

inline IntVec four_bytes(const uint8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, 4);
    return bytes - IntVec{};
}

// How the transformed weights lie: block of LANES output channels, point, four input channels, limb, then LANES x 4.
struct Tiling {
    const Geometry &g;
    int64_t quads, padded, rows, columns;  // of channels; bytes of a pixel's channels; tiles of an image

    explicit Tiling(const Geometry &g)
        : g(g), quads(quads_of(g.in_channels)), padded(ceil_div(g.in_channels, BYTES) * BYTES),
          rows(ceil_div(g.out_height, 2)), columns(ceil_div(g.out_width, 2)) {}
    int64_t weights_at(int64_t block, int64_t point) const { return (block * POINTS + point) * quads * LIMBS * BYTES; }
};

int64_t tile_weights_size(const Geometry *g) { return Tiling(*g).weights_at(vectors_of(*g), 0); }
int64_t tile_channels(const Geometry *g) { return vectors_of(*g) * LANES; }

// Packs whole-number weights [16, in_channels, out_channels], below 2**23 - 2**15 in size; writes the limbs, and
// `starts` [blocks, 16, 3, LANES], which take the shift of the input back.
void pack_tiles(const Geometry *geometry, const int32_t *numbers, int8_t *weights, int32_t *starts) {
    const Geometry &g = *geometry;
    const Tiling tiling(g);
    memset(weights, 0, tile_weights_size(geometry));
    for (int64_t block = 0; block < vectors_of(g); ++block)
        for (int64_t point = 0; point < POINTS; ++point) {
            int32_t *start = starts + (block * POINTS + point) * LIMBS * LANES;
            memset(start, 0, LIMBS * LANES * sizeof(int32_t));
            for (int64_t lane = 0; lane < LANES && block * LANES + lane < g.out_channels; ++lane)
                for (int64_t c = 0; c < g.in_channels; ++c) {
                    int32_t left = numbers[(point * g.in_channels + c) * g.out_channels + block * LANES + lane];
                    for (int limb = 0; limb < LIMBS; ++limb) {
                        const int8_t part = static_cast<int8_t>(left & 255);
                        left = (left - part) >> 8;
                        const int64_t at = ((c / 4 * LIMBS + limb) * LANES + lane) * 4 + c % 4;
                        weights[tiling.weights_at(block, point) + at] = part;
                        start[limb * LANES + lane] -= SHIFT * part;
                    }
                }
        }
}

// The input pixels of tiles, and their transform.
struct TileReader {
    const TileCall &call;
    const Geometry &g;
    const Tiling &tiling;

    // `count` channels from `c` of a pixel, 0 in the padding.
    Bytes pixel(int64_t image, int64_t y, int64_t x, int64_t c, int64_t count) const {
        Bytes bytes{};
        if (y < 0 || x < 0 || y >= g.height || x >= g.width) return bytes;
        const uint8_t *p = call.input + ((image * g.height + y) * g.width + x) * g.in_channels + c;
        if (count >= BYTES) return *reinterpret_cast<const BytesAnywhere *>(p);
        memcpy(&bytes, p, count);
        return bytes;
    }

    // Writes the 16 numbers of each channel of a tile to `to`, `apart` bytes from point to point; returns the maxima.
    Bytes transform(int64_t image, int64_t row, int64_t column, uint8_t *to, int64_t apart) const {
        Bytes largest{};
        const int64_t top = 2 * row - g.pad_h, left = 2 * column - g.pad_w;
        for (int64_t c = 0; c < g.in_channels; c += BYTES) {
            Bytes sides[4][4];  // along each row of pixels
            for (int i = 0; i < 4; ++i) {
                Bytes d[4];
                for (int j = 0; j < 4; ++j) {
                    d[j] = pixel(image, top + i, left + j, c, g.in_channels - c);
                    largest = largest > d[j] ? largest : d[j];
                }
                sides[i][0] = d[0] - d[2], sides[i][1] = d[1] + d[2];
                sides[i][2] = d[2] - d[1], sides[i][3] = d[1] - d[3];
            }
            for (int j = 0; j < 4; ++j) {
                const Bytes points[4] = {sides[0][j] - sides[2][j], sides[1][j] + sides[2][j],
                                         sides[2][j] - sides[1][j], sides[1][j] - sides[3][j]};
                for (int i = 0; i < 4; ++i)
                    *reinterpret_cast<BytesAnywhere *>(to + (i * 4 + j) * apart + c) = points[i] + SHIFT;
            }
        }
        return largest;
    }
};

// Writes the sums of LANES output channels at one point for TOGETHER tiles, one after the other.
inline void multiply(const int8_t *weights, const uint8_t *tiles, int64_t padded, int64_t quads, const int32_t *start,
                     float *to) {
    IntVec sum[LIMBS][TOGETHER];
    for (int l = 0; l < LIMBS; ++l)
        for (int t = 0; t < TOGETHER; ++t) sum[l][t] = *reinterpret_cast<const IntVecAnywhere *>(start + l * LANES);
    for (int64_t q = 0; q < quads; ++q, weights += LIMBS * BYTES) {
        IntVec w[LIMBS];
        for (int l = 0; l < LIMBS; ++l) w[l] = *reinterpret_cast<const IntVecAnywhere *>(weights + l * BYTES);
        for (int t = 0; t < TOGETHER; ++t) {
            const IntVec x = four_bytes(tiles + t * padded + q * 4);
            for (int l = 0; l < LIMBS; ++l) sum[l][t] = dot(sum[l][t], x, w[l]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < TOGETHER; ++t) {
        const Vec high = multiply_add(__builtin_convertvector(sum[2][t], Vec), all(256.0f),
                                      __builtin_convertvector(sum[1][t], Vec));
        store(to + t * LANES, multiply_add(high, all(256.0f), __builtin_convertvector(sum[0][t], Vec)));
    }
}

// Writes the 2x2 output pixels of a tile, LANES channels, from its sums at the 16 points, which lie `apart`.
inline void write_tile(const TileCall &call, int64_t image, int64_t row, int64_t column, int64_t channel,
                       const float *sums, int64_t apart) {
    const Geometry &g = call.geometry;
    const int64_t lanes = g.out_channels - channel;
    const Vec scale = load(call.scales + channel);
    const Vec bias = call.bias ? load_part(call.bias + channel, lanes) : Vec{};
    Vec m[2][4];
    for (int j = 0; j < 4; ++j) {
        const float *p = sums + j * apart;
        const Vec a = load(p), b = load(p + 4 * apart), c = load(p + 8 * apart), d = load(p + 12 * apart);
        m[0][j] = a + b + c;
        m[1][j] = b - c - d;
    }
    for (int i = 0; i < 2; ++i) {
        const int64_t y = 2 * row + i, x = 2 * column;
        if (y >= g.out_height) return;
        const int64_t at = ((image * g.out_height + y) * g.out_width + x) * g.out_channels + channel;
        const Vec even = m[i][0] + m[i][1] + m[i][2], odd = m[i][1] - m[i][2] - m[i][3];
        store_part(call.current + at, multiply_add(even, scale, bias), lanes);
        if (x + 1 < g.out_width)
            store_part(call.current + at + g.out_channels, multiply_add(odd, scale, bias), lanes);
    }
}

// Computes rows of tiles of all images, `first` to `last` - 1.
Status convolve_tiles(const TileCall *call, int64_t first, int64_t last) {
    const Geometry &g = call->geometry;
    const Tiling tiling(g);
    const TileReader reader{*call, g, tiling};
    const int64_t per_tile = POINTS * tiling.padded, row_bytes = per_tile * tiling.columns;
    const int64_t budget = least(most(tile_weights_size(&g) / 4, LEAST_INPUT), MOST_INPUT);
    const int64_t at_once = most(1, least(last - first, budget / row_bytes));
    const int64_t room = ceil_div(at_once * tiling.columns, TOGETHER) * TOGETHER;
    uint8_t *tiles = static_cast<uint8_t *>(aligned_alloc(64, room * per_tile));
    float *sums = static_cast<float *>(aligned_alloc(64, room * POINTS * LANES * sizeof(float)));
    Bytes largest{};
    if (tiles && sums)
        for (int64_t row = first; row < last; row += at_once) {
            const int64_t rows = least(at_once, last - row), count = rows * tiling.columns;
            for (int64_t t = 0; t < count; ++t) {
                const int64_t of_all = row + t / tiling.columns;
                const Bytes found = reader.transform(of_all / tiling.rows, of_all % tiling.rows, t % tiling.columns,
                                                     tiles + t * tiling.padded, room * tiling.padded);
                largest = largest > found ? largest : found;
            }
            for (int64_t block = 0; block < vectors_of(g); ++block) {
                for (int64_t point = 0; point < POINTS; ++point)
                    for (int64_t t = 0; t < count; t += TOGETHER)
                        multiply(call->weights + tiling.weights_at(block, point),
                                 tiles + (point * room + t) * tiling.padded, tiling.padded, tiling.quads,
                                 call->starts + (block * POINTS + point) * LIMBS * LANES,
                                 sums + (point * room + t) * LANES);
                for (int64_t t = 0; t < count; ++t) {
                    const int64_t of_all = row + t / tiling.columns;
                    write_tile(*call, of_all / tiling.rows, of_all % tiling.rows, t % tiling.columns, block * LANES,
                               sums + t * LANES, room * LANES);
                }
            }
        }
    const bool ok = tiles && sums;
    free(tiles), free(sums);
    if (!ok) return NO_MEMORY;
    for (int i = 0; i < BYTES; ++i)
        if (largest[i] > MOST_SPIKES) return NOT_SMALL;
    return DONE;
}

}  // namespace
