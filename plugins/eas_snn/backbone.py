"""Sampler, trunk and neck: a window's micro-bins to the maps that the head reads.

A window of Tm micro-bins becomes one frame per network step by the sampler (one frame for all T steps, or one of its
own for each), the T steps run through the spiking network, and what they give is averaged where the first part without
neurons begins: behind the trunk, in front of the neck (authors: ``use_spike True``); or in front of the head, or behind
its predictions, both of which are the head's affair (``full_spike``, ``full_spike_v2``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from snn_perception.api import FeatureInfo, NeuronFactory, State

from .darknet import STEM_WIDTH, STRIDES, Darknet
from .layers import Membranes, count_neurons
from .pafpn import PAFPN
from .sampler_slices import Readout
from .samplers import build_sampler

SPIKING = ("none", "backbone", "fpn")
BRANCHES = ("main", "ncaltech-rep")
POLARITIES = 2


class EASBackbone(nn.Module):
    """Adaptive sampler, CSPDarknet and PAFPN (Wang et al., ECCV 2024): maps at strides 8, 16 and 32.

    The state is the tuple of all membranes in the order in which neurons run. The sampler starts every window afresh.

    For a detector that may stop early, `sample`, `steps` and `gather` are the parts of a call: the steps of a window
    may run in pieces, and their maps, joined along T, be gathered at any time.

    Args:
        spiking: how far neurons reach: ``none`` (SiLU everywhere, one step), ``backbone`` (the trunk), or ``fpn`` (the
            neck too).
        branch: of the authors' repository: ``main`` has a Focus stem without neurons, ``ncaltech-rep`` a spiking 6x6
            one and another form of deeper samplers.
        depth_factor, width_factor: of bottlenecks and channels; S 0.33 and 0.50, M 0.67 and 0.75, L 1 and 1.
        steps: T, network steps per window. micro_steps: Tm, micro-bins per window. slots: Ts, frames that the sampler
            cuts out of a window, 1 or T.
        sampler: ``arsnn``, ``rsnn``, ``snn`` or ``count``; with kernel size `ksize` and `sampler_depth` convolutions.
        sampler_threshold, sampler_reset: of its neurons; a reset of None subtracts the threshold.
        readout: ``sum`` or ``avg`` of a slice's potentials, ``last`` or ``before_reset``.
        spike_attach: values take the gradient of the spike that ends them (spike-aware training, SAT).
        write_zero: what is left in units that have not fired is dropped (residual potential dropout, RPD).
        absolute: negative frames become 0. norm: a batch norm follows the sampler.

    Raises:
        ValueError: for options out of range, or that contradict each other.
    """

    def __init__(
        self,
        in_channels: int,
        neuron: NeuronFactory,
        *,
        spiking: str = "backbone",
        branch: str = "main",
        depth_factor: float = 0.33,
        width_factor: float = 0.50,
        steps: int = 3,
        micro_steps: int = 4,
        slots: int = 1,
        sampler: str = "arsnn",
        ksize: int = 5,
        sampler_depth: int = 2,
        sampler_threshold: float = 1.0,
        sampler_reset: float | None = 0.0,
        readout: Readout = "sum",
        spike_attach: bool = True,
        write_zero: bool = True,
        absolute: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__()
        _require(spiking in SPIKING, "spiking", f"one of {', '.join(SPIKING)}", spiking)
        _require(branch in BRANCHES, "branch", f"one of {', '.join(BRANCHES)}", branch)
        _require(in_channels == POLARITIES, "the representation", "2 channels, one per polarity", in_channels)
        _require(min(steps, micro_steps) >= 1, "steps and micro_steps", "at least 1", (steps, micro_steps))
        _require(slots in (1, steps), "slots", f"1, or steps ({steps}), one frame for each network step", slots)
        width, depth = int(STEM_WIDTH * width_factor), round(3 * depth_factor)
        _require(width >= 1, "width_factor", f"at least one channel of {STEM_WIDTH}", width_factor)
        _require(depth >= 0, "depth_factor", "a positive number", depth_factor)
        self.sampler = build_sampler(
            sampler,
            ksize=ksize,
            depth=sampler_depth,
            steps=micro_steps,
            slots=slots,
            threshold=sampler_threshold,
            reset=sampler_reset,
            readout=readout,
            spike_attach=spike_attach,
            write_zero=write_zero,
            absolute=absolute,
            norm=norm,
            branch=branch,
        )
        self.spiking, self.network_steps, self.micro_steps = spiking, steps if spiking != "none" else 1, micro_steps
        in_trunk, in_neck = (neuron if spiking in where else None for where in (("backbone", "fpn"), ("fpn",)))
        self.trunk = Darknet(in_channels, in_trunk, width=width, depth=max(depth, 1), focus=branch == "main")
        self.neck = PAFPN(self.trunk.channels, in_neck, depth=depth)
        self.features = FeatureInfo(self.trunk.channels, STRIDES)
        self._neurons = count_neurons(self)

    def forward(self, x: Tensor, state: State = None) -> tuple[list[Tensor], State]:
        """Return maps [W, B, C_i, H_i, W_i] of W windows, or with a spiking neck [W * T, ...], and the membranes.

        Args:
            x: micro-bins [W * Tm, B, 2, H, W], oldest first; one window at a time, as a rule.

        Raises:
            ValueError: if they are of no whole number of windows, or sides of no multiple of 32 pixels.
        """
        maps, state = self.steps(self.sample(x), state)
        return self.gather(maps, windows=len(x) // self.micro_steps), state

    def sample(self, x: Tensor) -> Tensor:
        """Return the frames [W * T, B, 2, H, W] of micro-bins [W * Tm, B, 2, H, W], one for each network step.

        Where the sampler makes one frame for all steps of a window, they are a view of it.
        """
        self._check(x)
        windows = len(x) // self.micro_steps
        bins = x.unflatten(0, (windows, self.micro_steps)).transpose(0, 1)
        slots = self.sampler(bins.flatten(1, 2))[: self.network_steps]
        frames = slots.unflatten(1, (windows, -1)).transpose(0, 1)  # [W, Ts, B, 2, H, W]
        if windows == 1:  # keeps the view a view
            return frames[0].expand(self.network_steps, *frames.shape[2:])
        return frames.expand(-1, self.network_steps, *frames.shape[2:]).flatten(0, 1)

    def steps(self, frames: Tensor, state: State = None) -> tuple[list[Tensor], State]:
        """Return the maps [t, B, C_i, H_i, W_i] of the spiking part for t frames, and the membranes after them."""
        membranes = Membranes(state, self._neurons)
        maps: list[Tensor] = self.trunk(frames, membranes)
        if self.spiking == "fpn":
            maps = self.neck(maps, membranes)
        return maps, membranes.after()

    @property
    def gives_steps(self) -> bool:
        """Whether the head sees every network step, and not their average."""
        return self.spiking == "fpn"

    def gather(self, maps: Sequence[Tensor], *, windows: int = 1) -> list[Tensor]:
        """Return what the head reads of the maps of some or all steps of each window, as `steps` gives them."""
        if self.gives_steps:
            return list(maps)
        averages = [x if len(x) == windows else x.unflatten(0, (windows, -1)).mean(1) for x in maps]
        return self.neck(averages, Membranes(None, 0))  # type: ignore[no-any-return]

    def _check(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        if len(x) % self.micro_steps or not len(x):
            raise ValueError(f"expected {self.micro_steps} micro-bins per window, got {len(x)}")
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(
                f"expected an input with sides of multiples of {STRIDES[-1]} px, got {height}x{width}; "
                "give the representation a network_size"
            )


def _require(holds: bool, name: str, expected: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")
