"""The sensor's model, pixel by pixel: compiled loops of `snn_perception.synth.sensor`.

Only additions, multiplications, divisions and comparisons, in a stated order and without fastmath: the logarithm is a
polynomial, since the results of a system's ``log`` differ in the last bit between processors, and a set must come out
the same everywhere.

An event travels as one word, ``(t - t_start) << 32 | p << 31 | y << 16 | x``.
"""

from __future__ import annotations

import numpy as np

from snn_perception.events.jit import kernel
from snn_perception.synth.draw_kernels import exponential, normal, uniform

REFRACTORY_US = 280
MAX_SPAN_US = 1 << 22  # of one step: the sort counts microseconds
NEVER = 1 << 62
_LN2 = 0.6931471805599453
_TWO_PI = 6.283185307179586


@kernel
def draw_thresholds(draws, mean, spread, out):  # type: ignore[no-untyped-def]
    """Fill float32 [N] with thresholds of relative standard deviation `spread`, none below a third of the mean."""
    for i in range(len(out)):
        out[i] = mean * max(1.0 + spread * normal(draws), 1.0 / 3.0)


@kernel
def log_of(values, out):  # type: ignore[no-untyped-def]
    """Fill float32 [N] with the natural logarithm of positive float32 [N], to 2e-6 and the rounding of float32."""
    bits = values.view(np.int32)
    for i in range(len(values)):
        exponent = np.float32((bits[i] >> np.int32(23)) - np.int32(127))
        f = np.float32(bits[i] & np.int32(0x7FFFFF)) * np.float32(1.0 / 8388608.0)
        q = np.float32(-0.09595642) + np.float32(0.02584143) * f  # log2(1 + f) = f + f (1 - f) q(f), exact at 0 and 1
        q = np.float32(0.44254494) + f * (np.float32(-0.2756003) + f * (np.float32(0.18194885) + f * q))
        out[i] = np.float32(_LN2) * (exponent + (f + f * (np.float32(1.0) - f) * q))


@kernel
def settle(luminance, dark, level):  # type: ignore[no-untyped-def]
    """Fill level float32 [N], the log intensity that a pixel reaches in front of a still image, float32 [N]."""
    log_of(luminance + np.float32(dark), level)


@kernel
def advance(luminance, t_start, t_end, optics, level, reference, blind_until, on, off, noise, words):  # type: ignore[no-untyped-def]
    """Return (words uint64, n): the events of all pixels in (t_start, t_end], pixel by pixel; all state moves on.

    Args:
        luminance: float32 [H, W] at t_end; before it, a pixel's filtered level is taken to run straight.
        optics: dark current (in the unit of luminance), corner_hz at luminance 1, least_corner_hz.
        level, reference: float32 [H * W], filtered log intensity at t_start, and that of the last event; a reference
            of NaN: the pixel is held in reset.
        blind_until: int64 [H * W], sensor time at which a pixel held in reset is released.
        on, off: float32 [H * W], thresholds.
        noise: (draws, heads, clock, background, hot_pixel, hot_next, hot_rate, hot_p), see `_next_background`.
        words: buffer, which is replaced by one twice as long where it is too short.
    """
    height, width = luminance.shape
    dark, corner_hz, least_corner_hz = optics
    span = t_end - t_start
    per_light = np.float32(span * 1e-6 * _TWO_PI * corner_hz)
    at_least = np.float32(span * 1e-6 * _TWO_PI * least_corner_hz)
    lift = np.float32(dark)
    target, has_crossed = np.empty(width, np.float32), np.zeros(8 * ((width + 7) // 8), np.bool_)
    eights = has_crossed.view(np.uint64)  # most pixels are quiet: look at eight at once
    most = span // REFRACTORY_US + 2  # events of one pixel in this step
    _first_forced(t_start, span, height * width, noise)
    heads = noise[1]
    forced, n = heads[3], 0
    for y in range(height):
        base = y * width
        here = slice(base, base + width)
        row, now = luminance[y], level[here]
        _filter_row(row, lift, per_light, at_least, now, target)
        _mark_row(target, reference[here], on[here], off[here], has_crossed)
        for eighth in range(len(eights)):
            left = 8 * eighth
            if eights[eighth] == 0 and not base + left <= forced < base + left + 8:
                continue
            for x in range(left, min(left + 8, width)):
                i = base + x
                if not has_crossed[x] and i != forced:
                    continue
                if n + most > len(words):
                    longer = np.empty(2 * (n + most), np.uint64)
                    longer[:n] = words[:n]
                    words = longer
                place = np.uint64(y) << np.uint64(16) | np.uint64(x)
                line = now[x], (np.float64(target[x]) - now[x]) / span, span, t_start
                if i == forced:
                    n = _with_noise(i, place, line, row[x], reference, blind_until, on, off, noise, words, n)
                    forced = heads[3]
                else:
                    n = _cross(i, place, line, span + 1, reference, blind_until, on[i], off[i], words, n)
        now[:] = target
    return words, n


@kernel
def _filter_row(row, lift, per_light, at_least, now, target):  # type: ignore[no-untyped-def]
    """Fill target float32 [W] with the level at the end of a step (implicit Euler: stable for any step)."""
    log_of(row + lift, target)
    for x in range(len(row)):
        gain = per_light * row[x] + at_least
        share = np.divide(gain, np.float32(1.0) + gain)  # unlike `/` without a check that stops the loop's vector form
        target[x] = now[x] + (target[x] - now[x]) * share


@kernel
def _mark_row(target, last, on, off, has_crossed):  # type: ignore[no-untyped-def]
    """Fill bool [W] with which pixels have left the band between their thresholds, or are held in reset."""
    for x in range(len(target)):
        change = target[x] - last[x]
        has_crossed[x] = not ((change < on[x]) & (change > -off[x]))  # true as well for a reference of NaN


@kernel
def _cross(i, place, line, limit, reference, blind_until, on, off, words, n):  # type: ignore[no-untyped-def]
    """Return n after writing the threshold crossings of pixel `i` before `limit` (us since t_start) to `words`.

    After each event the pixel is held in reset for the refractory time, at the end of which its level becomes the
    reference: so a fast change gives fewer events than its height over the threshold.

    Args:
        line: level at t_start, its slope per us, length of the step in us, t_start.
    """
    before, slope, span, t_start = line
    begin = max(blind_until[i] - t_start, 0)
    if begin >= limit or begin > span:
        return n
    if np.isnan(reference[i]):
        reference[i] = before + slope * begin
    p = 1 if slope > 0.0 else 0
    step = np.float64(on) if slope > 0.0 else -np.float64(off)
    while slope != 0.0:
        ahead = (np.float64(reference[i]) + step - before) / slope
        if ahead > span:
            return n
        moment = max(int(np.ceil(ahead)), begin + 1)
        if moment >= limit:
            return n
        n = _emit(i, place, line, moment, p, reference, blind_until, words, n)
        begin = moment + REFRACTORY_US
        if begin > span:
            return n
    return n


@kernel
def _emit(i, place, line, moment, p, reference, blind_until, words, n):  # type: ignore[no-untyped-def]
    """Return n + 1 after writing one event; the pixel goes into reset."""
    before, slope, span, t_start = line
    words[n] = np.uint64(moment) << np.uint64(32) | np.uint64(p) << np.uint64(31) | place
    begin = moment + REFRACTORY_US
    blind_until[i] = t_start + begin
    reference[i] = before + slope * begin if begin <= span else np.nan
    return n + 1


@kernel
def _with_noise(i, place, line, light, reference, blind_until, on, off, noise, words, n):  # type: ignore[no-untyped-def]
    """Return n as `_cross`, for a pixel that has noise events in this step: each resets it as any event does."""
    span, t_start = line[2], line[3]
    while True:
        forced, p = _forced(i, light, span, blind_until[i] - t_start, noise)
        n = _cross(i, place, line, min(forced, span + 1), reference, blind_until, on[i], off[i], words, n)
        if forced > span:
            return n
        if forced >= blind_until[i] - t_start:  # not in the refractory time of a crossing just before
            n = _emit(i, place, line, forced, p, reference, blind_until, words, n)


@kernel
def _forced(i, light, span, begin, noise):  # type: ignore[no-untyped-def]
    """Return (us since the start, polarity) of the next noise event of pixel `i` after `begin`, and take it out."""
    draws, heads, _, background, hot_pixel, hot_next, hot_rate, hot_p = noise
    while heads[3] == i:
        h = heads[2]
        is_hot = h < len(hot_pixel) and hot_pixel[h] == i
        is_background = heads[0] == i
        if is_background and not (is_hot and hot_next[h] - heads[4] < heads[1]):
            moment, p = heads[1], 1 if uniform(draws) < background[2] else 0
            is_real = uniform(draws) * (1.0 + light / background[1]) < 1.0
            _next_background(span, background[3], noise)
        else:
            moment, p, is_real = hot_next[h] - heads[4], int(hot_p[h]), True
            hot_next[h] += np.int64(1 + exponential(draws) / hot_rate[h])
            _next_hot(span, noise)
        _choose_head(noise)
        if is_real and moment >= max(begin, 1):
            return moment, p
    return NEVER, 0


@kernel
def _first_forced(t_start, span, pixels, noise):  # type: ignore[no-untyped-def]
    """Set the heads for a new step.

    heads int64 [5]: pixel and time (us since t_start) of the next background event, index of the next hot pixel with an
    event in this step, the lower pixel of both, t_start. clock float64 [1]: how far the background has come, in
    pixel-us. background float64 [4]: events per us of a pixel in the dark, luminance at which it is half of that,
    share of ON, pixels.
    """
    heads, background = noise[1], noise[3]
    heads[4] = t_start
    background[3] = pixels
    heads[2] = -1
    _place_background(span, pixels, noise)
    _next_hot(span, noise)
    _choose_head(noise)


@kernel
def _next_background(span, pixels, noise):  # type: ignore[no-untyped-def]
    """Move to the next background event: a Poisson process along all pixels' time, laid end to end."""
    draws, background = noise[0], noise[3]
    noise[2][0] += exponential(draws) / background[0]
    _place_background(span, pixels, noise)


@kernel
def _place_background(span, pixels, noise):  # type: ignore[no-untyped-def]
    heads, clock = noise[1], noise[2]
    if clock[0] >= span * pixels:
        clock[0] -= span * pixels  # what is left of the wait goes on in the next step
        heads[0] = NEVER
        return
    pixel = np.int64(clock[0] / span)
    heads[0] = pixel
    heads[1] = min(1 + np.int64(clock[0] - pixel * span), span)


@kernel
def _next_hot(span, noise):  # type: ignore[no-untyped-def]
    """Move to the next hot pixel that has an event in this step; the present one may have another."""
    heads, hot_pixel, hot_next = noise[1], noise[4], noise[5]
    h = max(heads[2], 0)
    while h < len(hot_pixel) and hot_next[h] > heads[4] + span:
        h += 1
    heads[2] = h


@kernel
def _choose_head(noise):  # type: ignore[no-untyped-def]
    heads, hot_pixel = noise[1], noise[4]
    hot = hot_pixel[heads[2]] if heads[2] < len(hot_pixel) else NEVER
    heads[3] = min(heads[0], hot)


@kernel
def unpack(words, n, t_start, span, duplicate_from_x):  # type: ignore[no-untyped-def]
    """Return (x, y, p, t) of words in order of time, those of one microsecond in order of pixels (counting sort).

    Events at x >= `duplicate_from_x` come twice, as in GEN1.
    """
    first = np.zeros(span + 2, np.int64)
    total = 0
    for k in range(n):
        copies = 2 if (words[k] & np.uint64(0xFFFF)) >= duplicate_from_x else 1
        first[(words[k] >> np.uint64(32)) + np.uint64(1)] += copies
        total += copies
    for u in range(1, span + 2):
        first[u] += first[u - 1]
    x, y = np.empty(total, np.uint16), np.empty(total, np.uint16)
    p, t = np.empty(total, np.uint8), np.empty(total, np.int64)
    for k in range(n):
        after_us = np.int64(words[k] >> np.uint64(32))
        column = np.uint16(words[k] & np.uint64(0xFFFF))
        for _ in range(2 if column >= duplicate_from_x else 1):
            at = first[after_us]
            first[after_us] += 1
            x[at] = column
            y[at] = np.uint16(words[k] >> np.uint64(16) & np.uint64(0x7FFF))
            p[at] = np.uint8(words[k] >> np.uint64(31) & np.uint64(1))
            t[at] = t_start + after_us
    return x, y, p, t
