// Vectors of the instruction set that this translation unit is compiled for.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

// LANES floats in a vector; a block of output channels is at most MOST_VECTORS, which the registers hold.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
constexpr int LANES = 16, MOST_VECTORS = 4;
#define SPIKES_AVX512
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int LANES = 8, MOST_VECTORS = 8;
#define SPIKES_AVX2
#elif defined(__aarch64__)
constexpr int LANES = 4, MOST_VECTORS = 16;
#else
constexpr int LANES = 4, MOST_VECTORS = 8;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint8_t ByteVec __attribute__((vector_size(LANES)));
typedef float VecAnywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t ByteVecAnywhere __attribute__((vector_size(LANES), aligned(1), may_alias));

inline Vec load(const float *p) { return *reinterpret_cast<const VecAnywhere *>(p); }
inline void store(float *p, Vec v) { *reinterpret_cast<VecAnywhere *>(p) = v; }
inline Vec all(float x) { return x - Vec{}; }

// The first `count` lanes; the others are 0.
inline Vec load_part(const float *p, int64_t count) {
    if (count >= LANES) return load(p);
#if defined(SPIKES_AVX512)
    return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p));
#else
    Vec v{};
    memcpy(&v, p, 4 * count);
    return v;
#endif
}

inline void store_part(float *p, Vec v, int64_t count) {
    if (count >= LANES) return store(p, v);
#if defined(SPIKES_AVX512)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), reinterpret_cast<__m512>(v));
#else
    memcpy(p, &v, 4 * count);
#endif
}

inline void store_bytes(uint8_t *p, Vec v, int64_t count) {
    ByteVec bytes = __builtin_convertvector(__builtin_convertvector(v, IntVec), ByteVec);
    if (count >= LANES)
        *reinterpret_cast<ByteVecAnywhere *>(p) = bytes;
    else
        memcpy(p, &bytes, count);
}

// a * b + c, in one rounding where the processor can.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(SPIKES_AVX512)
    return reinterpret_cast<Vec>(
        _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(SPIKES_AVX2)
    return reinterpret_cast<Vec>(
        _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(__aarch64__)
    return reinterpret_cast<Vec>(vfmaq_f32(
        reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)));
#else
    return a * b + c;
#endif
}

// To the nearest whole number, ties to even; for numbers from 0 to 2**22.
inline Vec round_even(Vec x) {
    const float shift = 12582912.0f;  // 1.5 * 2**23: adding it leaves no bits for a fraction
    Vec y = x + shift;
    return y - shift;
}

// One bit for each lane, set where the lane of a comparison is.
inline uint64_t bits_of(IntVec lanes) {
#if defined(SPIKES_AVX512)
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(lanes));
#elif defined(SPIKES_AVX2)
    return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(lanes)));
#elif defined(__x86_64__)
    return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(lanes)));
#elif defined(__aarch64__)
    const uint32x4_t places = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(reinterpret_cast<uint32x4_t>(lanes), places));
#else
    uint64_t bits = 0;
    for (int i = 0; i < LANES; ++i) bits |= static_cast<uint64_t>(lanes[i] & 1) << i;
    return bits;
#endif
}

// The next bytes, at most 8, the first in the lowest place; 0 where there are none.
inline uint64_t load_bytes(const uint8_t *p, int64_t count) {
    uint64_t bytes = 0;
    if (count >= 8)
        memcpy(&bytes, p, 8);  // of a known size: one instruction, no call
    else
        memcpy(&bytes, p, count);
    return bytes;
}

// The lowest bit of each of 8 bytes, side by side: the product moves that of byte i from place 8 i to place 56 + i.
inline uint64_t lowest_bits(uint64_t bytes) { return (bytes & 0x0101010101010101ull) * 0x0102040810204080ull >> 56; }

// One bit for each of 8 bytes, set where the byte is not 0.
inline uint64_t nonzero_bits(uint64_t bytes) {
    const uint64_t low = 0x7f7f7f7f7f7f7f7full;
    return lowest_bits((((bytes & low) + low) | bytes) >> 7);
}

}  // namespace
