"""What the shapes and stored options of the authors' checkpoints tell of the network they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from snn_perception.api import CheckpointError, kernel_shape, names_in_row, some

from .layout import Network
from .rescat import check_widths
from .st_vgg import Layer, parse_layers, published_layers

PUBLISHED_MAPS = 3  # feature maps before the extras


@dataclass
class Account:
    """What an importer tells of a file: where values came from that the file does not hold, and remarks."""

    defaults: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def bare(name: str) -> str:
    """Return a tensor's name without the prefixes that differ between kinds of file."""
    return re.sub(r"^(?:(?:module|model|backbone)\.)+", "", name)


def backbone_of(named: Mapping[str, Tensor]) -> str | None:
    """Return ``st_vgg`` or ``rescat`` by the names of the tensors; None if they are of another family."""
    if "features.1.0.conv_trans.weight" in named or "features.1.0.act_trans.w" in named:
        return "rescat"
    if "features.0.norm.weight" in named and ("features.0.conv.weight" in named or "features.1.pad.weight" in named):
        return "st_vgg"
    return None


def is_detector(named: Mapping[str, Tensor]) -> bool:
    """Return whether there is any tensor of a detection head or of extra levels."""
    return any(name.startswith(("head.", "extras.")) for name in named)


def refuse_folded(named: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for a file whose norms are folded into its convolutions."""
    for norm in ("features.0.norm", "features.0.0"):
        if f"{norm}.weight" in named and named[f"{norm}.weight"].dim() != 1:
            raise CheckpointError(
                f"norms are folded into the convolutions ({norm}.weight is a kernel), which cannot be undone; "
                "give the checkpoint it was folded from"
            )
    biased = "features.0.1.bias"
    if biased in named:
        raise CheckpointError(
            f"norms are folded into the convolutions ({biased}: theirs have no bias), which cannot be undone; "
            "give the checkpoint it was folded from"
        )


def stored_options(hints: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the stored training options, {} if there are none."""
    found = hints.get("hyper_parameters", hints)
    if isinstance(found, Mapping):
        found = found.get("args", found)
    return found if isinstance(found, Mapping) else {}


def read_network(
    named: Mapping[str, Tensor], backbone: str, options: Mapping[str, Any], account: Account
) -> tuple[list[Layer], Network]:
    """Return the layer list, as our backbone takes it, and the network that the tensors are of.

    Raises:
        CheckpointError: if tensors that tell of it are missing, or the stored layer list is of another network.
    """
    levels = len(names_in_row(named, "extras.{}.0.bn_conv_neuron.2.weight"))
    one_one = "extras.0.1.bn_conv_neuron.2.weight" in named
    extras = [kernel_shape(named, f"extras.{i}.{int(one_one)}.bn_conv_neuron.2.weight")[0] for i in range(levels)]
    boxes = [
        kernel_shape(named, name)[0] for name in names_in_row(named, "head.regression_head.module_list.{}.2.weight")
    ]
    classes = [
        kernel_shape(named, name)[0] for name in names_in_row(named, "head.classification_head.module_list.{}.2.weight")
    ]
    if is_detector(named) and (len(boxes) != len(classes) or len(boxes) <= levels):
        raise CheckpointError(
            f"expected, for each feature map, two head convolutions, got {levels} extra levels, "
            f"{len(boxes)} box and {len(classes)} class convolutions"
        )
    maps = len(boxes) - levels if boxes else None
    if backbone == "rescat":
        layers, ends, in_channels = _rescat(named, options, maps)
    else:
        layers, ends, in_channels = _vgg(named, options, maps, account)
    per_cell = [channels // 4 for channels in boxes]
    return layers, Network(
        backbone=backbone,
        in_channels=in_channels,
        widths=tuple(int(str(layer).removesuffix("s2")) for layer in layers),
        classifier_outputs=_classes(named, is_detector=bool(boxes)),
        extras=tuple(extras),
        one_one_extras=one_one,
        map_channels=(*ends, *extras) if boxes else (),
        per_cell=tuple(per_cell),
        num_classes=classes[0] // max(per_cell[0], 1) if boxes else 0,
    )


def _classes(named: Mapping[str, Tensor], *, is_detector: bool) -> int:
    classifier = "classifier.conv_classif.weight"
    if is_detector and classifier not in named:
        return 2  # the check of all names will tell that it is missing
    return kernel_shape(named, classifier)[0]


def _vgg(
    named: Mapping[str, Tensor], options: Mapping[str, Any], maps: int | None, account: Account
) -> tuple[list[Layer], list[int], int]:
    """Return the layer list, the channels of the feature maps before the extras, and the input channels."""
    stages = [kernel_shape(named, name) for name in names_in_row(named, "features.{}.conv.weight")]
    if not stages:
        raise CheckpointError("expected stages, the first with 'features.0.conv.weight', got none")
    layers = _vgg_layers([shape[0] for shape in stages], maps, options, account)
    ends = [channels for channels, stride in parse_layers(layers) if stride == 2]
    return layers, ends, stages[0][1]


def _vgg_layers(widths: Sequence[int], maps: int | None, options: Mapping[str, Any], account: Account) -> list[Layer]:
    """Return the layer list with its strides, of which `maps` are 2 (None: not known); shapes do not tell which."""
    stored, published = options.get("cfg"), published_layers(1)
    if stored is None:
        if len(widths) != len(published) or maps not in (None, PUBLISHED_MAPS):
            found = f"{len(widths)} stages" + (f" and {maps} maps before the extras" if maps is not None else "")
            raise CheckpointError(
                f"strides are not in the file (no option 'cfg'), and its {found} are not those of the published "
                f"networks ({len(published)} and {PUBLISHED_MAPS}); give the training checkpoint with its "
                "hyper_parameters"
            )
        account.defaults["strides"] = "2 in stages 3, 5 and 7, as in the published networks"
        return [f"{w}s2" if str(p).endswith("s2") else w for w, p in zip(widths, published, strict=True)]
    layers = _stored_list(stored)
    try:
        parsed = parse_layers(layers)
        strides = sum(stride == 2 for _, stride in parsed)
        if parsed and parsed[-1][1] == 1 and strides == (maps or PUBLISHED_MAPS) - 1:
            # The authors' code overwrites the last item of the list in place, in the stored options too.
            layers[-1] = f"{layers[-1]}s2"
            account.notes.append(
                f"the stored layer list ends in {stored[-1]}, read as {layers[-1]} (the authors' code strips it)"
            )
            parsed = parse_layers(layers)
    except ValueError as error:
        raise CheckpointError(f"option 'cfg': {error}") from None
    strides = sum(stride == 2 for _, stride in parsed)
    fits = strides > 0 if maps is None else strides == maps
    if [channels for channels, _ in parsed] != list(widths) or not fits:
        wanted = f"{maps} of them with stride 2" if maps is not None else "some of them with stride 2"
        raise CheckpointError(
            f"option 'cfg' {some([str(layer) for layer in layers], 12)} contradicts the file: "
            f"expected widths {list(widths)}, {wanted}"
        )
    return layers


def _rescat(
    named: Mapping[str, Tensor], options: Mapping[str, Any], maps: int | None
) -> tuple[list[Layer], list[int], int]:
    """Return the widths, the channels of the feature maps before the extras, and the input channels."""
    stem, second = (kernel_shape(named, f"features.0.{name}.weight") for name in ("1", "3.conv"))
    blocks = len(names_in_row(named, "features.{}.0.conv2.weight", start=1))
    main = [kernel_shape(named, f"features.{k}.0.conv2.weight")[0] for k in range(1, blocks + 1)]
    widths = [stem[0], second[0], *main]
    try:
        check_widths(widths)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if maps not in (None, blocks):
        raise CheckpointError(f"expected a feature map from each of {blocks} blocks, got heads for {maps}")
    if options.get("cfg") is not None and _stored_list(options["cfg"]) != widths:
        shown = [
            str(item) if type(item) is int and abs(item) < 10**9 else type(item).__name__ for item in options["cfg"]
        ]
        raise CheckpointError(f"option 'cfg' {some(shown, 12)} contradicts the file: expected widths {widths}")
    return list(widths), [width + width // 2 for width in main], stem[1]


def _stored_list(stored: object) -> list[Layer]:
    if not isinstance(stored, (list, tuple)):
        raise CheckpointError(f"option 'cfg': expected a list of layers, got {type(stored).__name__}")
    return list(stored)
