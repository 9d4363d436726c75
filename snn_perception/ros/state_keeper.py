"""Saves the streams' states to a folder, on request and every so often, and finds them again after a restart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from snn_perception.errors import SnnPerceptionError
from snn_perception.runtime.state_file import SavedStream, load_stream, save_stream
from snn_perception.spec import ModelSpec

log = logging.getLogger(__name__)

ONLY_CAMERA = "camera"  # the name of the file of a camera that has none


class StateKeeper:
    """Writes ``<folder>/<camera>.safetensors`` whenever a state has changed, from a thread of its own.

    States are values: what is written is the state after some window, while inference goes on.

    Args:
        folder: made where it is not there. period_s: between two looks; 0 saves on request alone.
        streams: returns the states as they are now, and the model that they are of.
        spec: returns the description of the model that loaded states are for.
    """

    def __init__(
        self,
        folder: Path,
        period_s: float,
        streams: Callable[[], tuple[ModelSpec, Mapping[str, SavedStream]]],
        spec: Callable[[], ModelSpec],
    ) -> None:
        self._folder, self._period_s = folder, period_s
        self._streams, self._spec = streams, spec
        self._written: dict[str, SavedStream] = {}
        self._complaint = ""  # told last, until a save succeeds
        self._lock = threading.Lock()  # one writer at a time
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="states", daemon=True)

    def start(self) -> None:
        """Begin to save every period."""
        if self._period_s:
            self._thread.start()

    def stop(self) -> None:
        """Save once more what has changed, and end."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        self._save_quietly()

    def save(self) -> list[Path]:
        """Write every stream's state now and return the files.

        Raises:
            CheckpointError: if one cannot be written.
        """
        with self._lock:
            spec, streams = self._streams()
            paths = []
            for camera, saved in streams.items():
                path = self.path(camera)
                if saved is not self._written.get(camera):
                    save_stream(path, saved, spec)
                    self._written[camera] = saved
                paths.append(path)
        return paths

    def load(self, camera: str) -> SavedStream:
        """Return a camera's saved state, on the CPU.

        Raises:
            CheckpointError: if there is none, or it is damaged or of another model.
        """
        return load_stream(self.path(camera), self._spec())

    def path(self, camera: str) -> Path:
        """Return the file of a camera."""
        return self._folder / f"{(camera or ONLY_CAMERA).replace('/', '.')}.safetensors"

    def _run(self) -> None:
        while not self._end.wait(self._period_s):
            self._save_quietly()

    def _save_quietly(self) -> None:
        """Save, and tell once where that does not succeed any more."""
        try:
            self.save()
            complaint = ""
        except Exception as error:  # a thread that ends would save nothing, and say nothing
            known = isinstance(error, (SnnPerceptionError, OSError))
            complaint = str(error) if known else f"{type(error).__name__}: {error}"
        if complaint and not self._complaint:
            log.error("state_dir: %s; detection goes on, nothing is saved", complaint)
        self._complaint = complaint
