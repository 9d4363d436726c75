"""A reader of recordings that stop half way until a file lies beside them: for tests that cut a run off."""

import time
from pathlib import Path

import numpy as np

from snn_perception.api import Component, DecodedEvents, Recording, SensorSize, hookimpl

PATIENCE_S = 60.0
PIECES = 40
EVENTS = 20_000


@hookimpl
def snn_event_readers():
    return [Component("waiting", WaitingRecording, "events, a wait, and more events")]


class WaitingRecording(Recording):
    """Events of a file's name; after half of them it waits for a file called like it, with ``.go`` behind."""

    format = encoding = "waiting"
    size = SensorSize(240, 304)

    def __init__(self, path):
        self.path = Path(path)

    @staticmethod
    def claims(path: Path) -> bool:
        return path.suffix == ".waiting"

    def chunks(self, max_events=1 << 16, *, start_us=None, align_us=None):
        rng = np.random.default_rng(len(self.path.name))
        for piece in range(PIECES):
            if piece == PIECES // 2:
                self._wait()
            x, y, p = rng.integers(0, 304, EVENTS), rng.integers(0, 240, EVENTS), rng.integers(0, 2, EVENTS)
            t = np.arange(EVENTS, dtype=np.int64) + piece * EVENTS
            yield DecodedEvents(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, self.size, "us")

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while not Path(f"{self.path}.go").exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.path}: nobody let it go on")
            time.sleep(0.01)
