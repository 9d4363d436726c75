"""Names and shapes of every tensor of an ST-VGG+SSD detector: the authors' and ours, side by side.

The authors' names are given without the prefixes ``backbone.`` and ``model.``, which differ between kinds of file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .backbone import STEM

NORM = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"  # of no use to us, and dropped by some tools


@dataclass(frozen=True)
class Network:
    """Everything that shapes the tensors of a detector.

    Attributes:
        widths: channels of each stage, the stem first.
        extras: channels of the extra levels. one_one_extras: whether each has a 1x1 stage before it.
        map_channels: channels of each feature map. per_cell: default boxes per cell of each feature map.
    """

    in_channels: int
    widths: tuple[int, ...]
    extras: tuple[int, ...]
    one_one_extras: bool
    classifier_outputs: int
    map_channels: tuple[int, ...]
    per_cell: tuple[int, ...]
    num_classes: int


@dataclass(frozen=True)
class _Layer:
    """A norm-then-convolution layer: the authors' two modules and leak, our module, the kernel's shape."""

    norm: str
    conv: str
    ours: str
    shape: tuple[int, int, int, int]
    leak: str = ""
    our_leak: str = ""

    def tensors(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for leaf in NORM:
            yield f"{self.norm}.{leaf}", f"{self.ours}.norm.{leaf}", (self.shape[1],)
        yield f"{self.norm}.{COUNTER}", f"{self.ours}.norm.{COUNTER}", ()
        yield f"{self.conv}.weight", f"{self.ours}.conv.weight", self.shape
        if self.leak:
            yield self.leak, self.our_leak, ()


def tensor_table(network: Network) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the authors' name -> (our name, shape) of every tensor of the detector."""
    layers = [*_stages(network), *_extras(network), *_heads(network)]
    return {theirs: (ours, shape) for layer in layers for theirs, ours, shape in layer.tensors()}


def _stages(network: Network) -> Iterator[_Layer]:
    channels = network.in_channels
    for i, out in enumerate(network.widths):
        kernel = 3 if i else STEM
        theirs, ours = f"features.{i}", f"backbone.stages.{i}"
        shape = (out, channels, kernel, kernel)
        yield _Layer(
            f"{theirs}.norm", f"{theirs}.conv", f"{ours}.current", shape, f"{theirs}.act.w", f"{ours}.neuron.w"
        )
        channels = out
    shape = (network.classifier_outputs, channels, 1, 1)
    yield _Layer("classifier.norm_classif", "classifier.conv_classif", "backbone.classifier", shape)


def _extras(network: Network) -> Iterator[_Layer]:
    channels, position = network.widths[-1], 0
    for level, out in enumerate(network.extras):
        steps = [(channels // 2, 1), (out, 3)] if network.one_one_extras else [(out, 3)]
        for i, (width, kernel) in enumerate(steps):
            theirs, ours = f"extras.{level}.{i}.bn_conv_neuron", f"backbone.extras.{position}"
            shape = (width, channels, kernel, kernel)
            yield _Layer(f"{theirs}.1", f"{theirs}.2", f"{ours}.current", shape, f"{theirs}.3.w", f"{ours}.neuron.w")
            channels, position = width, position + 1


def _heads(network: Network) -> Iterator[_Layer]:
    kinds = (("classification_head", "head.classes", network.num_classes), ("regression_head", "head.boxes", 4))
    for kind, ours, terms in kinds:
        for i, (channels, per_cell) in enumerate(zip(network.map_channels, network.per_cell, strict=True)):
            theirs = f"head.{kind}.module_list.{i}"
            yield _Layer(f"{theirs}.1", f"{theirs}.2", f"{ours}.{i}", (per_cell * terms, channels, 3, 3))
