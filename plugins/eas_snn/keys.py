"""Names and shapes of every tensor of these networks: the authors' and ours, side by side.

Ours are read off a network without numbers, so that the table cannot differ from what is built. The authors' names
depend on the mode: what runs at every step is wrapped, and has a ``.0`` more. `plain_name` takes all such wrapping off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from snn_perception.api import FeatureInfo

from .backbone import EASBackbone
from .head import YOLOXHead
from .layers import ConvUnit, Focus
from .presets import MODES

_WRAPPED = (  # what a wrapping adds -> without it
    (re.compile(r"\.conv\.0\.weight$"), ".conv.weight"),
    (re.compile(r"\.stem\.0\."), ".stem."),
    (re.compile(r"_preds\.(\d+)\.0\."), r"_preds.\1."),
    (re.compile(r"\.act\.(?:\w+\.)*alpha$"), ".act.alpha"),
)
_PARTS = (  # our modules -> the authors', longest first
    ("backbone.sampler.", "embedding."),
    ("backbone.trunk.", "backbone.backbone."),
    ("backbone.neck.", "backbone."),
    ("head.", "head."),
)


@dataclass(frozen=True)
class Network:
    """Everything that shapes the tensors of a network.

    Attributes:
        mode: ``none``, ``use_spike``, ``full_spike`` or ``full_spike_v2``.
        num_classes: of the head.
        options: of the backbone, those that its tensors depend on.
        learned_alpha: whether each neuron learns its surrogate's.
    """

    mode: str
    num_classes: int
    options: dict[str, Any]
    learned_alpha: bool = False


@dataclass(frozen=True)
class Entry:
    """A tensor by our name, its shape, and whether a file may lack it."""

    ours: str
    shape: tuple[int, ...]
    is_counter: bool


def plain_name(theirs: str) -> str:
    """Return an authors' name without prefix and wrapping: the same for all modes."""
    name = theirs.removeprefix("module.")
    for wrapped, without in _WRAPPED:
        name = wrapped.sub(without, name)
    return name


def tensor_table(network: Network) -> dict[str, Entry]:
    """Return the authors' name of every tensor of the network, and ours."""
    return dict(_entries(network))


def _entries(network: Network) -> Iterator[tuple[str, Entry]]:
    model = _without_numbers(network)
    modules = dict(model.named_modules())
    for ours, tensor in model.state_dict().items():
        path, _, leaf = ours.rpartition(".")
        yield _theirs(path, leaf, modules, network), Entry(ours, tuple(tensor.shape), leaf == "num_batches_tracked")


def _without_numbers(network: Network) -> nn.ModuleDict:
    def neuron() -> nn.Module:
        return _Neuron(network.learned_alpha)

    reach, spiking_head = MODES[network.mode]
    with torch.device("meta"):
        backbone = EASBackbone(2, neuron, spiking=reach, **network.options)
        features: FeatureInfo = backbone.features
        head = YOLOXHead(features, network.num_classes, neuron, spiking=spiking_head)
    return nn.ModuleDict({"backbone": backbone, "head": head})


class _Neuron(nn.Module):
    """The parameters of a neuron: its leak, and the surrogate's alpha where it is learned."""

    def __init__(self, learned_alpha: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(()))
        if learned_alpha:
            self.spike = nn.Module()
            self.spike.surrogate = nn.Module()
            self.spike.surrogate.alpha = nn.Parameter(torch.empty(()))


def _theirs(path: str, leaf: str, modules: dict[str, nn.Module], network: Network) -> str:
    """Return the authors' name of the tensor `leaf` of our module at `path`."""
    unit_path, _, part = path.partition(".neuron")
    if unit_path != path:
        return f"{_renamed(unit_path, modules, network)}.act.{leaf}"
    unit_path, _, part = path.rpartition(".")
    unit = modules.get(unit_path)
    if not isinstance(unit, ConvUnit):
        return f"{_renamed(path, modules, network)}.{leaf}"
    name = _renamed(unit_path, modules, network)
    if part == "norm":
        return f"{name}.bn.{leaf}"
    return f"{name}.conv.{leaf}" if unit.neuron is None else f"{name}.conv.0.{leaf}"


def _renamed(path: str, modules: dict[str, nn.Module], network: Network) -> str:
    if isinstance(modules.get(path.rpartition(".")[0]), Focus):
        path = path.replace(".stem.unit", ".stem.conv" if network.mode == "none" else ".stem.0.conv")
    if "_preds." in path and MODES[network.mode][1]:
        path = f"{path}.0"
    for ours, theirs in _PARTS:
        if path.startswith(ours):
            return theirs + path.removeprefix(ours)
    raise AssertionError(f"{path} is no part of the network")
