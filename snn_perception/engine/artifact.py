"""An exported step on disk: one graph file, and beside it what a program must know to run it.

``model.onnx`` and ``model.onnx.json`` belong together by the graph's digest. Reading them takes neither torch nor a
plugin.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from snn_perception.errors import ExportError
from snn_perception.selection import Selection
from snn_perception.types import SensorSize

FORMAT = 1
_MOST_BYTES = 1 << 24  # of a sidecar; the largest model's has some 20 KiB


@dataclass(frozen=True)
class StateTensor:
    """A membrane among the graph's inputs and outputs, ``<name>_in`` and ``<name>_out``, float32 [B, *shape].

    Attributes:
        leak: what a window without input leaves of it; None where its neuron does not say.
    """

    name: str
    shape: tuple[int, ...]
    leak: float | None


@dataclass(frozen=True)
class Sidecar:
    """What belongs to a graph.

    Attributes:
        sha256: of the graph file. weights_sha256: of the detector's weights, unfolded.
        opset: of the ONNX operators. precision: of weights and activations; membranes are float32 always.
        model: the `ModelSpec`, as its JSON says.
        state_policy: ``carry``, or ``per_window``: every window starts with ``keep`` 0.
        events: [T, C, H, W] of the input ``events`` [T, B, C, H, W], which has 1 to `max_batch` rows.
        raw: names of the head's raw outputs.
        states: membranes, in the order of the graph's inputs and of its outputs.
        classes: names; the columns of ``scores``.
        window_us: length of a window of sensor time. sensor: size of the model's sensor in pixels.
        network: size of the network's input in pixels, which ``boxes`` are in.
        letterbox: (left, top, x scale, y scale) that take boxes of the input back to the sensor, as
            ``(x - left) / scale``; None where the input is the sensor's image.
        selection: how to choose among ``boxes`` and ``scores``.
        versions: of the software that wrote it.
        rounding: of a graph in int8, which layers are, and what that changes (`rounding_choice.RoundingChoice`).
    """

    sha256: str
    weights_sha256: str
    opset: int
    precision: str
    model: dict[str, Any]
    state_policy: str
    events: tuple[int, int, int, int]
    max_batch: int
    raw: tuple[str, ...]
    raw_outline: Any
    state_outline: Any
    states: tuple[StateTensor, ...]
    classes: tuple[str, ...]
    window_us: int
    sensor: SensorSize
    network: SensorSize
    letterbox: tuple[float, float, float, float] | None
    selection: Selection
    versions: dict[str, str] = field(default_factory=dict)
    rounding: dict[str, Any] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in their order."""
        return (*self.raw, "boxes", "scores", *(f"{one.name}_out" for one in self.states))

    def to_json(self) -> str:
        """Return it as JSON, indented for people."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True, allow_nan=False) + "\n"


def sidecar_path(graph: str | Path) -> Path:
    """Return where the sidecar of a graph file lies."""
    graph = Path(graph)
    return graph.with_name(graph.name + ".json")


def read_sidecar(graph: str | Path) -> Sidecar:
    """Return what belongs to a graph file, after checking that it does.

    Raises:
        ExportError: if either file is missing, damaged, of a newer version, or they do not belong together.
    """
    graph = Path(graph)
    beside = sidecar_path(graph)
    for path in (graph, beside):
        if not path.is_file():
            raise ExportError(f"{path}: no such file; an exported model is two, made by `export MODEL -o {graph}`")
    if beside.stat().st_size > _MOST_BYTES:
        raise ExportError(f"{beside}: expected a description of some KiB, got {beside.stat().st_size} bytes")
    sidecar = parse_sidecar(beside.read_bytes(), str(beside))
    if (found := file_digest(graph)) != sidecar.sha256:
        raise ExportError(
            f"{graph}: does not belong to {beside.name}: expected sha256 {sidecar.sha256[:12]}..., "
            f"got {found[:12]}...; export the model again"
        )
    return sidecar


def parse_sidecar(text: bytes, where: str) -> Sidecar:
    """Return the sidecar that a text describes; `where` it came from is for errors.

    Raises:
        ExportError: if it does not.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{where}: expected JSON: {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        got = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ExportError(f"{where}: expected an exported model of format {FORMAT}, got {got!r}; export it again")
    names = {one.name for one in fields(Sidecar)}
    values.setdefault("rounding", None)  # written before there were graphs in int8
    if missing := sorted(names - values.keys()):
        raise ExportError(f"{where}: '{missing[0]}' is missing; export the model again")
    try:
        return _built({name: values[name] for name in names})
    except (TypeError, ValueError, KeyError) as error:
        raise ExportError(f"{where}: is damaged: {error}; export the model again") from None


def _built(values: dict[str, Any]) -> Sidecar:
    return Sidecar(
        **values
        | {
            "events": tuple(map(int, values["events"])),
            "raw": tuple(map(str, values["raw"])),
            "states": tuple(
                StateTensor(str(one["name"]), tuple(map(int, one["shape"])), one["leak"]) for one in values["states"]
            ),
            "classes": tuple(map(str, values["classes"])),
            "sensor": SensorSize(**values["sensor"]),
            "network": SensorSize(**values["network"]),
            "letterbox": None if values["letterbox"] is None else tuple(map(float, values["letterbox"])),
            "selection": Selection(**values["selection"]),
        }
    )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
