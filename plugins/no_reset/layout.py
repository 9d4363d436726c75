"""Names and shapes of every tensor of these networks: the authors' and ours, side by side.

The authors' names are given without the prefixes ``backbone.`` and ``model.``, which differ between kinds of file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .stages import STEM

NORM = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"  # of no use to us, and dropped by some tools


@dataclass(frozen=True)
class Network:
    """Everything that shapes the tensors of a network.

    Attributes:
        backbone: ``st_vgg`` or ``rescat``.
        widths: of ST-VGG, channels of each stage, the stem first; of ResCat, those of the two stem stages, then of the
            main path of each block.
        classifier_outputs: of the layer called classifier, unused in a detector.
        extras: channels of the extra levels. one_one_extras: whether each has a 1x1 stage before it.
        map_channels: channels of each feature map that a detection head reads; none in a classifier.
        per_cell: default boxes per cell of each of these maps.
        num_classes: of the detection head.
    """

    backbone: str
    in_channels: int
    widths: tuple[int, ...]
    classifier_outputs: int
    extras: tuple[int, ...] = ()
    one_one_extras: bool = False
    map_channels: tuple[int, ...] = ()
    per_cell: tuple[int, ...] = ()
    num_classes: int = 0

    @property
    def out_channels(self) -> int:
        """Channels of the last stage or block, before the extras."""
        return self.block_channels[-1] if self.backbone == "rescat" else self.widths[-1]

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Channels of ResCat's second stem stage and of each block's output: main path and half of it."""
        return (self.widths[1], *(width + width // 2 for width in self.widths[2:]))


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
    """Return the authors' name -> (our name, shape) of every tensor of the network."""
    stages = _rescat_stages(network) if network.backbone == "rescat" else _vgg_stages(network)
    layers = [*stages, _classifier(network), *_extras(network), *_heads(network)]
    return {theirs: (ours, shape) for layer in layers for theirs, ours, shape in layer.tensors()}


def _stage(norm: str, conv: str, leak: str, ours: str, shape: tuple[int, int, int, int]) -> _Layer:
    return _Layer(norm, conv, f"{ours}.current", shape, leak, f"{ours}.neuron.w")


def _vgg_stages(network: Network) -> Iterator[_Layer]:
    channels = network.in_channels
    for i, out in enumerate(network.widths):
        kernel = 3 if i else STEM
        theirs = f"features.{i}"
        shape = (out, channels, kernel, kernel)
        yield _stage(f"{theirs}.norm", f"{theirs}.conv", f"{theirs}.act.w", f"backbone.stages.{i}", shape)
        channels = out


def _rescat_stages(network: Network) -> Iterator[_Layer]:
    first, second, *blocks = network.widths
    shape = (first, network.in_channels, STEM, STEM)
    yield _stage("features.0.0", "features.0.1", "features.0.2.w", "backbone.stages.0", shape)
    theirs, shape = "features.0.3", (second, first, 3, 3)
    yield _stage(f"{theirs}.norm", f"{theirs}.conv", f"{theirs}.act.w", "backbone.stages.1", shape)
    for k, (width, (channels, _)) in enumerate(zip(blocks, pairwise(network.block_channels), strict=True), start=1):
        paths = (
            ("1", "first", (channels, channels, 3, 3)),
            ("2", "second", (width, channels, 3, 3)),
            ("_trans", "transition", (width // 2, channels, 1, 1)),
        )
        theirs, ours = f"features.{k}.0", f"backbone.stages.{k + 1}"
        for suffix, name, shape in paths:
            norm, conv, leak = (f"{theirs}.{part}{suffix}" for part in ("norm", "conv", "act"))
            yield _stage(norm, conv, f"{leak}.w", f"{ours}.{name}", shape)


def _classifier(network: Network) -> _Layer:
    ours = "backbone.classifier" if network.per_cell else "head.layer"
    shape = (network.classifier_outputs, network.out_channels, 1, 1)
    return _Layer("classifier.norm_classif", "classifier.conv_classif", ours, shape)


def _extras(network: Network) -> Iterator[_Layer]:
    channels, position = network.out_channels, 0
    for level, out in enumerate(network.extras):
        steps = [(channels // 2, 1), (out, 3)] if network.one_one_extras else [(out, 3)]
        for i, (width, kernel) in enumerate(steps):
            theirs = f"extras.{level}.{i}.bn_conv_neuron"
            shape = (width, channels, kernel, kernel)
            yield _stage(f"{theirs}.1", f"{theirs}.2", f"{theirs}.3.w", f"backbone.extras.{position}", shape)
            channels, position = width, position + 1


def _heads(network: Network) -> Iterator[_Layer]:
    kinds = (("classification_head", "head.classes", network.num_classes), ("regression_head", "head.boxes", 4))
    for kind, ours, terms in kinds:
        for i, (channels, per_cell) in enumerate(zip(network.map_channels, network.per_cell, strict=True)):
            theirs = f"head.{kind}.module_list.{i}"
            yield _Layer(f"{theirs}.1", f"{theirs}.2", f"{ours}.{i}", (per_cell * terms, channels, 3, 3))
