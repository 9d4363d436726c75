"""Spiking connections from each feature map to the next coarser one, in the manner of DSOD (Shen et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from snn_perception.api import FeatureInfo, NeuronFactory, NormConv, SpecError, State, beside, fold_time, parts_of


class Connections(nn.Module):
    """Feature maps in which each level also holds what a stage of stride 2 makes of the level before it.

    DSOD predicts from maps of which one half is new and the other is taken over from the finer level, so that every
    level sees all finer ones. Here the new half is the backbone's map, and the other comes from pad 1, batch norm, 3x3
    convolution of stride 2 without bias, and a neuron: as many channels as the backbone's map has, concatenated as
    [map, connection]. A connection reads the level before it as it is after its own concatenation. Spikes stay binary.

    The published source of the no-reset detectors (Cordone, PhD thesis, 2022, ch. 5) has such a head with stride-2
    spiking connections, which nothing uses and of which no weights or figures are published: what is said above beyond
    "stride-2" and "spiking" is ours. Theirs keeps its membranes from one recording to the next; ours are state like any
    other, which whoever runs the network carries, detaches and resets.

    Attributes:
        features: of the maps that it returns.
    """

    def __init__(self, features: FeatureInfo, neuron: NeuronFactory) -> None:
        super().__init__()
        first, *coarser = features.channels
        channels = [first, *(2 * own for own in coarser)]
        self.features = FeatureInfo(tuple(channels), features.strides)
        currents = [
            NormConv(finer, own, 3, stride=2, padding=1) for finer, own in zip(channels[:-1], coarser, strict=True)
        ]
        for current in currents:
            nn.init.kaiming_normal_(current.conv.weight)
        self.currents = nn.ModuleList(currents)
        self.neurons = nn.ModuleList(neuron() for _ in coarser)

    def forward(self, maps: Sequence[Tensor], state: State = None) -> tuple[list[Tensor], State]:
        """Return the maps [T, B, C_i, H_i, W_i], from the second level on with the connection's channels, and state.

        Raises:
            SpecError: if a map is not half the size of the one before it, rounded up.
        """
        joined, after = [maps[0]], []
        parts = parts_of(state, len(self.neurons))
        for x, current, neuron, v in zip(maps[1:], self.currents, self.neurons, parts, strict=True):
            spikes, v = neuron(fold_time(current, joined[-1]), v)
            if spikes.shape[-2:] != x.shape[-2:]:
                raise SpecError(
                    f"head 'ssd': connections need each feature map half as large as the one before it, rounded up: "
                    f"expected {list(spikes.shape[-2:])} cells, got {list(x.shape[-2:])}; use dsod=False"
                )
            joined.append(beside([x, spikes]))
            after.append(v)
        return joined, tuple(after)
