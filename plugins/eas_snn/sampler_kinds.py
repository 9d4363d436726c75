"""Samplers of EAS-SNN: micro-bins of events in, one frame or a few out, cut where the events say.

Micro-bins [Tm, N, 2, H, W] hold event counts per polarity, oldest first; a sampler walks back from the newest. So it
cannot begin before its window has ended: the live node runs it once a window, as everything else of this family. No
sampler keeps anything between windows, as published; the potentials of its cell start at 0 in each.

Parameters are named as in the authors' files, without the prefix ``embedding.``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from snn_perception.api import fold_time, membrane_dtype

from .sampler_cell import (
    Steps,
    StrictSpike,
    conv_stack,
    gated_steps,
    logit,
    reset_after,
    start_gate_stack,
    start_input_stack,
)
from .sampler_slices import Readout, SliceRule, Slices
from .thin_conv import ThinConv, from_phases, has_phases, to_phases

POLARITIES = 2
HIDDEN = 4  # channels of the spiking layers in front of the cell in the deeper sampler of `ncaltech-rep`
NORM_EPS, NORM_MOMENTUM = 1e-3, 0.03  # of every norm in these networks


def through(stack: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """Return a stack of convolutions as a function of images or, where these are taken apart, of their phases."""

    def run(x: Tensor) -> Tensor:
        for layer in stack:
            x = layer.in_phases(x) if isinstance(layer, ThinConv) and x.shape[1] != layer.in_channels else layer(x)
        return x

    return run


class TimeFolded(nn.Module):
    """A stack of convolutions applied to all steps at once; it gives its parameters the prefix ``layer.``."""

    def __init__(self, layer: nn.Sequential) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return [T, N, C', ...] of images, or phases of images, [T, N, C, ...]."""
        return fold_time(through(self.layer), x)


class Sampler(nn.Module, ABC):
    """Turns the newest `steps` micro-bins of a window into frames."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, bins: Tensor) -> Tensor:
        """Return frames [Ts, N, 2, H, W] in the dtype of the micro-bins [Tm, N, 2, H, W], which are oldest first.

        Bins older than the newest `steps` are ignored.

        Raises:
            ValueError: for fewer bins than steps, or of another number of axes or channels.
        """
        if bins.dim() != 5 or bins.shape[2] != POLARITIES or len(bins) < self.steps:
            raise ValueError(
                f"the sampler takes micro-bins [Tm, N, {POLARITIES}, H, W] with Tm at least {self.steps}, "
                f"got {list(bins.shape)}; let the representation cut as many bins as the sampler has steps"
            )
        newest_first = bins[-self.steps :].flip(0)
        if not has_phases(bins):
            return self._frames(newest_first).to(bins.dtype)
        frames = self._frames(fold_time(to_phases, newest_first))
        return fold_time(from_phases, frames).to(bins.dtype)

    @abstractmethod
    def _frames(self, bins: Tensor) -> Tensor:
        """Return frames [Ts, N, ...] of micro-bins [steps, N, ...], newest first; both are images or their phases."""


class SpikingLayer(nn.Module):
    """A gated cell that hands on its spikes: a layer in front of the sampler's own cell (branch ``ncaltech-rep``)."""

    def __init__(self, in_channels: int, channels: int, *, ksize: int, threshold: float) -> None:
        super().__init__()
        self.input_conv = TimeFolded(conv_stack(in_channels, 2 * channels, ksize, 1))
        self.gate_conv = conv_stack(channels, 2 * channels, ksize, 1)
        self.fire = StrictSpike(threshold)
        start_input_stack(self.input_conv)
        start_gate_stack(self.gate_conv)

    def forward(self, x: Tensor) -> Tensor:
        """Return spikes [T, N, C', ...] of x [T, N, C, ...]."""
        currents = self.input_conv(x)
        steps = gated_steps(currents, through(self.gate_conv), self.fire, reset=0.0)
        return torch.stack([step.s for step in steps]).to(x.dtype)


class AdaptiveSampler(Sampler):
    """``arsnn``: a pixel's spikes, counted from the newest bin backwards, end its slices of the window.

    With the published options (``sum``, RPD, one slot) a frame holds for every pixel and polarity the sum of the
    cell's potentials up to and including its first spike, and 0 where it never fires. It can be negative.

    Args:
        depth: convolutions in each stack.
        inner: spiking layers in front of the cell.
    """

    def __init__(
        self,
        rule: SliceRule,
        *,
        ksize: int,
        depth: int,
        inner: int,
        threshold: float,
        reset: float | None,
        absolute: bool,
    ) -> None:
        super().__init__(rule.steps)
        self.rule, self.reset, self.absolute = rule, reset, absolute
        widths = [POLARITIES, *[HIDDEN] * inner]
        if inner:
            layers = (SpikingLayer(width, HIDDEN, ksize=ksize, threshold=threshold) for width in widths[:-1])
            self.inner_net = nn.Sequential(*layers)
        self.gate_conv = conv_stack(POLARITIES, 2 * POLARITIES, ksize, depth)
        self.input_conv = conv_stack(widths[-1], 2 * POLARITIES, ksize, depth)
        self.fire = StrictSpike(threshold)
        start_input_stack(self.input_conv)
        start_gate_stack(self.gate_conv)

    def _frames(self, bins: Tensor) -> Tensor:
        inputs = self.inner_net(bins) if hasattr(self, "inner_net") else bins
        currents = fold_time(through(self.input_conv), inputs)
        slices = last = None
        # Once all slots of all pixels are full, further steps change nothing. They run all the same: that is rare
        # (the background never fires), and asking costs a wait for the device.
        for step, now in enumerate(gated_steps(currents, through(self.gate_conv), self.fire, self.reset)):
            slices = slices or Slices(self.rule, now.u)
            slices.add(step, now)
            last = now
        assert slices is not None and last is not None, "a sampler has at least one step"
        frames = slices.finish(last)
        return frames.relu() if self.absolute else frames


class RecurrentSampler(Sampler):
    """``rsnn``: the gated cell without slices; one frame of all steps."""

    def __init__(
        self,
        steps: int,
        *,
        ksize: int,
        depth: int,
        threshold: float,
        reset: float | None,
        readout: Readout,
        absolute: bool,
    ) -> None:
        super().__init__(steps)
        self.reset, self.readout, self.absolute = reset, readout, absolute
        self.input_conv = TimeFolded(conv_stack(POLARITIES, 2 * POLARITIES, ksize, depth))
        self.gate_conv = conv_stack(POLARITIES, 2 * POLARITIES, ksize, depth)
        self.fire = StrictSpike(threshold)
        start_input_stack(self.input_conv)
        start_gate_stack(self.gate_conv)

    def _frames(self, bins: Tensor) -> Tensor:
        currents = self.input_conv(bins)
        frame = _read(gated_steps(currents, through(self.gate_conv), self.fire, self.reset), self.readout)
        return frame.relu() if self.absolute else frame


class LeakyCell(nn.Module):
    """A leaky integrate-and-fire cell with one learned leak ``sigmoid(decay)``: ``u = leak v + x``, hard reset to 0."""

    def __init__(self, threshold: float, leak: float) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(logit(leak)))
        self.fire = StrictSpike(threshold)

    def steps(self, currents: Tensor) -> Iterator[Steps]:
        """Yield the steps of currents [T, N, ...] from rest."""
        dtype = membrane_dtype(currents)
        v = torch.zeros_like(currents[0], dtype=dtype)
        leak = self.decay.to(dtype).sigmoid()
        for current in currents:
            u = leak * v + current
            s = self.fire(u)
            v = reset_after(u, s, 0.0, self.fire.threshold)
            yield Steps(u, s, v)


class LeakySampler(Sampler):
    """``snn``: one stack of convolutions on every bin and a leaky cell behind it; one frame of all steps."""

    def __init__(self, steps: int, *, ksize: int, depth: int, threshold: float, readout: Readout, leak: float) -> None:
        super().__init__(steps)
        self.readout = readout
        self.embedding_conv = TimeFolded(conv_stack(POLARITIES, POLARITIES, ksize, depth))
        self.cell = LeakyCell(threshold, leak)
        start_input_stack(self.embedding_conv)

    def _frames(self, bins: Tensor) -> Tensor:
        return _read(self.cell.steps(self.embedding_conv(bins)), self.readout)


class CountSampler(Sampler):
    """``count``: the events of all bins, without a parameter."""

    def _frames(self, bins: Tensor) -> Tensor:
        return bins.sum(dim=0, keepdim=True)


def _read(steps: Iterator[Steps], readout: Readout) -> Tensor:
    """Return [1, N, ...]: the sum of the potentials before the reset, or the last potential after it."""
    first = next(steps)
    total, last = first.u, first.v
    for now in steps:
        total, last = total + now.u, now.v
    return (last if readout == "last" else total).unsqueeze(0)


class NormedSampler(nn.Sequential):
    """A sampler and a batch norm over all of its frames: ``0`` and ``1`` in the authors' names.

    The authors' code keeps the first slot alone here; with one slot it is the same.
    """

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(sampler, nn.BatchNorm2d(POLARITIES, eps=NORM_EPS, momentum=NORM_MOMENTUM))

    def forward(self, bins: Tensor) -> Tensor:
        """Return frames [Ts, N, 2, H, W] of micro-bins [Tm, N, 2, H, W]."""
        return fold_time(self[1], self[0](bins))
