"""Where a window's time goes in the node, from a packet's bytes to its detections' being out."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message

from snn_perception.events.bag_messages import parse_message
from snn_perception.ros import camera as camera_module
from snn_perception.ros import outlet as outlet_module
from snn_perception.runtime.detection_messages import serialize_detections
from tools.node_support import RunningNode, messages

WARM_UP = 20
SOME, TRIES = 1000, 21  # stages in which nothing happens, to learn what the stopwatch itself takes
NETWORK = "network"
FEEDING, INFERRING = "feeding", "the rest"  # of the two threads, all that has no stage of its own
STAGES = (
    "decoding of packets",
    "windows and grids",
    "stamps and queue",
    "input of the network",
    NETWORK,
    "boxes and NMS",
    "message",
    "publish",
    INFERRING,
)


class Stopwatch:
    """Time of stages, each without that of the stages within it; CPU time of the thread beside wall time.

    What reading the clocks takes is measured on stages in which nothing happens, and taken off: a packet meets four.
    What it does to the code beside it is not, so that there are whole stages, too, for windows in which the others are
    left alone: those come out some percent cheaper.

    Attributes:
        only_whole: whether only those are timed.
    """

    def __init__(self) -> None:
        self.only_whole = False
        self._inner = threading.local()
        self.spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # stage -> CPU, wall seconds
        self._own = self._around = (0.0, 0.0)
        self._own, self._around = self._of_nothing()

    def _of_nothing(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return what a stage in which nothing happens has of its own, and what it adds to the one around it."""
        inner = self.around("inner", lambda: None)

        def some() -> None:
            for _ in range(SOME):
                inner()

        outer, own, around = self.around("outer", some), [], []
        for _ in range(TRIES):
            outer()
            spent = self.take()
            own.append([seconds / SOME for seconds in spent["inner"]])
            around.append([seconds / SOME for seconds in spent["outer"]])
        return tuple(map(statistics.median, zip(*own, strict=True))), tuple(  # type: ignore[return-value]
            map(statistics.median, zip(*around, strict=True))
        )

    def around(self, stage: str, function: Callable[..., Any], *, whole: bool = False) -> Callable[..., Any]:
        """Return a function that does the same and is timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            if self.only_whole and not whole:
                return function(*arguments, **options)
            with self._Span(self, stage):
                return function(*arguments, **options)

        return timed

    def over(self, stage: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Return a generator function that does the same and is timed, step by step."""

        def timed(*arguments: Any, **options: Any) -> Iterator[Any]:
            iterator = iter(function(*arguments, **options))
            if self.only_whole:
                yield from iterator
                return
            while True:
                with self._Span(self, stage):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item

        return timed

    def take(self) -> dict[str, tuple[float, float]]:
        """Return what was spent since the last call."""
        spent, self.spent = self.spent, defaultdict(lambda: [0.0, 0.0])
        return {stage: (cpu, wall) for stage, (cpu, wall) in spent.items()}

    class _Span:
        def __init__(self, watch: Stopwatch, stage: str) -> None:
            self._watch, self._stage = watch, stage

        def __enter__(self) -> None:
            inner = self._watch._inner
            self._outer = getattr(inner, "spent", None)
            inner.spent = [0.0, 0.0]
            self._begun = time.thread_time(), time.perf_counter()

        def __exit__(self, *_: object) -> None:
            cpu, wall = time.thread_time() - self._begun[0], time.perf_counter() - self._begun[1]
            inner, spent = self._watch._inner, self._watch.spent[self._stage]
            own, around = self._watch._own, self._watch._around
            for k, seconds in enumerate((cpu, wall)):
                spent[k] += seconds - inner.spent[k] - own[k]
                if self._outer is not None:
                    self._outer[k] += seconds + around[k]
            inner.spent = self._outer


@dataclass(frozen=True)
class Stages:
    """Milliseconds of each stage of a window, CPU and wall, medians; events, packets and detections of a window, means.

    Attributes:
        whole_ms: wall time from the coming of the message that closed a window to its detections' being out, median.
        share, wall_share: all but the network as a share of it, CPU and wall, by the windows in which nothing but the
            two was timed; medians.
    """

    interval_us: int
    events: float
    packets: float
    detections: float
    cpu_ms: dict[str, float]
    wall_ms: dict[str, float]
    whole_ms: float
    share: float
    wall_share: float

    def ratio(self, ms: dict[str, float]) -> float:
        """Return the other stages as a share of the network."""
        return (sum(ms.values()) - ms[NETWORK]) / ms[NETWORK]


def measure_stages(path: Path, size: Any, rate_hz: float, interval_us: int, windows: int, domain: int) -> Stages:
    """Return the stages of the node's own code on one core, fed with serialized messages, one window at a time."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with RunningNode(domain, checkpoint=str(path), overload_policy="block") as running:
            sent = messages(size, rate_hz, interval_us, (windows + WARM_UP + 1) * 50_000)
            return _fed(running, [serialize_message(msg) for msg in sent], interval_us)
    finally:
        os.sched_setaffinity(0, cores)


def _fed(running: RunningNode, sent: list[Any], interval_us: int) -> Stages:
    node, watch = running.node, Stopwatch()
    camera, published = node._cameras[""], threading.Event()
    out_s = _instrument(node, camera, watch, published)
    figures, cut, messages = camera.figures, camera.packets, iter(sent)
    apart, whole, latency, counts = [], [], [], []

    def feed() -> float:
        """Feed messages until one closes a window; return when that one came."""
        before, windows = 0.0, 0 if cut.windower is None else cut.windower.windows
        for msg in messages:
            before = time.perf_counter()
            camera._on_message(msg, 0)
            if cut.windower.windows != windows:
                break
        return before

    feed_timed = watch.around(FEEDING, feed, whole=True)
    while True:
        watch.only_whole = len(counts) % 2 == 1
        begun = feed_timed() if watch.only_whole else feed()
        if figures.published == cut.windower.windows:
            break
        while figures.published < cut.windower.windows:
            published.wait(1.0)
            published.clear()
            time.sleep(0.001)  # the inference thread goes on a little after a message is out
        (whole if watch.only_whole else apart).append(watch.take())
        latency.append(out_s[-1] - begun)
        counts.append((cut.stream.counts.events, cut.stream.counts.packets, figures.detections))
    apart, whole = apart[WARM_UP // 2 :], whole[WARM_UP // 2 :]
    first, last = counts[WARM_UP - 1], counts[-1]
    events, packets, detections = ((b - a) / (len(counts) - WARM_UP) for a, b in zip(first, last, strict=True))
    cpu, wall = ({stage: _median_ms(apart, k, stage) for stage in STAGES} for k in (0, 1))
    shares = [_median_ms(whole, k, FEEDING, INFERRING) / _median_ms(whole, k, NETWORK) for k in (0, 1)]
    whole_ms = statistics.median(latency[WARM_UP:]) * 1e3
    return Stages(interval_us, events, packets, detections, cpu, wall, whole_ms, *shares)


def _median_ms(spent: list[dict[str, tuple[float, float]]], kind: int, *stages: str) -> float:
    """Return the median of what windows spent in stages together; `kind` 0: CPU, 1: wall."""
    return statistics.median(sum(one.get(stage, (0.0, 0.0))[kind] for stage in stages) for one in spent) * 1e3


def _instrument(node: Any, camera: Any, watch: Stopwatch, published: threading.Event) -> list[float]:
    """Time the stages of a running node; returns a list of when messages were out."""
    around, out_s = watch.around, []
    camera._on_message = around("stamps and queue", camera._on_message)
    camera_module.parse_message = around("decoding of packets", parse_message)
    camera.packets.stream.decode = around("decoding of packets", camera.packets.stream.decode)
    camera.packets.push = watch.over("windows and grids", camera.packets.push)
    node._worker.do = around(INFERRING, node._worker.do, whole=True)
    pipeline = node._model.pipeline
    pipeline._inputs.of = around("input of the network", pipeline._inputs.of)
    pipeline.detector.forward = around(NETWORK, pipeline.detector.forward, whole=True)
    pipeline.detector.decode = around("boxes and NMS", pipeline.detector.decode)
    outlet_module.serialize_detections = around("message", serialize_detections)
    publisher = node._outlet._detections[""]
    publish = around("publish", publisher.publish)

    def published_now(msg: Any) -> None:
        publish(msg)
        out_s.append(time.perf_counter())
        published.set()

    publisher.publish = published_now
    return out_s
