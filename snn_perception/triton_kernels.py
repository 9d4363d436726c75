"""The kernels of `neuron_triton`. Imported only where Triton is installed.

Currents, spikes and their gradients are [T, N] in memory, membranes [N]. What a step means is in `neuron_steps` and
`whole_steps`. Types and signatures are those of Triton's own language, which Python's checker does not know.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

HALF_PI = tl.constexpr(1.5707963267948966)


@triton.jit
def _charge(v, x, a, CHARGE: tl.constexpr):
    if CHARGE == 0:
        return v + x
    if CHARGE == 1:
        return v + (x - v) * a
    if CHARGE == 2:
        return v + tl.div_rn(x - v, a)
    if CHARGE == 3:
        return v - v * a + x
    return v - tl.div_rn(v, a) + x


@triton.jit
def _leak(leak, number, v, LEARNT: tl.constexpr):
    """Return the factor of the leak in every lane."""
    a = tl.load(leak).to(tl.float32) if LEARNT else number
    return tl.zeros_like(v) + a


@triton.jit
def forward(
    x, v, spikes, after, leak, number, threshold,
    CHARGE: tl.constexpr, LEARNT: tl.constexpr, HARD: tl.constexpr, steps, n, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    m = tl.load(v + at, mask=inside, other=0.0)
    a = _leak(leak, number, m, LEARNT)
    for t in range(steps):
        h = _charge(m, tl.load(x + t * n + at, mask=inside, other=0.0), a, CHARGE)
        s = (h >= threshold).to(tl.float32)
        m = h - s * h if HARD else h - s * threshold
        tl.store(spikes + t * n + at, s, mask=inside)
    tl.store(after + at, m, mask=inside)


@triton.jit
def _slope(u, alpha, SIGMOID: tl.constexpr):
    """Return the surrogate's gradient."""
    if SIGMOID:
        e = tl.exp(-tl.abs(alpha * u))
        return alpha * e / ((1.0 + e) * (1.0 + e))
    w = HALF_PI * alpha * u
    return alpha * 0.5 / (1.0 + w * w)


@triton.jit
def backward(
    x, v, before, g_spikes, g_after, g_x, g_v, sums, alpha, leak, number, threshold,
    CHARGE: tl.constexpr, LEARNT: tl.constexpr, HARD: tl.constexpr, steps, n, BLOCK: tl.constexpr,
    HAS_AFTER: tl.constexpr, DETACH: tl.constexpr, SIGMOID: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    m = tl.load(v + at, mask=inside, other=0.0)
    a = _leak(leak, number, m, LEARNT)
    for t in range(steps):
        tl.store(before + t * n + at, m, mask=inside)
        h = _charge(m, tl.load(x + t * n + at, mask=inside, other=0.0), a, CHARGE)
        s = (h >= threshold).to(tl.float32)
        m = h - s * h if HARD else h - s * threshold
    g_m = tl.load(g_after + at, mask=inside, other=0.0) if HAS_AFTER else tl.zeros_like(m)
    g_a = tl.zeros_like(m)
    for k in range(steps):
        t = steps - 1 - k
        x_t = tl.load(x + t * n + at, mask=inside, other=0.0)
        m = tl.load(before + t * n + at, mask=inside, other=0.0)
        h = _charge(m, x_t, a, CHARGE)
        slope = _slope(h - threshold, alpha, SIGMOID)
        kept = (h < threshold).to(tl.float32) if HARD else tl.zeros_like(h) + 1.0
        if not DETACH:
            kept = kept - slope * (h if HARD else tl.zeros_like(h) + threshold)
        g_h = tl.load(g_spikes + t * n + at, mask=inside, other=0.0) * slope + g_m * kept
        leaked = g_h * a if CHARGE == 1 or CHARGE == 3 else tl.div_rn(g_h, a)  # noqa: PLR1714 - Triton's language has no sets
        g_i = leaked if CHARGE == 1 or CHARGE == 2 else g_h  # noqa: PLR1714
        g_m = g_h if CHARGE == 0 else g_h - leaked
        if CHARGE == 1:
            g_a += g_h * (x_t - m)
        if CHARGE == 3:
            g_a -= g_h * m
        tl.store(g_x + t * n + at, g_i, mask=inside)
    tl.store(g_v + at, g_m, mask=inside)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(inside, g_a, 0.0)))


@triton.jit
def _whole(m, x, most, decay, gain):
    """Return u and the spikes of a step: ties to even, by adding what leaves no room for a fraction."""
    u = tl.fma(m, tl.zeros_like(m) + decay, x * gain)
    s = tl.where(u < 0.0, 0.0, u)
    s = tl.where(s > most, most, s)
    return u, (s + 12582912.0) - 12582912.0


@triton.jit
def whole_forward(x, v, spikes, after, most, decay, gain, steps, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    m = tl.load(v + at, mask=inside, other=0.0)
    for t in range(steps):
        u, s = _whole(m, tl.load(x + t * n + at, mask=inside, other=0.0), most, decay, gain)
        m = u - s
        tl.store(spikes + t * n + at, s, mask=inside)
    tl.store(after + at, m, mask=inside)


@triton.jit
def whole_backward(
    x, v, before, g_spikes, g_after, g_x, g_v, most, decay, gain, steps, n, BLOCK: tl.constexpr,
    HAS_AFTER: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    m = tl.load(v + at, mask=inside, other=0.0)
    for t in range(steps):
        u, s = _whole(m, tl.load(x + t * n + at, mask=inside, other=0.0), most, decay, gain)
        tl.store(before + t * n + at, u, mask=inside)  # of whole numbers u is all that the gradient needs
        m = u - s
    g_m = tl.load(g_after + at, mask=inside, other=0.0) if HAS_AFTER else tl.zeros_like(m)
    for k in range(steps):
        t = steps - 1 - k
        u = tl.load(before + t * n + at, mask=inside, other=0.0)
        g_s = tl.load(g_spikes + t * n + at, mask=inside, other=0.0)
        g_u = g_m + tl.where((u >= 0.0) & (u <= most), g_s, 0.0)
        tl.store(g_x + t * n + at, g_u * gain, mask=inside)
        g_m = g_u * decay
    tl.store(g_v + at, g_m, mask=inside)
