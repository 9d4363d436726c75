"""The check of a data set; `snn_perception.testing` says what checks are for."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np

from snn_perception.data.dataset import Dataset, LabelledRecording
from snn_perception.data.labels import Labels
from snn_perception.errors import EventDataError
from snn_perception.registry import Registry


def check_dataset(
    make: Callable[..., Any], root: str | Path, split: str = "train", *, registry: Registry | None = None
) -> Dataset:
    """Assert the contract of a data set and return the one made.

    Args:
        make: ``make(root, split, **options)``: the factory, or ``functools.partial(registry.build, "dataset", name)``.
        root: a small tree on disk in which `split` has at least two recordings; it may hold a faulty one too.
        registry: with it every recording is also opened and its events are compared with its size and piece.

    Raises:
        AssertionError: saying which part of the contract is broken.
    """
    dataset = make(root, split)
    assert isinstance(dataset, Dataset), f"a data set's factory must return a Dataset, got {type(dataset).__name__}"
    names = [recording.name for recording in dataset]
    assert len(names) >= 2, f"a check needs two recordings or more in the split, got {len(names)}"
    assert len(set(names)) == len(names), f"the names of recordings must be unique, got {names}"
    assert dataset.split == split, f"the split must be the one asked for, {split!r}, got {dataset.split!r}"
    assert dataset.report.found == len(dataset), f"the report must count {len(names)}, got {dataset.report.found}"
    assert str(root) in dataset.report.looked_in, f"the report must say where it looked, got {dataset.report.looked_in}"
    _check_options(make, root, split, names)
    _check_refusals(make, Path(root), split)
    for recording, copy in zip(dataset, _sent(dataset), strict=True):
        _check_recording(dataset, recording, copy)
        if recording.is_image:
            _check_image(recording)
        elif registry is not None and not recording.is_sequence and not recording.faults:
            _check_events(recording, registry)
    return dataset


def _sent(dataset: Dataset) -> Dataset:
    """Return the data set as a worker process would receive it."""
    try:
        copy: Dataset = ForkingPickler.loads(ForkingPickler.dumps(dataset))  # what multiprocessing does
    except Exception as error:
        what = (
            "recordings must travel to worker processes, so label sources are functions of a module or partials of one"
        )
        raise AssertionError(f"{what}: {error}") from error
    return copy


def _check_options(make: Callable[..., Any], root: str | Path, split: str, names: list[str]) -> None:
    again = [recording.name for recording in make(root, split)]
    assert again == names, f"the same folder must give the same order, got {names} and {again}"
    few = [recording.name for recording in make(root, split, limit=1)]
    assert few == names[:1], f"limit=1 must give the first recording, {names[:1]}, got {few}"
    with_faulty = [recording.name for recording in make(root, split, skip_faulty=False)]
    assert set(names) <= set(with_faulty), "skip_faulty=False must leave nothing out that skip_faulty=True keeps"


def _check_refusals(make: Callable[..., Any], root: Path, split: str) -> None:
    try:
        make(root / "no_such_folder", split)
    except EventDataError as error:
        assert "no_such_folder" in str(error), f"the error must name the folder, got {error}"
    else:
        raise AssertionError("a root that is no folder must be an EventDataError")


def _check_recording(dataset: Dataset, recording: LabelledRecording, copy: LabelledRecording) -> None:
    where = f"recording '{recording.name}'"
    labels = recording.labels()
    assert _same(labels, copy.labels()), f"{where}: a pickled copy must give the same labels"
    assert np.all(labels.t_us[1:] >= labels.t_us[:-1]), f"{where}: labels must be in time order"
    classes = range(len(dataset.classes))
    assert all(int(number) in classes for number in labels.class_id), f"{where}: a label's class must be in {classes}"
    if dataset.is_classification:
        assert recording.class_id in classes, (
            f"{where}: a sample's class must be in {classes}, got {recording.class_id}"
        )
        assert not len(labels), f"{where}: a sample has a class and no boxes, got {len(labels)}"
    else:
        assert recording.class_id is None, f"{where}: a recording with boxes has no class, got {recording.class_id}"
    if dataset.size is not None:
        assert recording.size == dataset.size, f"{where}: must be of the set's {dataset.size}, got {recording.size}"


def _check_image(recording: LabelledRecording) -> None:
    where, image = f"image '{recording.name}'", recording.image()
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, (
        f"{where}: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
    )
    if recording.size is not None:
        stated = (recording.size.height, recording.size.width)
        assert image.shape[:2] == stated, f"{where}: must be of the stated {stated}, got {image.shape[:2]}"


def _check_events(recording: LabelledRecording, registry: Registry) -> None:
    where = f"recording '{recording.name}'"
    events = recording.events(registry).validate()
    if recording.size is not None:
        assert events.size == recording.size, f"{where}: events must be of {recording.size}, got {events.size}"
    if len(events):
        first, last = int(events.t[0]), int(events.t[-1])
        start, end = recording.piece.t_start_us, recording.piece.t_end_us
        inside = (start is None or first >= start) and (end is None or last < end)
        assert inside, f"{where}: events must lie in [{start}, {end}) us, got {first} to {last}"


def _same(a: Labels, b: Labels) -> bool:
    columns = ("t_us", "xywh", "class_id", "track_id", "confidence")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)
