// What the kernels are called with: a plain C interface, without Python or torch. All numbers are checked by the caller.
#pragma once

#include <cstdint>

// A convolution of one image batch; memory is [batch, height, width, channels], one group, no dilation.
struct Geometry {
    int64_t batch, height, width, in_channels;
    int64_t out_height, out_width, out_channels;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

enum InputKind : int32_t {
    WORDS = 0,   // binary: bit c % 64 of word c / 64 of a pixel, [batch, height, width, ceil(channels / 64)]
    FLOATS = 1,  // any numbers, mostly zero
    BYTES = 2,   // whole numbers, mostly zero
};

enum Method : int32_t {
    ROWS = 0,    // adds the weights of every spike, one after the other
    TABLES = 1,  // looks up the sum of the weights of every four channels of which some fired; for WORDS alone
};

// How a membrane charges, with x the current and a the factor.
enum Charge : int32_t {
    NONE = -1,         // no neuron
    SUM = 0,           // v + x
    INPUT_TIMES = 1,   // v + (x - v) * a
    INPUT_OVER = 2,    // v + (x - v) / a
    PLAIN_TIMES = 3,   // v - v * a + x
    PLAIN_OVER = 4,    // v - v / a + x
    WHOLE_NUMBER = 5,  // a * v + gain * x; fires round(clamp(h, 0, threshold)) and subtracts it
};

struct Neuron {
    int32_t charge;
    int32_t hard_reset;  // to 0, else by subtraction of the threshold
    float factor, threshold, gain;
};

// Where results go, each null where it is not wanted; [batch, out_height, out_width, ...]. With a neuron `v` may be
// null for rest, and `v_after` may be `v`. `words` must hold zeros before the call.
struct Output {
    float *current;
    const float *v;
    float *v_after;
    float *floats;
    uint8_t *bytes;
    uint64_t *words;
};

struct Call {
    Geometry geometry;
    Neuron neuron;
    Output output;
    const void *input;
    const float *rows;    // weights by `pack_rows`
    const float *tables;  // by `pack_tables`; null without TABLES
    const float *bias;    // one number per output channel, or null
    int32_t input_kind, method;
};

// A convolution by tiles, of kernel 3x3 and stride 1; see tiles.h.
struct TileCall {
    Geometry geometry;
    const uint8_t *input;
    const int8_t *weights;  // by `pack_tiles`
    const int32_t *starts;  // likewise
    const float *scales;    // of the weights, [output channels, in whole vectors]
    const float *bias;      // one number per output channel, or null
    float *current;
};

enum Status : int32_t { DONE = 0, NO_MEMORY = 1, NOT_BINARY = 2, NO_SUCH_ISA = 3, NOT_SMALL = 4 };

// What one instruction set offers; every translation unit of `kernels.cpp` defines one.
struct Kernels {
    int64_t (*rows_size)(const Geometry *);    // floats that `pack_rows` writes
    int64_t (*tables_size)(const Geometry *);  // floats that `pack_tables` writes
    void (*pack_rows)(const Geometry *, const float *weights, float *rows);  // weights [out, in, kernel_h, kernel_w]
    void (*pack_tables)(const Geometry *, const float *rows, float *tables);
    Status (*pack_spikes)(const void *input, int32_t kind, int64_t channels, int64_t first, int64_t last,
                          uint64_t *words);                                // pixels first to last - 1
    Status (*convolve)(const Call *, int64_t first, int64_t last);         // rows of all images, first to last - 1
    void (*fire)(const Neuron *, const float *current, const Output *, int64_t channels, int64_t first,
                 int64_t last);                                            // pixels first to last - 1
    void (*fire_whole)(const Neuron *, const float *current, const Output *, int64_t steps, int64_t size, int64_t first,
                       int64_t last);                                       // elements of a step, first to last - 1
    int64_t (*count)(const uint64_t *words, int64_t number);                // bits that are set
    int64_t (*tile_weights_size)(const Geometry *);  // bytes that `pack_tiles` writes
    int64_t (*tile_channels)(const Geometry *);      // output channels, in whole vectors
    void (*pack_tiles)(const Geometry *, const int32_t *numbers, int8_t *weights, int32_t *starts);
    Status (*convolve_tiles)(const TileCall *, int64_t first, int64_t last);  // rows of tiles, first to last - 1
    const char *name;
};
