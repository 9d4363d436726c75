"""A journal run again offline: the windows of the recordings, with the decisions that were made live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from snn_perception.errors import EventDataError, SnnPerceptionError
from snn_perception.runtime.journal import FORMAT, Entry, windows_in
from snn_perception.runtime.pipeline import DetectionPipeline
from snn_perception.runtime.rates import Part, camera_of, stream_name
from snn_perception.runtime.serving import SETTINGS, Serving
from snn_perception.runtime.stream import CarriedGaps, StreamState
from snn_perception.spec import ModelSpec
from snn_perception.types import Detections, EventWindow, Window


@dataclass(frozen=True)
class Repeated:
    """One window that was run: whose it is, and what is seen in it."""

    camera: str
    window: Window
    detections: Detections


@dataclass(frozen=True)
class Sources:
    """Where what a journal names is found.

    Attributes:
        windows: of each camera, in order, dropped ones too, cut as they were live; as parts where detections came more
            often than windows.
        model: the pipeline of a model that took over, by the name in the journal.
        state: the saved state of a file that was loaded, by the name in the journal, for the model in use.
    """

    windows: Mapping[str, Iterable[Window | Part]]
    model: Callable[[str], DetectionPipeline]
    state: Callable[[str, ModelSpec], StreamState]


def repeat(entries: Iterable[Entry], pipeline: DetectionPipeline, sources: Sources) -> Iterator[Repeated]:
    """Yield what the live run published, window by window, number for number.

    Args:
        pipeline: of the model that the run began with; its settings are set as they were.

    Raises:
        EventDataError: if the recordings do not hold what the run saw, or the journal is of another model.
        SnnPerceptionError: if a new model did not take over where it did live.
    """
    entries = iter(entries)
    head = next(entries, None)
    if head is None:
        return
    _prepare(head, pipeline)
    windows = {camera: _Windows(iter(found)) for camera, found in sources.windows.items()}
    decided: list[Entry] = []  # since the last window
    serving = Serving(pipeline, decided.append)
    for entry, then in _with_next(entries):
        if entry.kind in ("window", "batch"):
            rows = [(row.camera, _next_window(row, windows)) for row in windows_in(entry)]
            if entry.kind == "batch":
                seen = serving.batch(rows)
            else:
                seen = [serving.window(*rows[0], steps=entry.values.get("steps"))]
            decided.clear()
            if not _gives_up(then):
                for stream, window in rows:
                    serving.follow(stream, window)
            for (stream, window), found in zip(rows, seen, strict=True):
                yield Repeated(camera_of(stream), window, found)
        elif entry.kind == "peek":
            window, at_us = _next_window(entry, windows), entry.values["at_us"]
            found = serving.peek(entry.camera, window, at_us, steps=entry.values.get("steps"))
            yield Repeated(camera_of(entry.camera), window, found)
        elif entry.kind == "catch_up":
            window = _next_window(entry, windows)
            serving.catch_up(entry.camera, window)
            decided.clear()
            if not _gives_up(then):
                serving.follow(entry.camera, window)
        elif _gives_up(entry):
            serving.give_up()
        elif entry.kind == "swap":
            _check_swap(entry, decided)
        else:
            if entry.kind == "failed":
                _next_window(entry, windows)
            _decide(entry, serving, sources)


@dataclass(frozen=True)
class _Windows:
    """One camera's windows that are still to come, and which interruptions lie before them."""

    left: Iterator[Window | Part]
    gaps: CarriedGaps = field(default_factory=CarriedGaps)


def _with_next(entries: Iterator[Entry]) -> Iterator[tuple[Entry, Entry | None]]:
    entry = next(entries, None)
    while entry is not None:
        then = next(entries, None)
        yield entry, then
        entry = then


def _gives_up(entry: Entry | None) -> bool:
    """Return whether a model that was to take over is given up here, for reasons that need not hold any more."""
    return entry is not None and entry.kind == "swap" and bool(entry.values.get("failed"))


def _prepare(head: Entry, pipeline: DetectionPipeline) -> None:
    values = head.values
    if head.kind != "journal" or values.get("format") != FORMAT:
        raise EventDataError(f"expected a journal of format {FORMAT}, got {head.kind} {values.get('format')}")
    if values["spec"] != pipeline.spec.hash():
        raise EventDataError(
            f"the journal is of another model: expected spec {values['spec']}, got {pipeline.spec.hash()}; "
            "give the checkpoint that the node ran"
        )
    for name in (*SETTINGS, "max_gap_us"):
        # Of a deadline, the steps that were taken are in the journal; an older one does not tell every setting.
        if name != "deadline_ms" and name in values:
            setattr(pipeline, name, values[name])
    pipeline.geometry = values["geometry"]


def _next_window(entry: Entry, windows: Mapping[str, _Windows]) -> Window:
    begin_us, end_us = entry.values["t_us"]
    wanted = (entry.camera, begin_us, end_us, entry.values.get("at_us"))
    after_gap = bool(entry.values.get("after_gap"))
    camera = camera_of(entry.camera)
    where = f"camera '{entry.camera}': window [{begin_us}, {end_us}) us of the journal"
    if camera not in windows:
        raise EventDataError(f"{where}: no recording was given for this camera")
    gaps = windows[camera].gaps
    for one in windows[camera].left:
        part = one if isinstance(one, Part) else Part(one)
        stream, is_peek = stream_name(camera, part.phase), part.peek_at_us is not None
        window = gaps.tell(stream, part.window, is_peek=is_peek)
        # The same times may come twice, where a sensor's time began anew: before and after an interruption.
        if (stream, window.t_start_us, window.t_end_us, part.peek_at_us) == wanted and window.after_gap >= after_gap:
            break
        gaps.leave_out(stream, window)
    else:
        raise EventDataError(f"{where}: is not in the recording; is it the one that was played?")
    if isinstance(window, EventWindow) and len(window.events) != entry.values.get("events"):
        raise EventDataError(
            f"{where}: had {entry.values.get('events')} events live and has {len(window.events)} in the recording: "
            "packets were lost on one of the two ways, and the run cannot be repeated from here"
        )
    return window if window.after_gap == after_gap else replace(window, after_gap=after_gap)


def _decide(entry: Entry, serving: Serving, sources: Sources) -> None:
    values: Any = entry.values
    if entry.kind == "set":
        if values["name"] not in SETTINGS:
            raise EventDataError(f"the journal changes a setting that this version has not: {values['name']!r:.40}")
        if values["name"] != "deadline_ms":  # the steps that were taken are in the journal
            serving.set(values["name"], values["value"])
    elif entry.kind in ("reset", "failed"):
        serving.reset(entry.camera)
    elif entry.kind == "load":
        serving.load(entry.camera, sources.state(values["file"], serving.pipeline.spec), values["file"])
    elif entry.kind == "shadow":
        serving.swap(sources.model(values["model"]), values["warm_us"], values["model"])


def _check_swap(entry: Entry, decided: list[Entry]) -> None:
    if entry not in decided:
        raise SnnPerceptionError(
            f"the model '{entry.values['model']}' took over here in the live run and does not now; is it another file?"
        )
