"""The ST-VGG backbone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from snn_perception.api import NeuronFactory

from .stages import STEM, SpikingPyramid, Unit, make_stage

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


class STVGG(SpikingPyramid):
    """A spiking VGG: one feature map from each stage of stride 2, and one from each extra level.

    The stem is norm and a 4x4 convolution of stride 4; every other stage pads 1, normalises, convolves 3x3 without
    bias, and spikes. The state is the tuple of all membranes, stages first, then extras.

    Args:
        width: channels of the stem; the published networks have 16, 32 and 64.
        layers: channels of each stage, the stem first, as in ``[32, 64, 64, "64s2", ...]`` with ``s2`` for stride 2; by
            default the published list for `width`.
        extras: channels of the levels after the last stage, each of stride 2.
        one_one_extras: whether each extra level first halves its channels by a 1x1 stage.
        classifier_outputs: of the unused 1x1 layer that the authors keep in a detector; 0 for none.
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
        plan = parse_layers(published_layers(width) if layers is None else layers)
        if not plan or plan[0][0] != width:
            raise ValueError(f"layers must start with the stem's width {width}, got {list(layers or ())}")
        super().__init__(
            _units(in_channels, plan, neuron),
            neuron,
            extras=extras,
            one_one_extras=one_one_extras,
            classifier_outputs=classifier_outputs,
        )


def _units(channels: int, plan: Sequence[tuple[int, int]], neuron: NeuronFactory) -> list[Unit]:
    units = []
    for out, stride in plan:
        stage = make_stage(channels, out, STEM if stride == STEM else 3, neuron, stride=stride)
        units.append(Unit(stage, out, stride, stride == 2))
        channels = out
    return units
