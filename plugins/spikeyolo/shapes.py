"""What names and shapes of an authors' file tell of its network, and whether they are just those of that network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.api import CheckpointError, ComponentRef, kernel_shape, some

from .backbone import REPEATED, SpikeYOLO
from .head import SpikeYOLOHead
from .keys import authors_tensor

COUNTER = "num_batches_tracked"
_STEM, _LOGITS = "1.encode_conv.weight", "26.cv3.0.2.conv.weight"
_WRAPPER, _MODEL = "module.", "model."
_IMAGE_CHANNELS = 3
MAX_CHANNELS, MAX_REPEATS, MAX_RATIO = 8192, 64, 64


@dataclass(frozen=True)
class Network:
    """What shapes a network of the family: the backbone's options and the number of classes."""

    channels: tuple[int, ...]
    repeats: tuple[int, ...]
    last_ratio: int
    num_classes: int

    @property
    def backbone(self) -> ComponentRef:
        """The backbone as a component."""
        options = {"channels": list(self.channels), "repeats": list(self.repeats), "last_ratio": self.last_ratio}
        return ComponentRef("spikeyolo", options)

    def build(self, make_neuron: Any) -> tuple[SpikeYOLO, SpikeYOLOHead]:
        """Return backbone and head with these neurons."""
        backbone = SpikeYOLO(
            _IMAGE_CHANNELS,
            make_neuron,
            channels=self.channels,
            repeats=self.repeats,
            last_ratio=self.last_ratio,
        )
        return backbone, SpikeYOLOHead(backbone.features, self.num_classes, make_neuron)


def bare(name: str) -> str:
    """Return an authors' name without the prefixes that depend on how it was saved: ``model.2.`` becomes ``2.``."""
    return name.removeprefix(_WRAPPER).removeprefix(_MODEL).removeprefix(_MODEL)


def is_of_family(named: Mapping[str, Tensor]) -> bool:
    """Return whether tensors, by their bare names, are of a network of the family."""
    return _STEM in named and _LOGITS in named


def read_network(named: Mapping[str, Tensor]) -> Network:
    """Return the network whose tensors these are, by a few of their shapes.

    Raises:
        CheckpointError: if one of these few is missing or of a shape that no network of the family has.
    """
    channels = tuple(_kernel(named, f"{layer}.encode_conv.weight")[0] for layer in (1, 3, 5, 7))
    seen = _kernel(named, _STEM)[1]
    if seen != _IMAGE_CHANNELS:
        raise CheckpointError(f"tensor 'model.{_STEM}': expected {_IMAGE_CHANNELS} input channels, got {seen}")
    repeats = tuple(_count(named, layer) for layer in REPEATED)
    widened, own = _kernel(named, "25.conv1.body.2.1.weight")[:2]
    ratio, rest = divmod(widened, own)
    if rest or not 1 <= ratio <= MAX_RATIO:
        raise CheckpointError(f"layer 25: expected to widen by a whole number, got {own} to {widened} channels")
    return Network(channels, repeats, ratio, _kernel(named, _LOGITS)[0])


def our_weights(named: Mapping[str, Tensor], network: Network) -> tuple[dict[str, Tensor], int]:
    """Return the weights by our names, half precision made single, and how many counters the file lacks.

    Raises:
        CheckpointError: if a tensor is missing, unexpected or of another shape.
    """
    table = _table(network)
    absent = [theirs for theirs in table if theirs not in named]
    missing = [theirs for theirs in absent if not theirs.endswith(f".{COUNTER}")]
    unexpected = [theirs for theirs in named if theirs not in table]
    if missing or unexpected:
        raise CheckpointError(f"tensors do not fit the network: missing {some(missing)}; unexpected {some(unexpected)}")
    for theirs, (_, shape) in table.items():
        if theirs in named and tuple(named[theirs].shape) != shape:
            got = list(named[theirs].shape)
            raise CheckpointError(f"tensor 'model.{theirs}': expected shape {list(shape)}, got {got}")
    zero = torch.zeros((), dtype=torch.int64)
    weights = {ours: _single(named.get(theirs, zero)) for theirs, (ours, _) in table.items()}
    weights["head.projection"] = weights["head.projection"].flatten()
    return weights, len(absent)


def norm_names(network: Network) -> list[str]:
    """Return the authors' bare names of the norms."""
    suffix = ".running_var"
    return [theirs.removesuffix(suffix) for theirs in _table(network) if theirs.endswith(suffix)]


def _table(network: Network) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the authors' bare name -> (our name, their shape) of every tensor, from the network itself."""
    with torch.device("meta"):
        backbone, head = network.build(nn.Identity)
    table = {}
    for part, module in (("backbone", backbone), ("head", head)):
        for name, tensor in module.state_dict().items():
            ours = f"{part}.{name}"
            shape = (1, -1, 1, 1) if ours == "head.projection" else tuple(tensor.shape)
            shape = tuple(tensor.numel() if side == -1 else side for side in shape)
            table[authors_tensor(ours, network.repeats)] = (ours, shape)
    return table


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _count(named: Mapping[str, Tensor], layer: int) -> int:
    """Return how many blocks a layer has; a single one has no number."""
    if f"{layer}.Conv.pwconv1.weight" in named:
        return 1
    count = 0
    while f"{layer}.{count}.Conv.pwconv1.weight" in named:
        count += 1
    if not 1 < count <= MAX_REPEATS:
        raise CheckpointError(f"layer {layer}: expected 1 to {MAX_REPEATS} blocks, got {count}")
    return count


def _kernel(named: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return kernel_shape(named, name, prefix=_MODEL, most=MAX_CHANNELS)
