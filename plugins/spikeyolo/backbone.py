"""SpikeYOLO's backbone and neck (Luo et al., ECCV 2024): the layers 1 to 25 of the authors' table, by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from snn_perception.api import Chain, FeatureInfo, NeuronFactory, SpecError, State, beside, fold_time, parts_of

from .blocks import SpatialPyramid, block_1, block_2, down, standard_conv, stem

STRIDE = 32  # of the coarsest map
REPEATED = (2, 4, 6, 8)  # layers that hold a block several times, at strides 4 to 32
# Layers whose input is not simply the output of the one before: it is enlarged twice, or joined with an earlier one.
ENLARGED = (12, 16)
JOINED_WITH = {14: 6, 18: 4, 22: 14, 25: 10}
MAPS = (19, 22, 25)  # whose outputs are the feature maps
_NEEDED_LATER = {*JOINED_WITH.values(), *MAPS}


class SpikeYOLO(nn.Module):
    """Potentials at strides 8, 16 and 32 from an image: neurons fire whole numbers, shortcuts add potentials.

    The image's sides must be multiples of 32. The state is a tuple of the layers' states.

    Args:
        channels: at strides 4, 8, 16 and 32. The neck has those of strides 8 and 16.
        repeats: how often the blocks at these strides follow one another.
        last_ratio: widening within the block before the coarsest map: 1 in the published n and s, 2 in m and l.
    """

    def __init__(
        self,
        in_channels: int,
        neuron: NeuronFactory,
        *,
        channels: Sequence[int] = (64, 128, 256, 512),
        repeats: Sequence[int] = (1, 2, 3, 1),
        last_ratio: int = 1,
    ) -> None:
        super().__init__()
        _check(channels, repeats, last_ratio)
        c4, c8, c16, c32 = channels
        pooled = -(-c32 // 8) * 8
        self.layers = nn.ModuleDict(
            {
                "1": stem(in_channels, c4),
                "2": _repeated(repeats[0], lambda: block_1(c4, neuron)),
                "3": down(c4, c8, neuron),
                "4": _repeated(repeats[1], lambda: block_1(c8, neuron)),
                "5": down(c8, c16, neuron),
                "6": _repeated(repeats[2], lambda: block_2(c16, neuron, ratio=3)),
                "7": down(c16, c32, neuron),
                "8": _repeated(repeats[3], lambda: block_2(c32, neuron, ratio=2)),
                "9": SpatialPyramid(c32, pooled, neuron),
                "10": standard_conv(pooled, c16, 1, neuron),
                "12": block_2(c16, neuron, ratio=3),
                "14": standard_conv(2 * c16, c8, 1, neuron),
                "16": block_1(c8, neuron),
                "18": standard_conv(2 * c8, c8, 1, neuron),
                "19": block_1(c8, neuron),
                "20": standard_conv(c8, c8, 3, neuron, stride=2),
                "22": block_2(2 * c8, neuron, ratio=3),
                "23": standard_conv(2 * c8, c16, 3, neuron, stride=2),
                "25": block_2(2 * c16, neuron, ratio=last_ratio),
            }
        )
        self.features = FeatureInfo((c8, 2 * c8, 2 * c16), (8, 16, 32))

    def forward(self, x: Tensor, state: State = None) -> tuple[list[Tensor], State]:
        """Return the potentials [T, B, C_i, H / s_i, W / s_i] at strides 8, 16 and 32 of x [T, B, C, H, W], and state.

        Raises:
            SpecError: for sides that are no multiples of 32 pixels.
        """
        height, width = x.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise SpecError(
                f"backbone 'spikeyolo': the input's sides must be multiples of {STRIDE} px, got {width}x{height}; "
                "set network_size of the representation"
            )
        outputs: dict[int, Tensor] = {}
        after = []
        for (name, layer), part in zip(self.layers.items(), parts_of(state, len(self.layers)), strict=True):
            number = int(name)
            if number in ENLARGED:
                x = fold_time(_enlarged, x)
            elif number in JOINED_WITH:
                x = beside([x, outputs[JOINED_WITH[number]]])
            x, part = layer(x, part)
            after.append(part)
            if number in _NEEDED_LATER:
                outputs[number] = x
        return [outputs[number] for number in MAPS], tuple(after)


def _repeated(count: int, make: Callable[[], nn.Module]) -> Chain:
    return Chain([make() for _ in range(count)])


def _enlarged(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="nearest")


def _check(channels: Sequence[int], repeats: Sequence[int], last_ratio: int) -> None:
    for name, values in (("channels", channels), ("repeats", repeats)):
        if len(values) != len(REPEATED) or any(type(value) is not int or value < 1 for value in values):
            raise ValueError(f"{name} must be 4 whole numbers from 1, for strides 4, 8, 16 and 32, got {list(values)}")
    if type(last_ratio) is not int or last_ratio < 1:
        raise ValueError(f"last_ratio must be a whole number from 1, got {last_ratio!r}")
