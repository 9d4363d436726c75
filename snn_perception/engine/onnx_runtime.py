"""The exported step in ONNX Runtime, with tensors of torch on the outside and no copies in between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.artifact import Sidecar, read_sidecar, sidecar_path
from snn_perception.engine.cache import cache_folder, cache_name
from snn_perception.engine.engines import Settings
from snn_perception.engine.export import export_onnx, weights_digest
from snn_perception.engine.session import Session
from snn_perception.errors import ExportError
from snn_perception.state import State, from_leaves, named_leaves

PACKAGES = ("torch", "onnx", "onnxscript", "snn_perception")


class OnnxRuntimeEngine:
    """A graph that takes and gives the membranes as its inputs and outputs.

    Attributes:
        sidecar: what belongs to the graph.

    Raises:
        ExportError: if ONNX Runtime is missing, or the graph is damaged or of another model.
    """

    name = "onnxruntime"

    def __init__(self, detector: Detector, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        path = graph_of(detector, settings)
        self.sidecar = read_sidecar(path)
        self.precision = self.sidecar.precision
        self._session = Session(path, threads=settings.threads)

    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x."""
        rows = x.shape[1]
        feed = {
            "events": numbers(x),
            "keep": np.ones(rows, np.float32) if keep is None else numbers(keep),
            "active": np.ones(rows, bool) if active is None else numbers(active),
            **membranes_in(self.sidecar, state, rows),
        }
        return outputs(self.sidecar, self._session.run(feed))


def graph_of(detector: Detector, settings: Settings) -> Path:
    """Return the exported file of a detector: the one that was given, or one from the cache, exported if need be.

    Raises:
        ExportError: if the given file is of other weights or another model.
    """
    digest = weights_digest(detector)
    if settings.graph is not None:
        if read_sidecar(settings.graph).weights_sha256 != digest:
            raise ExportError(
                f"{settings.graph}: is exported from other weights than those of the model; export this model's"
            )
        return settings.graph
    name = cache_name(digest, "onnx", PACKAGES, device="any")
    path = cache_folder(settings.cache) / f"{name}.onnx"
    if not (path.exists() and sidecar_path(path).exists()):
        settings.on_stage("exporting the network, once for these weights")
        export_onnx(detector, path, on_stage=settings.on_stage)
    return path


def membranes_in(sidecar: Sidecar, state: State, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return a state of so many rows as inputs of the graph.

    Raises:
        ValueError: if it is of another model or input size.
    """
    found = dict(named_leaves(state))
    feed = {}
    for one in sidecar.states:
        shape = (rows, *one.shape)
        leaf = found.pop(one.name, None)
        if leaf is None and state is not None:
            raise ValueError(f"state does not fit the model: membrane '{one.name}' is missing")
        if leaf is not None and tuple(leaf.shape) != shape:
            raise ValueError(
                f"state does not fit the model: membrane '{one.name}' has the shape {list(leaf.shape)}, "
                f"expected {list(shape)}"
            )
        feed[f"{one.name}_in"] = np.zeros(shape, np.float32) if leaf is None else numbers(leaf.float())
    if found:
        raise ValueError(f"state does not fit the model: it has no membrane '{next(iter(found))}'")
    return feed


def outputs(sidecar: Sidecar, found: Mapping[str, np.ndarray[Any, Any]]) -> tuple[Any, State]:
    """Return the head's raw output and the state of a graph's outputs."""
    raw = {name.removeprefix("raw."): torch.from_numpy(found[name]) for name in sidecar.raw}
    after = {one.name: torch.from_numpy(found[f"{one.name}_out"]) for one in sidecar.states}
    return from_leaves(sidecar.raw_outline, raw), from_leaves(sidecar.state_outline, after)


def numbers(x: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's memory as an array, copied only where it lies elsewhere or in another order."""
    return x.detach().cpu().contiguous().numpy()
