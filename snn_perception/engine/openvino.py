"""The exported step in OpenVINO, with every membrane as an input and an output.

OpenVINO can keep state inside of a request (``ReadValue``); it is not used, since a stream's state is a value here,
and in float32 it is slower. What was compiled is kept in the cache of engines, so that a start-up only loads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.artifact import read_sidecar
from snn_perception.engine.cache import cache_folder
from snn_perception.engine.engines import Settings
from snn_perception.engine.onnx_runtime import graph_of, membranes_in, numbers, outputs
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.engine.program import flat_vectors
from snn_perception.engine.rounding_choice import int8_graph
from snn_perception.errors import ExportError, SpecError
from snn_perception.state import State

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # of what is not stated in the graph
_DEVICE = "CPU"
_ONE_AT_A_TIME = threading.Lock()
_REMEDY = "pip install openvino (or snn_perception[openvino])"


class OpenVinoEngine:
    """A graph that takes and gives the membranes as its inputs and outputs; compiled once for each number of rows.

    Args:
        precision: ``fp32``; ``bf16`` where the processor computes in it; or ``int8`` of the weights of convolutions of
            spikes, which are exact in it, where that changes hardly any spike (`rounding_choice`). Membranes go in and
            out in float32.

    Attributes:
        sidecar: what belongs to the graph; its `rounding` names the layers that are int8.

    Raises:
        ExportError: if OpenVINO is missing, does not take the graph, or the processor has not that precision.
        SpecError: for an unknown precision.
    """

    name = "openvino"

    def __init__(self, detector: Detector, settings: Settings | None = None, *, precision: str = "fp32") -> None:
        settings = settings or Settings()
        if precision not in PRECISIONS:
            raise SpecError(f"precision: expected one of {', '.join(PRECISIONS)} with OpenVINO, got {precision!r}")
        self._core = _core()
        if precision == "bf16" and not has_bf16():
            raise ExportError("openvino: this processor has no bf16 (AMX or AVX512_BF16); use fp32")
        self.precision = precision
        self._options = {
            "CACHE_DIR": str(cache_folder(settings.cache) / "openvino"),
            "INFERENCE_NUM_THREADS": settings.threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],  # by itself it takes bf16 where it can
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the cores of a robot are shared out by others
        }
        self._path = _graph(detector, settings, precision)
        self.sidecar = read_sidecar(self._path)
        self._requests: dict[int, Any] = {1: self._compiled(1)}

    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x."""
        vectors = flat_vectors(self.sidecar.events, x, keep, active)
        rows = x.shape[1]
        feed = dict(zip(("events", "keep", "active"), map(numbers, vectors), strict=True))
        feed |= membranes_in(self.sidecar, state, rows)
        if rows not in self._requests:
            self._requests[rows] = self._compiled(rows)
        request = self._requests[rows]
        request.infer(feed, share_inputs=True)
        # The request writes into the same memory next time.
        found = {name: request.get_output_tensor(at).data.copy() for at, name in enumerate(self.sidecar.outputs)}
        return outputs(self.sidecar, found)

    def _compiled(self, rows: int) -> Any:
        """Return a request for so many rows; fixed sizes are faster than open ones."""
        try:
            model = self._core.read_model(self._path)
            fixed = {port.any_name: _with_rows(port, rows) for port in model.inputs}
            model.reshape(fixed)
            return self._core.compile_model(model, _DEVICE, self._options).create_infer_request()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise ExportError(f"{self._path}: OpenVINO does not take it: {reason}; use another engine") from error


def _graph(detector: Detector, settings: Settings, precision: str) -> Path:
    """Return the graph of a detector in a precision, from the cache where it is there."""
    path = graph_of(detector, settings)
    if precision != "int8":
        return path
    return int8_graph(
        path,
        read_sidecar(path),
        lambda count: [numbers(x.float()) for x in synthetic_inputs(detector, count)],
        cache_folder(settings.cache),
        on_stage=settings.on_stage,
    )


def has_bf16() -> bool:
    """Return whether OpenVINO would compute in bf16 on this processor.

    Raises:
        ExportError: if OpenVINO is missing.
    """
    return "BF16" in _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def _core() -> Any:
    try:
        import openvino
    except ImportError:
        raise ExportError(f"the engine 'openvino' needs its package: {_REMEDY}") from None
    with _ONE_AT_A_TIME:
        return _only(openvino.Core)


@cache
def _only(core: Callable[[], Any]) -> Any:
    """Return the one core of this process, which is never given back.

    Its processor plugin gives the thread another stack for signals and puts the one before back when it ends. Of two
    that end in the order in which they began, the second puts back the first's, which is freed memory by then, and
    the next signal, such as Ctrl-C, ends the process with a segmentation fault.
    """
    return core()


def _with_rows(port: Any, rows: int) -> list[int]:
    """Return the shape of an input with so many rows in place of the one size that is open."""
    return [rows if axis.is_dynamic else axis.get_length() for axis in port.partial_shape]
