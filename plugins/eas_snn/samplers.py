"""Builds EAS-SNN's samplers from their options."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .sampler_kinds import AdaptiveSampler, CountSampler, LeakySampler, NormedSampler, RecurrentSampler, Sampler
from .sampler_options import SamplerOptions
from .sampler_slices import Readout, SliceRule


def build_sampler(
    name: str,
    *,
    ksize: int = 5,
    depth: int = 2,
    steps: int = 4,
    slots: int = 1,
    threshold: float = 1.0,
    reset: float | None = 0.0,
    readout: Readout = "sum",
    spike_attach: bool = True,
    write_zero: bool = True,
    absolute: bool = False,
    norm: bool = False,
    branch: str = "main",
    leak: float = 0.5,
) -> nn.Module:
    """Return a sampler: micro-bins [Tm, N, 2, H, W], oldest first -> frames [Ts, N, 2, H, W].

    Wang et al., ECCV 2024, section 3. The defaults are those of the published GEN1 networks.

    Args:
        name: ``arsnn`` (adaptive), ``rsnn`` (its cell without slices), ``snn`` (leaky cell), ``count`` (no cell).
        ksize, depth: side of the kernels, odd, and convolutions in each stack. In branch ``ncaltech-rep`` depth counts
            layers instead: a stack has one convolution, and ``depth - 1`` spiking layers come before it.
        steps: micro-bins that are processed (Tm), the newest ones.
        slots: slices kept per pixel (Ts); of ``arsnn``.
        threshold: fires above it.
        reset: potential after a spike, or None: the threshold is subtracted.
        readout: the value of a slice: see `SliceRule`.
        spike_attach: spike-aware training (SAT) of ``arsnn``.
        write_zero: residual potential dropout (RPD) of ``arsnn``.
        absolute: whether negative values are set to 0, in ``arsnn`` and ``rsnn``.
        norm: whether a batch norm follows.
        branch: ``main`` or ``ncaltech-rep``, whose deeper samplers differ.
        leak: initial leak of ``snn``.

    Options that a sampler does not have, such as `ksize` of ``count``, are left out of account, except where they ask
    for something that it cannot give.

    Raises:
        ValueError: for a value that is out of range, or options that contradict each other.
    """
    options = SamplerOptions(
        name, ksize, depth, steps, slots, threshold, reset, readout, spike_attach, write_zero, absolute, branch, leak
    )
    sampler = _BUILDERS[name](options)
    return NormedSampler(sampler) if norm else sampler


def _adaptive(o: SamplerOptions) -> Sampler:
    rule = SliceRule(o.steps, o.slots, o.readout, o.spike_attach, o.write_zero)
    depth, inner = (o.depth, 0) if o.branch == "main" else (1, o.depth - 1)
    return AdaptiveSampler(
        rule, ksize=o.ksize, depth=depth, inner=inner, threshold=o.threshold, reset=o.reset, absolute=o.absolute
    )


def _recurrent(o: SamplerOptions) -> Sampler:
    return RecurrentSampler(
        o.steps,
        ksize=o.ksize,
        depth=o.depth,
        threshold=o.threshold,
        reset=o.reset,
        readout=o.readout,
        absolute=o.absolute,
    )


def _leaky(o: SamplerOptions) -> Sampler:
    return LeakySampler(o.steps, ksize=o.ksize, depth=o.depth, threshold=o.threshold, readout=o.readout, leak=o.leak)


_BUILDERS: dict[str, Callable[[SamplerOptions], Sampler]] = {
    "arsnn": _adaptive,
    "rsnn": _recurrent,
    "snn": _leaky,
    "count": lambda o: CountSampler(o.steps),
}
