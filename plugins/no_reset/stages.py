"""What both backbones are made of: stages that pad, normalise, convolve and spike, in this order, and extra levels."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from snn_perception.api import FeatureInfo, NeuronFactory, NormConv, SpikingStage, State, parts_of

STEM = 4  # kernel size and stride of the first convolution ("patchify")


def make_stage(channels: int, out: int, kernel: int, neuron: NeuronFactory, *, stride: int = 1) -> SpikingStage:
    """Return a stage of `channels` to `out` channels; a 3x3 convolution is padded by 1, any other by nothing."""
    return SpikingStage(NormConv(channels, out, kernel, stride=stride, padding=1 if kernel == 3 else 0), neuron())


@dataclass(frozen=True)
class Unit:
    """A module ``(x, state) -> (spikes, state)`` of a backbone.

    Attributes:
        channels: of its output. stride: input cells per output cell.
        ends_level: whether its spikes are a feature map.
    """

    module: nn.Module
    channels: int
    stride: int
    ends_level: bool


class SpikingPyramid(nn.Module):
    """Units one after the other, then extra levels of stride 2: a feature map from each unit that ends a level.

    The state is the tuple of the units' states, those of the extras last.

    Args:
        stages: the units before the extras.
        extras: channels of the levels after the last stage.
        one_one_extras: whether each extra level first halves its channels by a 1x1 stage.
        classifier_outputs: of the 1x1 layer that the authors keep in a detector without using it; 0 for none. It takes
            no part in the forward pass, but in their checkpoints and parameter counts.

    Raises:
        ValueError: for extras that are no numbers of channels, or if there is no feature map.
    """

    def __init__(
        self,
        stages: Sequence[Unit],
        neuron: NeuronFactory,
        *,
        extras: Sequence[int],
        one_one_extras: bool,
        classifier_outputs: int,
    ) -> None:
        super().__init__()
        if any(type(channels) is not int or channels < 1 for channels in extras):
            raise ValueError(f"extras must be numbers of channels, one for each extra level, got {list(extras)}")
        if type(classifier_outputs) is not int or classifier_outputs < 0:
            raise ValueError(f"classifier_outputs must be a number of classes or 0, got {classifier_outputs!r}")
        last = stages[-1].channels
        self.stages = nn.ModuleList(unit.module for unit in stages)
        self.classifier = NormConv(last, classifier_outputs, 1) if classifier_outputs else None
        levels = _extra_levels(last, extras, one_one_extras, neuron)
        self.extras = nn.ModuleList(unit.module for unit in levels)
        self._ends_level = tuple(unit.ends_level for unit in (*stages, *levels))
        self.features = _features((*stages, *levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor, state: State = None) -> tuple[list[Tensor], State]:
        """Return the spike maps [T, B, C_i, H_i, W_i], fine to coarse, of x [T, B, C, H, W], and the membranes.

        Stride 2 makes ``ceil(size / 2)`` of a size, the stem ``floor(size / 4)``.
        """
        maps, after = [], []
        units = [*self.stages, *self.extras]
        for unit, ends_level, part in zip(units, self._ends_level, parts_of(state, len(units)), strict=True):
            x, part = unit(x, part)
            after.append(part)
            if ends_level:
                maps.append(x)
        return maps, tuple(after)


def _extra_levels(channels: int, extras: Sequence[int], one_one: bool, neuron: NeuronFactory) -> list[Unit]:
    units = []
    for out in extras:
        if one_one:
            half = channels // 2
            units.append(Unit(make_stage(channels, half, 1, neuron), half, 1, False))
            channels = half
        units.append(Unit(make_stage(channels, out, 3, neuron, stride=2), out, 2, True))
        channels = out
    return units


def _features(units: Sequence[Unit]) -> FeatureInfo:
    strides = list(accumulate((unit.stride for unit in units), operator.mul))
    ends = [i for i, unit in enumerate(units) if unit.ends_level]
    if not ends:
        raise ValueError("the network gives no feature map; give a stage of stride 2 or an extra level")
    return FeatureInfo(tuple(units[i].channels for i in ends), tuple(strides[i] for i in ends))
