"""What adaptive sampling reads out of a cell: the slices into which each pixel's spikes cut the window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .sampler_cell import Steps

Readout = Literal["sum", "avg", "last", "before_reset"]
READOUTS: tuple[Readout, ...] = ("sum", "avg", "last", "before_reset")


@dataclass(frozen=True)
class SliceRule:
    """How steps become slices; bins are processed newest first, so a slice reaches back from its spike's successor.

    Attributes:
        steps: of a window.
        slots: slices kept per pixel and channel; later ones are dropped, missing ones are 0.
        readout: the value of a slice: ``sum`` of its potentials before the reset, ``avg`` of them over its steps,
            ``last``: the potential after the reset, which a hard reset has made a constant (as published),
            ``before_reset``: the potential that fired.
        spike_attach: spike-aware training (SAT): the value is multiplied by its spike, which changes no number but
            gives the spike a gradient.
        write_zero: residual potential dropout (RPD): what is left after a pixel's last spike is dropped; else it is
            read out into the next free slot.
    """

    steps: int
    slots: int
    readout: Readout
    spike_attach: bool
    write_zero: bool


class Slices:
    """Slices of the pixels of a window, filled step by step.

    Pixels are chosen by products with 0 and 1, which carry no gradient: the numbers of a masked choice, faster.
    """

    def __init__(self, rule: SliceRule, like: Tensor) -> None:
        self.rule = rule
        self.values = [torch.zeros_like(like) for _ in range(rule.slots)]
        # Which slot a pixel fills next: 1 in at most one of these; in none once all of its slots are full.
        self._at = [torch.ones_like(like), *(torch.zeros_like(like) for _ in range(rule.slots - 1))]
        self._sum = torch.zeros_like(like)
        self._length = torch.zeros_like(like)

    def add(self, step: int, now: Steps) -> None:
        """Take one step; pixels that fire end their slice."""
        fired = now.s.detach()
        self._sum = self._sum + now.u
        if self.rule.readout == "avg":
            self._length = self._length + 1
        value = self._value(now)
        if self.rule.spike_attach and now.s.requires_grad:
            value = value * now.s
        # No pixel has fired more often than there were steps before this one.
        for slot in reversed(range(min(step + 1, self.rule.slots))):
            ending = self._at[slot] * fired
            self.values[slot] = torch.addcmul(self.values[slot], value, ending)
            self._at[slot] = self._at[slot] - ending
            if slot + 1 < self.rule.slots:
                self._at[slot + 1] = self._at[slot + 1] + ending
        if self.rule.slots > 1:  # after its only slice a pixel is read no more
            self._sum = torch.addcmul(self._sum, self._sum, fired, value=-1)
            self._length = torch.addcmul(self._length, self._length, fired, value=-1)

    def finish(self, last: Steps) -> Tensor:
        """Return the slices [Ts, N, C, ...] after the last step."""
        if not self.rule.write_zero:
            silent = 1 - last.s.detach()
            value = self._value(last)
            for slot in range(self.rule.slots):
                self.values[slot] = torch.addcmul(self.values[slot], value, self._at[slot] * silent)
        return torch.stack(self.values)

    def _value(self, now: Steps) -> Tensor:
        if self.rule.readout == "last":
            return now.v
        if self.rule.readout == "before_reset":
            return now.u
        return self._sum / self._length.clamp(min=1) if self.rule.readout == "avg" else self._sum
