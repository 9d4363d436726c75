"""What the names and shapes of the authors' checkpoints tell of the network they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from snn_perception.api import CheckpointError, kernel_shape, names_in_row

from .darknet import STEM_WIDTH
from .keys import Network, plain_name
from .layers import FOCUS
from .presets import MODES, SIZES

TRUNK, NECK, HEAD = "backbone.backbone.dark2.0", "backbone.lateral_conv0", "head.stems.0"
FOCUS_STEM, SPIKING_STEM = "backbone.backbone.stem.conv.conv.weight", "backbone.backbone.stem.conv.weight"
UNUSED = re.compile(r"^embedding\.(?:0\.)?(?:gate_conv_agg|input_conv_agg)\.")  # made by the option ``split``


def in_plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by their plain names.

    Raises:
        CheckpointError: if two have the same.
    """
    named: dict[str, Tensor] = {}
    for theirs, tensor in tensors.items():
        if plain_name(theirs) in named:
            raise CheckpointError(f"'{theirs}' is there twice, wrapped and bare; keep one state_dict")
        named[plain_name(theirs)] = tensor
    return named


def is_of_family(named: Mapping[str, Tensor]) -> bool:
    """Return whether the names are those of a YOLOX of this kind."""
    return all(f"{unit}.conv.weight" in named for unit in (TRUNK, NECK, HEAD))


def read_network(tensors: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> Network:
    """Return the network that the tensors are of; `named` are those of `tensors` by plain name.

    Raises:
        CheckpointError: if the names are of no mode, or tensors that tell of it are missing or of another form.
    """
    refuse_folded(named)
    stem = FOCUS_STEM if FOCUS_STEM in named else SPIKING_STEM
    width, in_channels, side, _ = kernel_shape(named, stem)
    branch = "main" if stem == FOCUS_STEM else "ncaltech-rep"
    expected = (2 * FOCUS, 3) if branch == "main" else (2, 6)
    if (in_channels, side) != expected:
        raise CheckpointError(
            f"tensor '{stem}': expected [{width}, {expected[0]}, {expected[1]}, {expected[1]}] for events of two "
            f"polarities, got {list(named[stem].shape)}; a YOLOX for images cannot be read"
        )
    options = {
        "branch": branch,
        "width_factor": _factor(width),
        "depth_factor": _depth(named),
        **_sampler(named, branch),
    }
    num_classes = kernel_shape(named, "head.cls_preds.0.weight")[0]
    learned_alpha = f"{TRUNK}.act.alpha" in named
    return Network(_mode(tensors, named), num_classes, options, learned_alpha)


def _mode(tensors: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> str:
    """Return the authors' name of the mode, told from which units are wrapped, or have a leak."""
    bare = {theirs.removeprefix("module.") for theirs in tensors}
    spiking = {
        part: f"{unit}.conv.0.weight" in bare or f"{unit}.act.w" in named
        for part, unit in (("backbone", TRUNK), ("FPN", NECK), ("head", HEAD))
    }
    reach = {(): "none", ("backbone",): "backbone", ("backbone", "FPN"): "fpn", ("backbone", "FPN", "head"): "fpn"}
    parts = tuple(part for part, spikes in spiking.items() if spikes)
    for mode, (far, head) in MODES.items():
        if reach.get(parts) == far and spiking["head"] == head:
            return mode
    raise CheckpointError(f"neurons in {' and '.join(parts)} alone: no mode of these networks has them so")


def _factor(width: int) -> float:
    factor = width / STEM_WIDTH
    assert int(factor * STEM_WIDTH) == width, "a quotient by a power of two is exact"
    return factor


def _depth(named: Mapping[str, Tensor]) -> float:
    """Return the depth factor, the published one where the number of bottlenecks is."""
    in_trunk = len(names_in_row(named, "backbone.backbone.dark2.1.m.{}.conv1.conv.weight"))
    in_neck = len(names_in_row(named, "backbone.C3_p4.m.{}.conv1.conv.weight"))
    # The trunk has one at least, the neck of the smallest networks none. What else differs, the table of names tells.
    neck_has_none = not any(re.match(r"backbone\.C3_\w+\.m\.", name) for name in named)
    bottlenecks = 0 if neck_has_none and in_trunk == 1 else max(in_trunk, in_neck)
    published = {round(3 * size["depth_factor"]): size["depth_factor"] for size in SIZES.values()}
    return published.get(bottlenecks, bottlenecks / 3)


def _sampler(named: Mapping[str, Tensor], branch: str) -> dict[str, Any]:
    """Return the options of the sampler that the tensors tell of."""
    norm = "embedding.1.running_mean" in named
    at = "embedding.0." if norm else "embedding."
    if not any(name.startswith(at) and not UNUSED.match(name) for name in named):
        return {"sampler": "count", "norm": norm}
    stacks = (
        ("snn", "embedding_conv.layer.{}.weight"),
        ("rsnn", "input_conv.layer.{}.weight"),
        ("arsnn", "gate_conv.{}.weight"),
    )
    known = [(name, stack) for name, stack in stacks if at + stack.format(0) in named]
    if not known:
        raise CheckpointError(
            "the sampler is not known; expected one of "
            + ", ".join(f"'{at}{stack.format(0)}' ({name})" for name, stack in stacks)
        )
    name, stack = known[0]
    depth = len(names_in_row(named, at + stack, step=2))
    if name == "arsnn" and branch != "main":
        depth += len(names_in_row(named, at + "inner_net.{}.gate_conv.0.weight"))
    return {
        "sampler": name,
        "ksize": kernel_shape(named, at + stack.format(0))[-1],
        "sampler_depth": depth,
        "norm": norm,
    }


def refuse_folded(named: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for a file whose norms are folded into its convolutions."""
    if f"{TRUNK}.conv.bias" in named and f"{TRUNK}.bn.weight" not in named:
        raise CheckpointError(
            f"norms are folded into the convolutions ('{TRUNK}.conv.bias': theirs have no bias), which cannot be "
            "undone; give the checkpoint it was folded from"
        )
