// What the library exports: every call names the instruction set whose kernels it wants.
#include "spikes.h"

#if defined(__x86_64__)
extern const Kernels avx512vnni, avx512, avx2, plain;
static const Kernels *const ALL[] = {&avx512vnni, &avx512, &avx2, &plain};
#else
extern const Kernels plain;
static const Kernels *const ALL[] = {&plain};
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))
static const int32_t COUNT = sizeof(ALL) / sizeof(ALL[0]);

// The name of an instruction set, best first; null past the last.
EXPORT const char *spikes_isa_name(int32_t isa) { return isa >= 0 && isa < COUNT ? ALL[isa]->name : nullptr; }

// Whether this processor, under this system, runs it.
EXPORT int32_t spikes_isa_runs(int32_t isa) {
    if (isa < 0 || isa >= COUNT) return 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                          __builtin_cpu_supports("popcnt");
    if (ALL[isa] == &avx2) return has_avx2;
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (ALL[isa] == &avx512) return has_avx512;
    if (ALL[isa] == &avx512vnni) return has_avx512 && __builtin_cpu_supports("avx512vnni");
#endif
    return 1;
}

EXPORT int64_t spikes_rows_size(int32_t isa, const Geometry *g) { return ALL[isa]->rows_size(g); }
EXPORT int64_t spikes_tables_size(int32_t isa, const Geometry *g) { return ALL[isa]->tables_size(g); }
EXPORT void spikes_pack_rows(int32_t isa, const Geometry *g, const float *weights, float *rows) {
    ALL[isa]->pack_rows(g, weights, rows);
}
EXPORT void spikes_pack_tables(int32_t isa, const Geometry *g, const float *rows, float *tables) {
    ALL[isa]->pack_tables(g, rows, tables);
}
EXPORT int32_t spikes_pack(int32_t isa, const void *input, int32_t kind, int64_t channels, int64_t first, int64_t last,
                           uint64_t *words) {
    return ALL[isa]->pack_spikes(input, kind, channels, first, last, words);
}
EXPORT int32_t spikes_convolve(int32_t isa, const Call *call, int64_t first, int64_t last) {
    return ALL[isa]->convolve(call, first, last);
}
EXPORT void spikes_fire(int32_t isa, const Neuron *neuron, const float *current, const Output *out, int64_t channels,
                        int64_t first, int64_t last) {
    ALL[isa]->fire(neuron, current, out, channels, first, last);
}
EXPORT void spikes_fire_whole(int32_t isa, const Neuron *neuron, const float *current, const Output *out, int64_t steps,
                              int64_t size, int64_t first, int64_t last) {
    ALL[isa]->fire_whole(neuron, current, out, steps, size, first, last);
}
EXPORT int64_t spikes_count(int32_t isa, const uint64_t *words, int64_t number) { return ALL[isa]->count(words, number); }
EXPORT int64_t spikes_tile_weights_size(int32_t isa, const Geometry *g) { return ALL[isa]->tile_weights_size(g); }
EXPORT int64_t spikes_tile_channels(int32_t isa, const Geometry *g) { return ALL[isa]->tile_channels(g); }
EXPORT void spikes_pack_tiles(int32_t isa, const Geometry *g, const int32_t *numbers, int8_t *weights,
                              int32_t *starts) {
    ALL[isa]->pack_tiles(g, numbers, weights, starts);
}
EXPORT int32_t spikes_convolve_tiles(int32_t isa, const TileCall *call, int64_t first, int64_t last) {
    return ALL[isa]->convolve_tiles(call, first, last);
}
