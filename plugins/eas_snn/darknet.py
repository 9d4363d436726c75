"""CSPDarknet, whose stages spike: the trunk of YOLOX (Ge et al., arXiv 2107.08430) with neurons for SiLU."""

from __future__ import annotations

from torch import Tensor, nn

from snn_perception.api import NeuronFactory

from .layers import CSP, SPP, ConvUnit, Focus, InTurn, Membranes

STEM_WIDTH = 64  # channels of the stem at width_factor 1
STRIDES = (8, 16, 32)


class Darknet(nn.Module):
    """Stem and four stages of stride 2; maps from the last three, at strides 8, 16 and 32.

    Args:
        in_channels: of the input. neuron: of the units, None for SiLU.
        width: channels of the stem; the stages have 2, 4, 8 and 16 times as many.
        depth: bottlenecks of the first and last stage; the others have three times as many.
        focus: whether the stem is Focus, which has no neuron (the authors' branch main), or a 6x6 convolution of
            stride 2 whose output spikes like the rest (ncaltech-rep).
    """

    def __init__(self, in_channels: int, neuron: NeuronFactory | None, *, width: int, depth: int, focus: bool) -> None:
        super().__init__()
        self.channels = (4 * width, 8 * width, 16 * width)
        self.stem = Focus(in_channels, width) if focus else ConvUnit(in_channels, width, 6, neuron, stride=2)
        self.dark2 = InTurn(_stage(width, depth, neuron))
        self.dark3 = InTurn(_stage(2 * width, 3 * depth, neuron))
        self.dark4 = InTurn(_stage(4 * width, 3 * depth, neuron))
        down, csp = _stage(8 * width, depth, neuron, shortcut=False)
        self.dark5 = InTurn([down, SPP(16 * width, 16 * width, neuron), csp])

    def forward(self, x: Tensor, membranes: Membranes) -> list[Tensor]:
        """Return the maps [T, B, C_i, H / s_i, W / s_i] of x [T, B, C, H, W], fine to coarse."""
        x = self.stem(x, membranes)
        maps = []
        for stage in (self.dark2, self.dark3, self.dark4, self.dark5):
            x = stage(x, membranes)
            maps.append(x)
        return maps[1:]


def _stage(
    channels: int, bottlenecks: int, neuron: NeuronFactory | None, *, shortcut: bool = True
) -> tuple[ConvUnit, CSP]:
    down = ConvUnit(channels, 2 * channels, 3, neuron, stride=2)
    return down, CSP(2 * channels, 2 * channels, neuron, bottlenecks=bottlenecks, shortcut=shortcut)
