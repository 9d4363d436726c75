"""ONNX Runtime on one processor thread, by names; loads neither torch nor a plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.errors import ExportError

Array = np.ndarray[Any, Any]


class Session:
    """A graph that runs.

    Args:
        path: of the graph. inputs, outputs: names it must have; None: not checked.
        threads: of the arithmetic. More than one helps only on cores that nothing else uses.

    Raises:
        ExportError: if ONNX Runtime is missing, or does not take the file.
    """

    def __init__(
        self,
        path: str | Path,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        *,
        threads: int = 1,
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ExportError("the engine 'onnxruntime' needs its package: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base of their own
            reason = str(error).strip().splitlines()[0][:200]
            raise ExportError(f"{path}: ONNX Runtime does not take it: {reason}; export the model again") from None
        self.outputs = tuple(node.name for node in self._session.get_outputs())
        found = tuple(node.name for node in self._session.get_inputs())
        for kind, wanted, has in (("inputs", inputs, found), ("outputs", outputs, self.outputs)):
            if wanted is not None and tuple(wanted) != has:
                odd = next(iter(set(wanted) ^ set(has)), "their order")
                raise ExportError(f"{path}: its {kind} are not those expected ({odd}); export the model again")

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name, in memory of their own."""
        return dict(zip(self.outputs, self._session.run(None, dict(feed)), strict=True))
