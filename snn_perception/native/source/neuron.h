// One step of a neuron on a block of currents that may still lie in registers, and where its results go.
#pragma once

#include "layout.h"

namespace {

template <int CHARGE>
inline Vec charged(Vec v, Vec x, Vec a) {
    if (CHARGE == SUM) return v + x;
    if (CHARGE == INPUT_TIMES) return v + (x - v) * a;
    if (CHARGE == INPUT_OVER) return v + (x - v) / a;
    if (CHARGE == PLAIN_TIMES) return v - v * a + x;
    return v - v / a + x;
}

// Returns the whole number of spikes of a step and advances the membrane.
inline Vec whole_step(const Neuron &n, Vec x, Vec &v) {
    const Vec h = multiply_add(v, all(n.factor), x * n.gain), threshold = all(n.threshold);
    const Vec positive = h > 0.0f ? h : Vec{};
    const Vec spikes = round_even(positive < threshold ? positive : threshold);
    v = h - spikes;
    return spikes;
}

// Fires `lanes` output channels from index `at` of [..., channels] memory; `bit` is that of the first in its word.
template <int CHARGE>
inline void fire(const Neuron &n, const Output &out, Vec x, int64_t at, int64_t lanes, uint64_t *word, int bit) {
    const Vec before = out.v ? load_part(out.v + at, lanes) : Vec{};
    const Vec a = all(n.factor), threshold = all(n.threshold), one = all(1.0f);
    Vec spikes, after;
    IntVec fired;
    if (CHARGE == WHOLE_NUMBER) {
        after = before;
        spikes = whole_step(n, x, after);
        fired = spikes != 0.0f;
    } else {
        const Vec h = charged<CHARGE>(before, x, a);
        fired = h >= threshold;
        spikes = fired ? one : Vec{};
        after = fired ? h - (n.hard_reset ? h : threshold) : h;
    }
    store_part(out.v_after + at, after, lanes);
    if (out.floats) store_part(out.floats + at, spikes, lanes);
    if (out.bytes) store_bytes(out.bytes + at, spikes, lanes);
    if (word) {
        const uint64_t valid = lanes >= LANES ? ~0ull : (1ull << lanes) - 1;
        *word |= (bits_of(fired) & valid) << bit;
    }
}

// Calls visit(integral constant) with the charge of a neuron.
template <int N>
struct Constant {
    static constexpr int value = N;
};
template <class Visit>
inline void with_charge(int32_t charge, Visit visit) {
    switch (charge) {
        case SUM: return visit(Constant<SUM>{});
        case INPUT_TIMES: return visit(Constant<INPUT_TIMES>{});
        case INPUT_OVER: return visit(Constant<INPUT_OVER>{});
        case PLAIN_TIMES: return visit(Constant<PLAIN_TIMES>{});
        case PLAIN_OVER: return visit(Constant<PLAIN_OVER>{});
        case WHOLE_NUMBER: return visit(Constant<WHOLE_NUMBER>{});
        default: return visit(Constant<NONE>{});
    }
}

}  // namespace
