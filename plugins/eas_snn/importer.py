"""The authors' checkpoints: their state_dict to our model description and weights.

Mode, size, classes, branch and sampler are read from names and shapes, never from the file's name. Nothing else is in
the file: network and micro steps, window, thresholds, readout and surrogate come from the published configurations of
the data set that the number of classes tells of, and the report names each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from snn_perception.api import CheckpointError, ImportReport, ModelSpec, SensorSize, some

from . import classes, presets
from .keys import Network, plain_name, tensor_table
from .reading import UNUSED, in_plain_names, is_of_family, read_network

NAME = "eas_snn"
Imported = tuple[ModelSpec, dict[str, Tensor], ImportReport]


@dataclass(frozen=True)
class _DataSet:
    """What a published configuration has that is not in a checkpoint."""

    name: str
    classes: Sequence[str]
    sensor: SensorSize
    window_us: int
    windows: dict[str, Any]
    alpha: float = presets.ALPHA
    bins: dict[str, Any] = field(default_factory=dict)


_GEN1 = _DataSet("GEN1", classes.GEN1, SensorSize(240, 304), presets.WINDOW_US, {"windows": "label", "lookback": True})
_DATA_SETS = (
    _GEN1,
    _DataSet(
        "1Mpx, frames of half size",
        classes.ONE_MPX,
        SensorSize(360, 640),
        presets.WINDOW_US,
        {"windows": "label"},
        bins=presets.ONE_MPX_BINS,
    ),
    _DataSet(
        "N-Caltech101",
        classes.NCALTECH101,
        SensorSize(180, 240),
        300_000,
        {"windows": "recording"},
        presets.NCALTECH_ALPHA,
        {"interpolation": "bicubic", "macro_slice": True},
    ),
)


def eas_snn_importer() -> Callable[[Mapping[str, Tensor], Mapping[str, Any]], Imported | None]:
    """Return the importer of checkpoints of github.com/Windere/EAS-SNN, branches main and ncaltech-rep."""
    return _import


def _import(tensors: Mapping[str, Tensor], hints: Mapping[str, Any]) -> Imported | None:
    """Return the model description, our weights and a report; None if the tensors are not of this family.

    Raises:
        CheckpointError: if they are, and something is missing, unexpected, or of another shape.
    """
    if not is_of_family({plain_name(theirs): tensor for theirs, tensor in tensors.items()}):
        return None
    try:
        named = in_plain_names(tensors)
        unused = [name for name in named if UNUSED.match(name)]
        network = read_network(tensors, named)
        weights = _weights({name: tensor for name, tensor in named.items() if name not in unused}, network)
        defaults: dict[str, str] = {}
        data = _data_set(network)
        spec = _spec(network, data or _GEN1, defaults)
    except (CheckpointError, ValueError) as error:  # the latter: options that the network refuses
        raise CheckpointError(f"importer '{NAME}': {error}") from None
    notes = _notes(network, unused, hints)
    windows = data.windows if data is not None else {}
    return spec, weights, ImportReport(NAME, len(named) - len(unused), (), tuple(unused), defaults, notes, windows)


def _data_set(network: Network) -> _DataSet | None:
    """Return the data set with so many classes as the network."""
    return next((one for one in _DATA_SETS if len(one.classes) == network.num_classes), None)


def _weights(named: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    table = {plain_name(theirs): (theirs, entry) for theirs, entry in tensor_table(network).items()}
    missing = [theirs for name, (theirs, entry) in table.items() if name not in named and not entry.is_counter]
    unexpected = [name for name in named if name not in table]
    if missing or unexpected:
        raise CheckpointError(f"tensors do not fit the network: missing {some(missing)}; unexpected {some(unexpected)}")
    for name, (theirs, entry) in table.items():
        if name in named and tuple(named[name].shape) != entry.shape:
            raise CheckpointError(
                f"tensor '{theirs}': expected shape {list(entry.shape)}, got {list(named[name].shape)}"
            )
    return {
        entry.ours: named[name] if name in named else torch.zeros((), dtype=torch.int64)
        for name, (_, entry) in table.items()
    }


def _spec(network: Network, data: _DataSet, defaults: dict[str, str]) -> ModelSpec:
    """Return the description, and tell in `defaults` what is not from the file."""
    names = tuple(data.classes)
    source = data.name
    if len(names) != network.num_classes:
        names, source = tuple(f"class_{i}" for i in range(network.num_classes)), "numbered"
    surrogate = "patan" if network.learned_alpha else "atan"
    defaults["classes"] = f"{', '.join(names) if len(names) < 10 else f'{len(names)} names'} ({source})"
    defaults["sensor_size"] = f"{data.sensor.width}x{data.sensor.height} ({data.name})"
    defaults["network_size"] = "640x640 (published)"
    defaults["window_us"] = f"{data.window_us} ({data.name})"
    defaults["steps"] = f"T {presets.STEPS}, Tm {presets.MICRO_STEPS}, Ts 1 (published)"
    defaults["sampler"] = "threshold 1, reset to 0, readout sum, spike_attach and write_zero on (published)"
    defaults["neuron"] = (
        f"PLIF: threshold 1, soft reset, undecayed input, {surrogate} of alpha {data.alpha} (published)"
    )
    defaults["thresholds"] = "score 0.001, suppression 0.65, 100 detections (published)"
    defaults["state_policy"] = "per_window (published)"
    return presets.eas_spec(
        network.mode,
        presets.ARSNN | network.options,
        classes=names,
        sensor=data.sensor,
        bins={"steps": presets.MICRO_STEPS, "network_size": presets.NETWORK_SIZE, **data.bins},
        window_us=data.window_us,
        surrogate=surrogate,
        alpha=data.alpha,
    )


def _notes(network: Network, unused: Sequence[str], hints: Mapping[str, Any]) -> tuple[str, ...]:
    options = network.options
    size = {tuple(size.values()): letter.upper() for letter, size in presets.SIZES.items()}.get(
        (options["depth_factor"], options["width_factor"]), "of another size"
    )
    notes = [f"{size}, mode {network.mode}, branch {options['branch']}, sampler {options['sampler']}"]
    if unused:
        notes.append(f"left out: {some(unused)}, which the option 'split' makes and nothing uses")
    epochs, best = hints.get("start_epoch"), hints.get("best_ap")
    if type(epochs) is int:
        notes.append(f"trained for {epochs} epochs")
    if isinstance(best, float):
        notes.append(f"best AP noted in the file: {best:.4f}")
    return tuple(notes)
