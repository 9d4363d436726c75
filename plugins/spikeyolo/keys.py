"""Names of the authors' tensors and neurons for ours.

Theirs are ``model.<layer>.`` and so on, given here without ``model.``; a layer of several blocks has the block's number
behind its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .backbone import REPEATED

_HEAD = "26"
_BRANCHES = {"boxes": "cv2", "classes": "cv3"}
_DOWN = (1, 3, 5, 7)
_FIRST_BLOCKS = (2, 4, 16, 19)  # layers of block 1; the other blocks are block 2
_SEPARABLE = (  # of the three units of the separable branch
    {"conv": "pwconv1", "norm": "bn1"},
    {"conv": "dwconv2", "norm": "bn2"},
    {
        "border.norm": "pwconv3.body.0.bn",
        "pointwise": "pwconv3.body.1.0",
        "depthwise": "pwconv3.body.1.1",
        "norm": "bn3",
    },
)
_REP = {
    "entry": "conv{}.body.0",
    "border.norm": "conv{}.body.1.bn",
    "depthwise": "conv{}.body.2.0",
    "pointwise": "conv{}.body.2.1",
    "norm": "conv{}.body.2.2",
    "second_norm": "bn{}",
}
_STANDARD = {"conv": "conv", "norm": "bn"}


def authors_tensor(ours: str, repeats: Sequence[int]) -> str:
    """Return the authors' name of the tensor that a detector of the family calls `ours`.

    Args:
        repeats: blocks of the layers 2, 4, 6 and 8: a single one has no number of its own.
    """
    if ours == "head.projection":
        return f"{_HEAD}.dfl.conv.weight"
    module, _, leaf = ours.rpartition(".")
    return f"{_authors_module(module, repeats)}.{leaf}"


def authors_neuron(ours: str, repeats: Sequence[int]) -> str:
    """Return the authors' name of the neuron that a detector of the family calls `ours`."""
    unit = ours.removesuffix(".neuron")
    if match := re.fullmatch(r"head\.(\w+)\.(\d)\.layers\.(\d)", unit):
        return f"{_HEAD}.{_BRANCHES[match[1]]}.{match[2]}.{match[3]}.lif"
    layer, prefix, rest = _split(unit, repeats)
    if layer in _DOWN:
        return f"{prefix}.encode_lif"
    if layer == 9:
        return f"{prefix}.{_pyramid(rest)}.lif"
    if not rest:
        return f"{prefix}.lif"
    branch, position = _in_block(rest)
    number = position + 1
    if branch == 0:
        return f"{prefix}.Conv.lif{number}"
    return f"{prefix}.conv{number}.lif" if layer in _FIRST_BLOCKS else f"{prefix}.lif{number}"


def _authors_module(ours: str, repeats: Sequence[int]) -> str:
    unit, _, part = ours.partition(".current")
    part = part.removeprefix(".")
    if match := re.fullmatch(r"head\.(\w+)\.(\d)\.layers\.(\d)", unit):
        return f"{_HEAD}.{_BRANCHES[match[1]]}.{match[2]}.{match[3]}.{_STANDARD[part] if part else 'conv'}"
    layer, prefix, rest = _split(unit, repeats)
    if layer in _DOWN:
        return f"{prefix}.encode_{_STANDARD[part]}"
    if layer == 9:
        return f"{prefix}.{_pyramid(rest)}.{_STANDARD[part]}"
    if not rest:
        return f"{prefix}.{_STANDARD[part]}"
    branch, position = _in_block(rest)
    if branch == 0:
        return f"{prefix}.Conv.{_SEPARABLE[position][part]}"
    number = position + 1
    if layer in _FIRST_BLOCKS:
        return f"{prefix}.conv{number}.{_STANDARD[part]}"
    return f"{prefix}.{_REP[part].format(number)}"


def _split(unit: str, repeats: Sequence[int]) -> tuple[int, str, str]:
    """Return the layer's number, the authors' prefix of its block, and the rest of our name within the block."""
    match = re.fullmatch(r"backbone\.layers\.(\d+)(?:\.(.+))?", unit)
    assert match is not None, f"no unit of the family: {unit}"
    layer, rest = int(match[1]), match[2] or ""
    if layer not in REPEATED:
        return layer, match[1], rest
    _, block, rest = rest.split(".", 2)  # layers.<block>.<rest>
    is_single = repeats[REPEATED.index(layer)] == 1
    return layer, match[1] if is_single else f"{match[1]}.{block}", rest


def _in_block(rest: str) -> tuple[int, int]:
    """Return the branch (0 separable, 1 the other) and the unit's position in it of ``layers.1.layers.0``."""
    _, branch, _, position = rest.split(".")
    return int(branch), int(position)


def _pyramid(rest: str) -> str:
    return {"squeeze": "cv1", "merge": "cv2"}[rest]
