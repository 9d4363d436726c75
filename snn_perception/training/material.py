"""What a run works on: its data, how a step goes over them, and how the model is judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snn_perception.data.dataset import Dataset, open_dataset
from snn_perception.data.stored import StoredWindows
from snn_perception.detector import Detector
from snn_perception.errors import EventDataError, SpecError
from snn_perception.evaluation.classification import SampleReader
from snn_perception.registry import Registry
from snn_perception.training.classification import Samples, SampleSteps, accuracy
from snn_perception.training.config import DataConfig, RunConfig
from snn_perception.training.distributed import Ranks
from snn_perception.training.engine import Engine
from snn_perception.training.feed import Feed
from snn_perception.training.images import ImageFeed, RandomImages, boxes_to_find
from snn_perception.training.placement import check_placing
from snn_perception.training.sources import Lanes, RandomWindows
from snn_perception.training.steps import Recurrence
from snn_perception.training.survey import survey
from snn_perception.training.validation import Validator, detection_validator
from snn_perception.work.in_order import reading_threads

MakeSteps = Callable[[Detector, Engine], Any]


@dataclass(frozen=True, eq=False)
class Material:
    """Data and measure of a run.

    Attributes:
        source: of batches. make_steps: returns what runs them (`steps.Recurrence` or the like) for a model in training.
        validator: judges a model; None if nothing is validated.
        recordings, val_recordings: in use. labelled: windows with labels, or samples.
        description: of the data, for the record in checkpoints.
        fingerprint: 16 hex digits over what is trained and validated on, whatever the folder.
    """

    source: Any
    make_steps: MakeSteps
    validator: Validator | None
    recordings: int
    val_recordings: int
    labelled: int
    description: dict[str, Any]
    fingerprint: str


def gather_material(config: RunConfig, detector: Detector, registry: Registry, ranks: Ranks) -> Material:
    """Return what a run works on.

    Raises:
        SnnPerceptionError: if data are missing, hold no labels, or do not fit the model.
    """
    data = config.data
    if config.train.mode != "classification":
        data.rule.check_policy(detector.spec.state_policy)
    elif not data.rule.is_grid or config.train.augment.placing != "none":
        raise SpecError(
            f"train.mode: classification runs whole samples on the grid; data.windows: {data.windows} and "
            f"augment.placing: {config.train.augment.placing} do not fit, leave them as they are by default"
        )
    check_placing(config.train.augment, detector.representation, detector.spec.representation.name)
    train = _open(data, data.train, data.train_split, data.limit, registry)
    _check_fit(train, detector, config)
    val = None
    if config.eval.every_epochs:
        val = _open_val(data, registry)
        _check_fit(val, detector, config)
        if not val.is_classification and not val.holds_images:
            survey(val, detector.spec.window_us, data.rule)  # told now and not after the first pass
    gathered = _samples if config.train.mode == "classification" else _images if train.holds_images else _windows
    return gathered(config, detector, registry, ranks, train, val)


def _windows(
    config: RunConfig, detector: Detector, registry: Registry, ranks: Ranks, train: Dataset, val: Dataset | None
) -> Material:
    data = survey(train, detector.spec.window_us, config.data.rule)
    seed, rows = config.train.seed, config.train.lanes
    feed = Feed(data, detector, registry, augment=config.train.augment, seed=seed)
    kind = Lanes if config.train.mode == "lanes" else RandomWindows
    return Material(
        source=kind(feed, rows=rows, own=ranks.own_rows(rows), seed=seed),
        make_steps=lambda model, engine: Recurrence(model, engine, config.train, feed.head_size),
        validator=detection_validator(val, registry, config, ranks) if val is not None else None,
        recordings=len(data.recordings),
        val_recordings=len(val) if val is not None else 0,
        labelled=sum(map(len, data.labelled)),
        description=_describe(config.data, train, val),
        fingerprint=_fingerprint(
            [[r.name, k.tolist()] for r, k in zip(data.recordings, data.labelled, strict=True)], val
        ),
    )


def _images(
    config: RunConfig, detector: Detector, registry: Registry, ranks: Ranks, train: Dataset, val: Dataset | None
) -> Material:
    seed, rows = config.train.seed, config.train.lanes
    threads = reading_threads() if config.train.prefetch else 1
    feed = ImageFeed(train, detector, registry, config.train.images, epochs=config.train.epochs, seed=seed)
    labels = [[image.name, boxes_to_find(image).class_id.tolist()] for image in train]
    if not any(class_ids for _, class_ids in labels):
        raise SpecError(f"data set '{train.name}': none of its {len(train)} images has a box that counts")
    return Material(
        source=RandomImages(feed, rows=rows, own=ranks.own_rows(rows), seed=seed, threads=threads),
        make_steps=lambda model, engine: Recurrence(model, engine, config.train, feed.head_size),
        validator=detection_validator(val, registry, config, ranks) if val is not None else None,
        recordings=len(train),
        val_recordings=len(val) if val is not None else 0,
        labelled=sum(bool(class_ids) for _, class_ids in labels),
        description=_describe(config.data, train, val),
        fingerprint=_fingerprint(labels, val),
    )


def _samples(
    config: RunConfig, detector: Detector, registry: Registry, ranks: Ranks, train: Dataset, val: Dataset | None
) -> Material:
    seed, rows = config.train.seed, config.train.lanes
    validator = None
    if val is not None:
        reader = SampleReader(val, detector, registry)
        validator = Validator("accuracy", lambda model: accuracy(model, reader, ranks))
    return Material(
        source=Samples(train, detector, registry, config.train.augment, rows=rows, own=ranks.own_rows(rows), seed=seed),
        make_steps=SampleSteps,
        validator=validator,
        recordings=len(train),
        val_recordings=len(val) if val is not None else 0,
        labelled=len(train),
        description=_describe(config.data, train, val),
        fingerprint=_fingerprint([[sample.name, sample.class_id] for sample in train], val),
    )


def _open(
    data: DataConfig, text: str, split: str, limit: int | None, registry: Registry, *, filtered: bool = True
) -> Dataset:
    if not text:
        raise SpecError("data.train: expected a data set such as gen1:PATH, got nothing; give --data")
    options = dict(data.options)
    if limit is not None:
        options["limit"] = limit
    if filtered and data.filter != "none":
        options["filter"] = data.filter  # the protocol filters what is validated on
    return open_dataset(text, split, registry, **options)


def _open_val(data: DataConfig, registry: Registry) -> Dataset:
    try:
        return _open(data, data.val or data.train, data.val_split, data.val_limit, registry, filtered=False)
    except EventDataError as error:
        raise EventDataError(
            f"{error}; to validate on other data: --set data.val=NAME:PATH or data.val_split=SPLIT; not to validate: "
            "--set eval.every_epochs=0"
        ) from error


def _check_fit(dataset: Dataset, detector: Detector, config: RunConfig) -> None:
    spec = detector.spec
    if dataset.is_classification != (config.train.mode == "classification"):
        holds = "samples with a class" if dataset.is_classification else "recordings with labelled boxes"
        raise SpecError(f"train.mode: {config.train.mode} does not fit data set '{dataset.name}', which holds {holds}")
    if dataset.classes != spec.classes:
        raise SpecError(
            f"data set '{dataset.name}' has classes {list(dataset.classes)}, the model {list(spec.classes)}; "
            f"set model.options.classes to those of the data"
        )
    carries = spec.state_policy == "carry"
    _check_sequences(dataset, detector, config)
    _check_images(dataset, config)
    if config.train.mode != "classification" and (config.train.mode == "lanes") != carries:
        wanted = "lanes" if carries else "windows"
        other = "per_window" if carries else "carry"
        raise SpecError(
            f"train.mode: {config.train.mode} does not fit a model whose state_policy is {spec.state_policy}; use "
            f"{wanted}, or train it as {other} with --set model.overrides.state_policy={other}"
        )


def _check_sequences(dataset: Dataset, detector: Detector, config: RunConfig) -> None:
    """Raise where a set holds histograms, and the model or the settings need events."""
    first = next((recording for recording in dataset if recording.is_sequence), None)
    if first is None:
        return
    StoredWindows(first.sequence(), detector.representation, detector.spec)
    rule, changes = config.data.rule, config.train.augment.changes_events
    if rule.is_whole or rule.lookback or changes:
        setting = "train.augment: flip, zoom and the like" if changes else "data.windows, data.lookback"
        raise SpecError(
            f"{first.path}: holds histograms, in which no event can be moved or looked for: {setting} have to stay as "
            "they are by default; augment.placing works on histograms too"
        )


def _check_images(dataset: Dataset, config: RunConfig) -> None:
    """Raise where a set holds images, and the settings are about events."""
    if not dataset.holds_images:
        if not config.train.images.is_off:
            raise SpecError(f"train.images: is about images, and data set '{dataset.name}' holds events")
        return
    if config.train.mode != "windows":
        raise SpecError(
            f"train.mode: {config.train.mode} does not fit images, which are windows of their own; use windows"
        )
    if not config.data.rule.is_grid or not config.train.augment.is_off:
        raise SpecError(
            f"data set '{dataset.name}' holds images: data.windows and train.augment are about events and have to stay "
            "as they are by default; train.images changes images"
        )


def _fingerprint(trained_on: list[Any], val: Dataset | None) -> str:
    validated_on = [recording.name for recording in val] if val is not None else []
    return hashlib.sha256(json.dumps([trained_on, validated_on]).encode()).hexdigest()[:16]


def _describe(data: DataConfig, train: Dataset, val: Dataset | None) -> dict[str, Any]:
    from snn_perception.data.provenance import synthetic_version

    name, _, path = data.train.partition(":")
    return {
        "data_set": synthetic_version(path) or name,
        "train_split": data.train_split,
        "train_recordings": len(train),
        "val_split": data.val_split if val is not None else None,
        "val_recordings": len(val) if val is not None else 0,
    }
