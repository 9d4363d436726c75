"""The ResCat-SNN backbone: blocks whose shortcut is concatenated instead of added, so that spikes stay binary."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from snn_perception.api import NeuronFactory, State, beside, parts_of

from .stages import STEM, SpikingPyramid, Unit, make_stage


def published_widths(width: int) -> list[int]:
    """Return the widths of the published network of this base width: two stem stages, then three blocks."""
    return [width, 2 * width, 2 * width, 4 * width, 4 * width]


def check_widths(layers: Sequence[int]) -> None:
    """Raise ValueError unless `layers` are two stem widths and an even width for each of one or more blocks."""
    sound = all(type(width) is int and 0 < width < 100_000 for width in layers)
    if not sound or len(layers) < 3 or any(width % 2 for width in layers[2:]):
        got = repr(list(layers))[:80]
        raise ValueError(f"layers: expected two stem widths and an even width for each block, got {got}")


class Block(nn.Module):
    """Two stages on the main path and a 1x1 transition beside them, all of the block's input; stride 2.

    Args:
        channels: of the input. width: p, of the main path; the transition has p / 2.
    """

    def __init__(self, channels: int, width: int, neuron: NeuronFactory) -> None:
        super().__init__()
        self.first = make_stage(channels, channels, 3, neuron)
        self.second = make_stage(channels, width, 3, neuron, stride=2)
        self.transition = make_stage(channels, width // 2, 1, neuron, stride=2)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Return spikes [T, B, 3 p / 2, H', W'], main path then transition, and the state of the three neurons."""
        first, second, transition = parts_of(state, 3)
        y, first = self.first(x, first)
        y, second = self.second(y, second)
        shortcut, transition = self.transition(x, transition)
        return beside([y, shortcut]), (first, second, transition)


class ResCat(SpikingPyramid):
    """Two stem stages, then blocks of stride 2, each of which gives a feature map, then the extra levels.

    The state is a tuple: the membranes of the two stem stages, three of each block, those of the extras.

    Args:
        width: channels of the stem; the published networks have 16, 32 and 64.
        layers: widths of the two stem stages and of each block's main path; a block gives half as many channels again.
            By default the published ones for `width`: n, 2n and 2n, 4n, 4n.
        extras: channels of the levels after the last block, each of stride 2.
        one_one_extras: whether each extra level first halves its channels by a 1x1 stage.
        classifier_outputs: of the unused 1x1 layer that the authors keep in a detector; 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        neuron: NeuronFactory,
        *,
        width: int = 32,
        layers: Sequence[int] | None = None,
        extras: Sequence[int] = (128, 128, 128),
        one_one_extras: bool = False,
        classifier_outputs: int = 2,
    ) -> None:
        widths = published_widths(width) if layers is None else list(layers)
        check_widths(widths)
        if widths[0] != width:
            raise ValueError(f"layers must start with the stem's width {width}, got {widths}")
        super().__init__(
            _units(in_channels, widths, neuron),
            neuron,
            extras=extras,
            one_one_extras=one_one_extras,
            classifier_outputs=classifier_outputs,
        )


def _units(in_channels: int, widths: Sequence[int], neuron: NeuronFactory) -> list[Unit]:
    first, second, *blocks = widths
    units = [
        Unit(make_stage(in_channels, first, STEM, neuron, stride=STEM), first, STEM, False),
        Unit(make_stage(first, second, 3, neuron), second, 1, False),
    ]
    channels = second
    for width in blocks:
        block = Block(channels, width, neuron)
        channels = width + width // 2
        units.append(Unit(block, channels, 2, True))
    return units
