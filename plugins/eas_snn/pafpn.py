"""Path aggregation feature pyramid (PAFPN) of YOLOX: from coarse to fine and back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from snn_perception.api import NeuronFactory, beside

from .layers import CSP, ConvUnit, Membranes, enlarged


class PAFPN(nn.Module):
    """Three maps to three maps of the same channels and sizes. Concatenations put the map just computed first.

    Args:
        channels: of the maps, each twice those of the one before. neuron: of the units, None for SiLU.
        depth: bottlenecks of each CSP block; none has a shortcut.
    """

    def __init__(self, channels: Sequence[int], neuron: NeuronFactory | None, *, depth: int) -> None:
        super().__init__()

        def csp(in_channels: int, out_channels: int) -> CSP:
            return CSP(in_channels, out_channels, neuron, bottlenecks=depth, shortcut=False)

        fine, middle, coarse = channels
        self.lateral_conv0 = ConvUnit(coarse, middle, 1, neuron)
        self.C3_p4 = csp(2 * middle, middle)
        self.reduce_conv1 = ConvUnit(middle, fine, 1, neuron)
        self.C3_p3 = csp(2 * fine, fine)
        self.bu_conv2 = ConvUnit(fine, fine, 3, neuron, stride=2)
        self.C3_n3 = csp(2 * fine, middle)
        self.bu_conv1 = ConvUnit(middle, middle, 3, neuron, stride=2)
        self.C3_n4 = csp(2 * middle, coarse)

    def forward(self, maps: Sequence[Tensor], membranes: Membranes) -> list[Tensor]:
        """Return maps [T, B, C_i, H_i, W_i], fine to coarse, of maps of the same shapes."""
        dark3, dark4, dark5 = maps
        lateral = self.lateral_conv0(dark5, membranes)
        p4 = self.C3_p4(_beside(enlarged(lateral), dark4), membranes)
        reduced = self.reduce_conv1(p4, membranes)
        p3 = self.C3_p3(_beside(enlarged(reduced), dark3), membranes)
        n3 = self.C3_n3(_beside(self.bu_conv2(p3, membranes), reduced), membranes)
        n4 = self.C3_n4(_beside(self.bu_conv1(n3, membranes), lateral), membranes)
        return [p3, n3, n4]


def _beside(new: Tensor, old: Tensor) -> Tensor:
    return beside([new, old])
