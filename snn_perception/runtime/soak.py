"""A long run of several cameras, and what it does to memory, threads, files and time.

From packets to detections by what the node runs on: decoders, windows, clocks, the served streams. The cameras show
made-up scenes of exactly 2^24 us, after which the clock in the packets starts again: the same packets, sent for ever,
are time that goes on for ever.
"""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice, pairwise
from pathlib import Path

import torch
from torch.nn import functional as F

from snn_perception.data.shapes import MovingShapes
from snn_perception.detector import Detector
from snn_perception.events.evt3_encode import packetize
from snn_perception.events.stream import PacketWindows
from snn_perception.registry import Registry
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.serving import Serving
from snn_perception.testing import wake
from snn_perception.types import Packet, SensorSize

LOOP_US = 1 << 24  # the clock of the encoding turns over
PACKET_US = 10_000  # of the packets, unless asked for otherwise
WARM_SHARE = 0.1
MAX_GROWTH = 0.01  # of the resident memory after warm-up
MAX_GROWTH_MIB = 20.0
MAX_DRIFT = 0.05  # of the CPU time per window
YARD_EVERY = 8  # windows
YARD_CHANNELS, YARD_SIDE, YARD_LAYERS = 64, 48, 2
_MIB = 1 << 20


@dataclass(frozen=True)
class Look:
    """How things stood at one moment: sensor time of each stream, and of this process what it holds and has used.

    Attributes:
        cpu_s: used by this process, without the yardstick's.
        yards, yard_cpu_s: how often a `Yardstick` was laid on, and the CPU time that took.
    """

    sensor_s: float
    windows: int
    detections: int
    resident_mib: float
    threads: int
    files: int
    cpu_s: float
    wall_s: float
    yards: int = 0
    yard_cpu_s: float = 0.0


@dataclass(frozen=True)
class SoakReport:
    """A whole run: looks at even distances, and what the windows had in them.

    Attributes:
        silent_windows: without any detection. losses: of all streams, packets and events.
    """

    streams: int
    looks: tuple[Look, ...]
    silent_windows: int
    losses: int

    @property
    def warm(self) -> tuple[Look, ...]:
        """The looks after warm-up."""
        begin = self.looks[0].sensor_s + WARM_SHARE * (self.looks[-1].sensor_s - self.looks[0].sensor_s)
        return tuple(look for look in self.looks if look.sensor_s >= begin)

    @property
    def growth_mib(self) -> float:
        """Growth of the resident memory after warm-up: the mean of the last quarter beyond that of the first."""
        first, last = _quarters([look.resident_mib for look in self.warm])
        return statistics.fmean(last) - statistics.fmean(first)

    @property
    def drift(self) -> float:
        """Change of the CPU time per window, in yardsticks, from the first quarter after warm-up to the last: a share.

        A shared machine is half as fast at times, and then the yardstick takes twice as long.
        """
        costs, yards = self._costs()
        return _change([cost / yard for cost, yard in zip(costs, yards, strict=True)])

    @property
    def clock_drift(self) -> float:
        """The same in seconds."""
        return _change(self._costs()[0])

    def _costs(self) -> tuple[list[float], list[float]]:
        """Return the CPU seconds of a window, and of a yardstick, between looks after warm-up."""
        pairs = list(pairwise(self.warm))
        costs = [(b.cpu_s - a.cpu_s) / max(1, b.windows - a.windows) for a, b in pairs]
        return costs, [(b.yard_cpu_s - a.yard_cpu_s) / max(1, b.yards - a.yards) for a, b in pairs]

    def faults(self) -> list[str]:
        """Return what went wrong, in words; none if nothing did."""
        warm = self.warm
        limit = min(MAX_GROWTH_MIB, MAX_GROWTH * warm[0].resident_mib)
        found = []
        if self.growth_mib > limit:
            found.append(f"resident memory grew by {self.growth_mib:.1f} MiB, at most {limit:.1f} is allowed")
        for name in ("threads", "files"):
            begun, ended = getattr(warm[0], name), getattr(warm[-1], name)
            if ended > begun:
                found.append(f"{name} grew from {begun} to {ended}")
        if abs(self.drift) > MAX_DRIFT:
            found.append(
                f"CPU time per window changed by {self.drift:+.1%} of what else the machine does in that time, at most "
                f"{MAX_DRIFT:.0%} is allowed"
            )
        if self.silent_windows * 2 > warm[-1].windows:
            found.append(f"{self.silent_windows} of {warm[-1].windows} windows without detections: that proves little")
        if self.losses:
            found.append(f"{self.losses} packets or events were lost, and none should be")
        return found


def soak(
    pipeline: DetectionPipeline,
    registry: Registry,
    *,
    streams: int,
    duration_s: float,
    looks: int = 40,
    packet_us: int = PACKET_US,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SoakReport:
    """Run cameras through a model for so much sensor time of each, and return how things stood on the way.

    Args:
        pipeline: of a model that fires on shapes. looks: how often to look. packet_us: of sensor time, in one packet.

    Raises:
        ValueError: for a run too short to be looked at so often.
    """
    spec = pipeline.spec
    total = int(duration_s * 1e6 / spec.window_us)
    if total < 4 * looks:
        raise ValueError(f"{duration_s:g} s of sensor time are {total} windows: too few for {looks} looks")
    cameras = [SceneCamera(registry, pipeline, k, packet_us) for k in range(streams)]
    serving, every = Serving(pipeline), max(1, total // looks)
    taken: list[Look] = []
    yardstick = Yardstick()
    windows = detections = silent = 0
    began = time.monotonic()
    for number in range(total):
        for camera in cameras:
            found = serving.window(camera.name, next(camera.windows))
            windows, detections, silent = windows + 1, detections + len(found), silent + (not len(found))
            if windows % YARD_EVERY == 0:
                yardstick.lay_on()
        if (number + 1) % every == 0:
            sensor_s = (number + 1) * spec.window_us / 1e6
            yardstick.lay_on()  # once at least between two looks
            look = look_now(sensor_s, windows, detections, time.monotonic() - began)
            taken.append(yardstick.beside(look))
            on_progress(number + 1, total)
    return SoakReport(streams, tuple(taken), silent, sum(camera.losses() for camera in cameras))


class Yardstick:
    """A piece of work that is always the same, with nothing of what is watched in it: some convolutions.

    Laid on between windows, again and again, it tells what the machine makes of the same work at that time.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x = torch.rand(1, YARD_CHANNELS, YARD_SIDE, YARD_SIDE, generator=generator)
        self._weight = torch.rand(YARD_CHANNELS, YARD_CHANNELS, 3, 3, generator=generator) / (9 * YARD_CHANNELS)
        self._count, self._cpu_s = 0, 0.0

    @torch.no_grad()
    def lay_on(self) -> None:
        """Do it once, and note the CPU time that it takes."""
        begun, x = time.process_time(), self._x
        for _ in range(YARD_LAYERS):
            x = F.relu(F.conv2d(x, self._weight, padding=1) - 0.5)
        self._cpu_s += time.process_time() - begun
        self._count += 1

    def beside(self, look: Look) -> Look:
        """Return a look with what this took, and without it in the rest."""
        return replace(look, cpu_s=look.cpu_s - self._cpu_s, yards=self._count, yard_cpu_s=self._cpu_s)


class SceneCamera:
    """One camera's packets without end, and its windows (`windows`, `name`)."""

    def __init__(
        self, registry: Registry, pipeline: DetectionPipeline, number: int, packet_us: int = PACKET_US
    ) -> None:
        self.name = f"camera_{number}"
        spec = pipeline.spec
        self._packets = _scene(spec.sensor_size, number, packet_us)
        self._cut = PacketWindows(
            registry, spec.window_us, max_gap_us=pipeline.max_gap_us, name=self.name, make_filler=pipeline.make_filler
        )
        self.windows = self._windows()

    def losses(self) -> int:
        """Return how much was lost on the way to the windows."""
        counts, windower = self._cut.stream.counts, self._cut.windower
        gaps = windower.gaps + windower.overflowed if windower is not None else 0
        return counts.lost_packets + counts.bad_packets + counts.duplicates + counts.losses.total + gaps

    def _windows(self) -> Iterator:  # type: ignore[type-arg]
        sequence = count()
        for turn in count():
            for packet in self._packets:
                stamp_ns = packet.stamp_ns + turn * LOOP_US * 1000
                yield from self._cut.push(replace(packet, seq=next(sequence), stamp_ns=stamp_ns))


def awake(detector: Detector, registry: Registry, windows: int) -> Detector:
    """Return the detector with its norms fitted to the first windows of a scene, so that every layer fires, and with
    boxes of any score.

    Raises:
        AssertionError: if a layer stays silent.
    """
    spec = detector.spec
    options = {**spec.head.options, "score_threshold": 0.0, "max_detections": 10, "top_k": 20}
    head = replace(spec.head, options={name: options[name] for name in spec.head.options})
    made = Detector(replace(spec, head=head), registry).eval()
    made.load_state_dict(detector.state_dict())
    cut = PacketWindows(registry, spec.window_us, max_gap_us=None)
    found = (window for packet in _scene(spec.sensor_size, 0, PACKET_US) for window in cut.push(packet))
    inputs = [made.represent(window) for window in islice(found, windows)]
    wake(made, inputs)
    return made


@lru_cache(maxsize=1)  # the first camera shows what woke the model
def _scene(size: SensorSize, seed: int, packet_us: int) -> list[Packet]:
    """Return the packets of a scene that fills a turn of the clock."""
    return list(packetize(MovingShapes(size, LOOP_US, seed=seed, pause=None), size, interval_us=packet_us))


def look_now(sensor_s: float, windows: int, detections: int, wall_s: float) -> Look:
    """Return how things stand in this process now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(
        sensor_s=sensor_s,
        windows=windows,
        detections=detections,
        resident_mib=pages * os.sysconf("SC_PAGE_SIZE") / _MIB,
        threads=threading.active_count(),
        files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        cpu_s=time.process_time(),
        wall_s=wall_s,
    )


def _quarters(values: list[float]) -> tuple[list[float], list[float]]:
    """Return the first and the last quarter of values, one at least."""
    most = max(1, len(values) // 4)
    return values[:most], values[-most:]


def _change(costs: list[float]) -> float:
    """Return the change of the median from the first quarter to the last, as a share."""
    first, last = _quarters(costs)
    return statistics.median(last) / statistics.median(first) - 1
