"""Looks into a running network now and then: firing rates and operations per layer, and layers that are dead.

One window of each camera is counted while it is inferred; the others run as if nobody looked. Counting changes no
number of the network.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch

from snn_perception.detector import Detector
from snn_perception.evaluation.activity import Activity, ActivityMeter, LayerInput, probe
from snn_perception.evaluation.firing import FiringReport, firing_of
from snn_perception.types import ImageWindow, Window

SATURATED = 0.95  # share of outputs that fire, from which on a layer tells nothing apart
SILENT_LOOKS = 3  # in a row, at a layer that never fires, make a complaint
LEAST_EVENTS_PER_PIXEL = 0.005  # with fewer in a window, silence says something about the scene, not the network
FINE, WARNING = 0, 1  # levels of diagnostic_msgs/DiagnosticStatus: OK, WARN
_NAMED = 3  # layers at most, in a message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActivityReport:
    """Level (`FINE`, `WARNING`), what to say, and the figures of the last look by name."""

    level: int
    message: str
    values: dict[str, str] = field(default_factory=dict)


class CameraActivity:
    """What was seen of the network on one camera's windows."""

    def __init__(self) -> None:
        self._firing: FiringReport | None = None
        self._values: dict[str, str] = {}
        self._silent: dict[str, int] = {}
        self._looks = 0

    def look(self, activity: Activity, input_layers: tuple[str, ...], window: Window) -> None:
        """Take in the counts of one window.

        Args:
            input_layers: as of `ActivityMeter`.
        """
        self._firing, self._looks = firing_of(activity), self._looks + 1
        busy = isinstance(window, ImageWindow) or window.event_count >= LEAST_EVENTS_PER_PIXEL * (
            window.size.height * window.size.width
        )
        for name, layer in self._firing.layers.items():
            if layer.rate > 0:
                self._silent[name] = 0
            elif busy:
                self._silent[name] = self._silent.get(name, 0) + 1
        self._values = self._figures(activity, input_layers)

    def report(self) -> ActivityReport:
        """Return the last look, with a complaint where layers are dead or saturated."""
        if self._firing is None:
            return ActivityReport(FINE, "no window was looked at yet")
        dead = [name for name, looks in self._silent.items() if looks >= SILENT_LOOKS]
        full = [name for name, layer in self._firing.layers.items() if layer.rate >= SATURATED]
        if dead or full:
            told = (_told("silent", dead, f"in {SILENT_LOOKS} looks or more"), _told("saturated", full, ""))
            return ActivityReport(WARNING, "; ".join(filter(None, told)), self._values)
        quiet = [name for name, layer in self._firing.layers.items() if not layer.rate]
        return ActivityReport(FINE, _told("silent", quiet, "in the last look") or "every layer fires", self._values)

    def _figures(self, activity: Activity, input_layers: tuple[str, ...]) -> dict[str, str]:
        assert self._firing is not None
        operations = {name: _operations(one, name in input_layers) for name, one in activity.inputs.items()}
        return {
            "looks": str(self._looks),
            "firing rate": f"{self._firing.sparsity:.4f}",
            "synaptic operations": f"{sum(operations.values()):.0f}",
            "dense operations": str(sum(one.dense for one in activity.inputs.values())),
            **{f"firing rate {name}": f"{layer.rate:.4f}" for name, layer in self._firing.layers.items()},
            **{f"synaptic operations {name}": f"{count:.0f}" for name, count in operations.items()},
        }


class ActivityWatch:
    """Decides which windows are looked at, and keeps what was seen. One thread infers, any thread may read.

    Args:
        period_s: returns how often each camera is looked at, in seconds; 0 is never.
        clock_ns: monotonic time.
    """

    def __init__(self, period_s: Callable[[], float], clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._period_s, self._clock_ns = period_s, clock_ns
        self._lock = threading.Lock()
        self._cameras: dict[str, CameraActivity] = {}
        self._due_ns: dict[str, int] = {}
        self._meters: WeakKeyDictionary[Detector, ActivityMeter | None] = WeakKeyDictionary()
        self._watched: ReferenceType[Detector] | None = None

    def prepare(self, detector: Detector) -> None:
        """Find the layers of a network, which takes the time of some windows, and see that they can be counted.

        That runs the network, so nobody else may at the time. `around` does it where it has not been done. A network
        that cannot be counted is told of in the log, and not looked into.
        """
        self._meters[detector] = None
        try:
            meter = ActivityMeter(detector)
            with meter, torch.no_grad():
                meter.expect(1)
                detector(probe(detector), None)
                meter.take()
        except Exception as error:  # whatever a plugin does that cannot be counted: detections go on
            log.warning("the network's activity cannot be looked into: %s", error)
            return
        self._meters[detector] = meter

    def is_due(self, camera: str) -> bool:
        """Return whether a camera's next window is to be looked at; it has to run alone then."""
        return bool(self._period_s()) and self._clock_ns() >= self._due_ns.get(camera, 0)

    def around(self, camera: str, window: Window, detector: Detector) -> AbstractContextManager[None]:
        """Return the context in which a window is to be inferred; it counts if it is time to look."""
        if not self._is_due(camera):
            return nullcontext()
        if detector not in self._meters:
            self.prepare(detector)
        if self._watched is None or self._watched() is not detector:
            self._watched = ref(detector)
            with self._lock:
                self._cameras.clear()  # what another network did
        meter = self._meters[detector]
        return nullcontext() if meter is None else self._looking(meter, camera, window)

    def reports(self) -> dict[str, ActivityReport]:
        """Return what there is to say, by camera; nothing while nobody is to look."""
        if not self._period_s():
            return {}
        with self._lock:
            return {camera: seen.report() for camera, seen in self._cameras.items()}

    def _is_due(self, camera: str) -> bool:
        period_s = self._period_s()
        if not period_s:
            self._due_ns.clear()
            return False
        now_ns = self._clock_ns()
        if now_ns < self._due_ns.get(camera, 0):
            return False
        self._due_ns[camera] = now_ns + int(period_s * 1e9)
        return True

    @contextmanager
    def _looking(self, meter: ActivityMeter, camera: str, window: Window) -> Iterator[None]:
        with meter:
            meter.expect(1)
            yield
            [activity] = meter.take()
        with self._lock:
            self._cameras.setdefault(camera, CameraActivity()).look(activity, meter.input_layers, window)


def _operations(one: LayerInput, sees_representation: bool) -> float:
    """Return how often an input that is not zero met a weight; a spike of 3 does so three times."""
    counts_spikes = one.is_whole and not one.is_binary and not sees_representation
    return one.weighted if counts_spikes else one.effective


def _told(what: str, layers: list[str], when: str) -> str:
    if not layers:
        return ""
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return f"{f'{what} {when}'.rstrip()}: {', '.join(layers[:_NAMED])}{more}"
