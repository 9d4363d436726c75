"""An exported model from windows of events to detections, by ONNX Runtime and NumPy alone: torch is never loaded.

For small computers and quick starts. Whatever else the package can do with a detector needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.engine.artifact import Sidecar, read_sidecar
from snn_perception.engine.session import Session
from snn_perception.errors import EventDataError, ExportError
from snn_perception.selection import select
from snn_perception.types import Detections, EventWindow

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Membranes:
    """State of one stream: membranes by name, float32 [1, ...]. Empty: at rest."""

    arrays: dict[str, Array] = field(default_factory=dict)


class PortableDetector:
    """A detector for one camera's windows; the state goes in and out.

    Args:
        graph: an exported file, whose description lies beside it. threads: of the arithmetic.

    Raises:
        ExportError: if the files are damaged, or the model's input needs torch: representations of event counts and
            voxel cubes without a letterbox do not.
    """

    def __init__(self, graph: str | Path, *, threads: int = 1) -> None:
        self.sidecar: Sidecar = read_sidecar(graph)
        self._representation = _representation(self.sidecar, str(graph))
        self._session = Session(graph, threads=threads)
        rows = 1
        self._rest = {one.name: np.zeros((rows, *one.shape), np.float32) for one in self.sidecar.states}
        self._active = np.ones(rows, bool)

    def step(self, window: EventWindow, membranes: Membranes | None = None) -> tuple[Detections, Membranes]:
        """Return what the detector sees in a window, and the state after it.

        Boxes are xyxy in pixels of the sensor, best score first, `t_us` the window's end.

        Args:
            membranes: after the window before; None, or of a model that starts each window from rest, is rest.

        Raises:
            EventDataError: if the window is of another sensor size than the model's.
        """
        sidecar = self.sidecar
        if window.size != sidecar.sensor:
            raise EventDataError(f"window: expected events on {sidecar.sensor}, the model's sensor, got {window.size}")
        carries = membranes is not None and sidecar.state_policy == "carry" and bool(membranes.arrays)
        before = membranes.arrays if carries and membranes is not None else self._rest
        found = self._session.run(
            {
                "events": self._input(window),
                "keep": np.full(1, float(carries), np.float32),
                "active": self._active,
                **{f"{name}_in": array for name, array in before.items()},
            }
        )
        after = Membranes({one.name: found[f"{one.name}_out"] for one in sidecar.states})
        seen = select(found["boxes"][0], found["scores"][0], sidecar.selection, sidecar.network)
        return replace(seen, t_us=window.t_end_us), after

    def _input(self, window: EventWindow) -> Array:
        grid = self._representation.grid(window)
        images = grid.astype(np.float32).reshape(self.sidecar.events)
        self._representation.give_back(grid)
        return images[:, None]


def _representation(sidecar: Sidecar, graph: str) -> Any:
    """Return the representation of an exported model, of those whose grid is the input as it is."""
    from snn_perception.discovery import load_registry
    from snn_perception.events.grid import GridRepresentation

    named = sidecar.model["representation"]
    registry = load_registry(installed=False)
    if named["name"] in registry.names("representation"):
        representation = registry.build("representation", named["name"], sidecar.sensor, **named["options"])
        plain = isinstance(representation, GridRepresentation) and representation.letterbox is None
        if plain and type(representation).finish is GridRepresentation.finish:
            return representation
    raise ExportError(
        f"{graph}: representation '{named['name']}' with these options needs torch to make the model's input; use the "
        "engine 'onnxruntime' of a DetectionPipeline"
    )
