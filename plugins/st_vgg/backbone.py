"""The ST-VGG backbone and its extra stages: every stage pads, normalises, convolves and spikes, in this order."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from snn_perception.api import FeatureInfo, NeuronFactory, NormConv, State, fold_time, parts_of

STEM = 4  # kernel size and stride of the first convolution ("patchify")
Layer = int | str


def published_layers(width: int) -> list[Layer]:
    """Return the layer list of the published network of this base width: stages 3, 5 and 7 have stride 2."""
    n = width
    return [n, 2 * n, 2 * n, f"{2 * n}s2", 2 * n, f"{4 * n}s2", 4 * n, f"{4 * n}s2"]


def parse_layers(layers: Sequence[Layer]) -> list[tuple[int, int]]:
    """Return (channels, stride) of each item; ``"64s2"`` is a stage of 64 channels and stride 2, the first the stem.

    Raises:
        ValueError: for an item of another form.
    """
    parsed = []
    for at, layer in enumerate(layers):
        item = re.fullmatch(r"([1-9][0-9]{0,4})(s2)?", str(layer), re.ASCII) if type(layer) in (int, str) else None
        if item is None or (at == 0 and item[2]):
            form = "a number of channels such as 64 or, for stride 2, '64s2'" if at else "the stem's number of channels"
            raise ValueError(f"layers[{at}]: expected {form}, got {layer!r:.40}")
        parsed.append((int(item[1]), STEM if at == 0 else 2 if item[2] else 1))
    return parsed


class Stage(nn.Module):
    """A norm-then-convolution layer whose output is the current of a neuron."""

    def __init__(self, current: NormConv, neuron: nn.Module) -> None:
        super().__init__()
        self.current, self.neuron = current, neuron

    def forward(self, x: Tensor, v: State = None) -> tuple[Tensor, State]:
        """Return spikes [T, B, C', H', W'] of x [T, B, C, H, W], and the neuron's state."""
        spikes, v = self.neuron(fold_time(self.current, x), v)
        return spikes, v


@dataclass(frozen=True)
class _Step:
    """Shape of one stage: output channels, kernel size, stride, and whether its spikes are a feature map."""

    channels: int
    kernel: int
    stride: int
    ends_level: bool


class STVGG(nn.Module):
    """A spiking VGG: one feature map from each stage of stride 2, and one from each extra level.

    The stem is norm and a 4x4 convolution of stride 4; every other stage pads 1, normalises, convolves 3x3 without
    bias, and spikes. The state is the tuple of all membranes, stages first, then extras.

    Args:
        width: channels of the stem; the published networks have 16, 32 and 64.
        layers: channels of each stage, the stem first, as in ``[32, 64, 64, "64s2", ...]`` with ``s2`` for stride 2; by
            default the published list for `width`.
        extras: channels of the levels after the last stage, each of stride 2.
        one_one_extras: whether each extra level first halves its channels by a 1x1 stage.
        classifier_outputs: of the 1x1 layer that the authors keep in a detector without using it. It takes no part
            in the forward pass, but in their checkpoints and parameter counts.
    """

    def __init__(
        self,
        in_channels: int,
        neuron: NeuronFactory,
        *,
        width: int = 32,
        layers: Sequence[Layer] | None = None,
        extras: Sequence[int] = (128, 128, 128),
        one_one_extras: bool = False,
        classifier_outputs: int = 2,
    ) -> None:
        super().__init__()
        plan = parse_layers(published_layers(width) if layers is None else layers)
        if not plan or plan[0][0] != width:
            raise ValueError(f"layers must start with the stem's width {width}, got {list(layers or ())}")
        if any(type(channels) is not int or channels < 1 for channels in extras):
            raise ValueError(f"extras must be numbers of channels, one for each extra level, got {list(extras)}")
        stages = [_Step(channels, STEM if stride == STEM else 3, stride, stride == 2) for channels, stride in plan]
        levels = _extra_steps(stages[-1].channels, extras, one_one_extras)
        self.stages = _build(in_channels, stages, neuron)
        self.classifier = NormConv(stages[-1].channels, classifier_outputs, 1)
        self.extras = _build(stages[-1].channels, levels, neuron)
        self._ends_level = tuple(step.ends_level for step in (*stages, *levels))
        self.features = _features((*stages, *levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor, state: State = None) -> tuple[list[Tensor], State]:
        """Return the spike maps [T, B, C_i, H_i, W_i], fine to coarse, of x [T, B, C, H, W], and the membranes.

        A stage of stride 2 makes ``ceil(size / 2)`` of a size, the stem ``floor(size / 4)``.
        """
        maps, after = [], []
        stages = [*self.stages, *self.extras]
        for stage, ends_level, v in zip(stages, self._ends_level, parts_of(state, len(stages)), strict=True):
            x, v = stage(x, v)
            after.append(v)
            if ends_level:
                maps.append(x)
        return maps, tuple(after)


def _extra_steps(channels: int, extras: Sequence[int], one_one: bool) -> list[_Step]:
    steps = []
    for out in extras:
        if one_one:
            steps.append(_Step(channels // 2, 1, 1, False))
        steps.append(_Step(out, 3, 2, True))
        channels = out
    return steps


def _build(channels: int, steps: Sequence[_Step], neuron: NeuronFactory) -> nn.ModuleList:
    stages = nn.ModuleList()
    for step in steps:
        padding = 1 if step.kernel == 3 else 0
        current = NormConv(channels, step.channels, step.kernel, stride=step.stride, padding=padding)
        stages.append(Stage(current, neuron()))
        channels = step.channels
    return stages


def _features(steps: Sequence[_Step]) -> FeatureInfo:
    strides = list(accumulate((step.stride for step in steps), operator.mul))
    ends = [i for i, step in enumerate(steps) if step.ends_level]
    if not ends:
        raise ValueError("the network gives no feature map; give a stage of stride 2 or an extra level")
    return FeatureInfo(tuple(steps[i].channels for i in ends), tuple(strides[i] for i in ends))
