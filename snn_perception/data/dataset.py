"""A labelled set of recordings: what is there, what is missing, and how each recording opens.

A data set is a plugin (hook ``snn_datasets``) that finds recordings; opening and reading one is the same for all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.data.dataset_report import LINES, DatasetReport
from snn_perception.data.label_filters import (
    FILTERS,
    LabelFilter,
    downsample_labels,
    filter_labels,
    select_classes,
    thin_labels,
)
from snn_perception.data.labels import Labels
from snn_perception.data.pieces import Piece, PieceRecording, read_events
from snn_perception.errors import EventDataError, PluginError
from snn_perception.events.recording import Recording, open_recording
from snn_perception.registry import Registry
from snn_perception.types import U8, EventArray, SensorSize

if TYPE_CHECKING:
    from snn_perception.data.rvt import RvtSequence

# Reads the labels of one recording as its files have them, with notes for a person. A function of a module or a
# `functools.partial` of one, so that recordings can travel to worker processes.
LabelSource = Callable[[], tuple[Labels, tuple[str, ...]]]


@dataclass(frozen=True)
class LabelRules:
    """What a data set makes of the labels in its files, in this order.

    Attributes:
        classes: (number in the file, our number); others are dropped. None keeps all as they are.
        every_us: at most one label time in each interval of this length (`thin_labels`); None keeps all.
        downsample: the boxes shrink by this factor and are cut to the image (`downsample_labels`).
        filter: which boxes stay, judged at the size they then have.
    """

    classes: tuple[tuple[int, int], ...] | None = None
    every_us: int | None = None
    downsample: int = 1
    filter: LabelFilter = FILTERS["none"]

    def apply(self, labels: Labels, sensor: SensorSize | None) -> Labels:
        """Return the labels that count.

        Args:
            sensor: size of the image that the files' boxes are in; needed to downsample and by some filters.
        """
        if self.classes is not None:
            labels = select_classes(labels, dict(self.classes))
        if self.every_us is not None:
            labels = thin_labels(labels, self.every_us)
        if self.downsample != 1:
            if sensor is None:
                raise EventDataError("boxes can be downsampled only where the size of the image is known")
            labels = downsample_labels(labels, self.downsample, sensor)
            sensor = SensorSize(sensor.height // self.downsample, sensor.width // self.downsample)
        return filter_labels(labels, self.filter, sensor)


@dataclass(frozen=True, eq=False)
class LabelledRecording:
    """One recording of a data set, or a piece of one, not opened yet.

    Attributes:
        name: unique in the data set.
        path: of the events, or of an RVT-preprocessed sequence.
        reader, reader_options: event reader that opens it and its options; None finds the reader.
        sensor_size: of the whole recording; None where only opening it tells.
        label_source: reads its labels; None for classification, and where there are none.
        labels_path: where they come from, for people.
        rules: what becomes of the labels.
        class_id: of a classification sample; None for detection.
        piece: which part of the recording it is.
        is_sequence: it holds RVT's representations in place of events, of `size` already: `sequence` opens it.
        is_image: it is one image of an ordinary camera, with its labels at time 0: `image` reads it.
        faults: what is known to be wrong with its files.
    """

    name: str
    path: Path
    reader: str | None = None
    reader_options: Mapping[str, Any] = field(default_factory=dict)
    sensor_size: SensorSize | None = None
    label_source: LabelSource | None = None
    labels_path: Path | None = None
    rules: LabelRules = field(default_factory=LabelRules)
    class_id: int | None = None
    piece: Piece = field(default_factory=Piece)
    is_sequence: bool = False
    is_image: bool = False
    faults: tuple[str, ...] = ()

    @property
    def size(self) -> SensorSize | None:
        """Size of the image that events and labels are given in; None where only opening it tells."""
        return self.piece.size_of(self.sensor_size) if self.sensor_size is not None else None

    def open(self, registry: Registry) -> Recording:
        """Return the events as a recording, cut and shrunk as `piece` says.

        Raises:
            EventDataError: if the file cannot be read, holds representations, or states another sensor size than the
                data set has. One that states none is of the data set's size.
        """
        if self.is_sequence:
            raise EventDataError(f"{self.path}: holds representations, not events; read it as a sequence")
        if self.is_image:
            raise EventDataError(f"{self.path}: is an image and holds no events; use a model for images")
        whole = open_recording(self.path, registry, reader=self.reader, **self.reader_options)
        if self.sensor_size is not None:
            whole = self._of_size(whole, self.sensor_size, registry)
        return whole if self.piece.is_whole else PieceRecording(whole, self.piece)

    def _of_size(self, whole: Recording, size: SensorSize, registry: Registry) -> Recording:
        if getattr(whole, "size_inferred", False):  # asking first: the size itself would cost a pass over the file
            options = {**self.reader_options, "size": (size.height, size.width)}
            whole = open_recording(self.path, registry, reader=self.reader, **options)
        if whole.size != size:
            raise EventDataError(f"{self.path}: expected {size} px, as its data set has, got {whole.size}; wrong set?")
        return whole

    def events(self, registry: Registry) -> EventArray:
        """Return all events in memory: meant for classification samples; a minute of driving takes about 0.5 GB."""
        return read_events(self.open(registry))

    def sequence(self) -> RvtSequence:
        """Return the representations of an RVT-preprocessed sequence.

        Raises:
            EventDataError: if it holds events, cannot be read, or is of another size than the data set has.
        """
        if not self.is_sequence:
            raise EventDataError(f"{self.path}: holds events, not representations; open it as a recording")
        from snn_perception.data.rvt import RvtSequence

        sequence = RvtSequence(self.path)
        if self.size is not None and sequence.size != self.size:
            raise EventDataError(
                f"{self.path}: expected histograms of {self.size} px, as its set has, got {sequence.size}; wrong set?"
            )
        return sequence

    def image(self) -> U8:
        """Return the image, uint8 [H, W, 3], red first.

        Raises:
            EventDataError: if it holds events, cannot be read, or is not of the size that its data set states.
        """
        if not self.is_image:
            raise EventDataError(f"{self.path}: is no image; use a model for events")
        from snn_perception.data.images import read_image

        return read_image(self.path, self.sensor_size)

    def labels(self) -> Labels:
        """Return the labels that count, in time order; none for classification. Raises EventDataError if damaged."""
        return self.labels_and_notes()[0]

    def labels_and_notes(self) -> tuple[Labels, tuple[str, ...]]:
        """Return the labels that count, and what was dropped or assumed in reading them."""
        if self.label_source is None:
            return Labels.empty(), ()
        labels, notes = self.label_source()
        return self.rules.apply(labels, self.sensor_size), notes


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Attributes:
        name, split: as asked for.
        classes: names in the order of the class numbers.
        size: of every recording's image; None where recordings differ.
        recordings: in a fixed order, the same on every machine.
        report: what was found and what was not.
        is_classification: every recording is one sample with a class, without boxes.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    size: SensorSize | None
    recordings: tuple[LabelledRecording, ...]
    report: DatasetReport
    is_classification: bool = False

    def __iter__(self) -> Iterator[LabelledRecording]:
        return iter(self.recordings)

    @property
    def holds_images(self) -> bool:
        """Whether its recordings are images, of which none holds events."""
        return bool(self.recordings) and self.recordings[0].is_image

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> LabelledRecording:
        return self.recordings[index]


@dataclass(frozen=True)
class Chosen:
    """Recordings that are used, and why others are not; see `choose_recordings`."""

    recordings: tuple[LabelledRecording, ...]
    faulty: tuple[str, ...]
    left_out: tuple[str, ...]


def choose_recordings(
    candidates: Iterable[LabelledRecording],
    faults_of: Callable[[LabelledRecording], tuple[str, ...]],
    *,
    limit: int | None,
    skip_faulty: bool,
) -> Chosen:
    """Return the first `limit` recordings, without the faulty ones or with their faults noted in them.

    Files are looked at until `limit` recordings are found, and no further.

    Args:
        faults_of: looks at the first bytes of a recording's files.

    Raises:
        EventDataError: for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise EventDataError(f"a data set's limit must be at least 1 recording, got {limit}")
    chosen: list[LabelledRecording] = []
    faulty: list[str] = []
    unseen = 0
    for recording in candidates:
        if limit is not None and len(chosen) == limit:
            unseen += 1
            continue
        faults = faults_of(recording)
        faulty += faults
        if faults and skip_faulty:
            continue
        chosen.append(replace(recording, faults=faults))
    left_out = (f"{unseen} beyond the limit of {limit}",) if unseen else ()
    return Chosen(tuple(chosen), tuple(faulty), left_out)


def open_dataset(text: str, split: str, registry: Registry, **options: object) -> Dataset:
    """Return one split of the data set ``NAME:PATH``, such as ``gen1:/data/gen1``.

    Args:
        split: its name; several joined by ``+`` come one after the other, as in ``train+val``.
        options: those of the data set, such as `limit`, `filter` and `skip_faulty`.

    Raises:
        EventDataError: for text of another form, no such folder, or a split in which nothing was found; it says what
            was looked for and where.
        PluginError: for an unknown data set or option.
    """
    name, path = _name_and_path(text, registry)
    parts: list[Dataset] = []
    for one in split.split("+"):
        dataset = registry.build("dataset", name, path, one, **options)
        if not isinstance(dataset, Dataset):
            raise PluginError(f"{registry.find('dataset', name)}: expected a Dataset, got {type(dataset).__name__}")
        if not len(dataset):
            raise EventDataError(f"{text}: nothing to use in split '{one}'; {dataset.report.line()}")
        parts.append(dataset)
    return parts[0] if len(parts) == 1 else _joined(parts, split)


def _joined(parts: Sequence[Dataset], split: str) -> Dataset:
    """Return several splits as one; a name that comes twice gets its split before it."""
    seen: set[str] = set()
    recordings = []
    for part in parts:
        for recording in part:
            twice = recording.name in seen
            recordings.append(replace(recording, name=f"{part.split}/{recording.name}") if twice else recording)
            seen.add(recording.name)
    reports = [part.report for part in parts]
    report = DatasetReport(
        "; ".join(report.looked_in for report in reports),
        found=sum(report.found for report in reports),
        **{name: tuple(line for one in reports for line in getattr(one, name)) for name in LINES},
    )
    sizes = {part.size for part in parts}
    return replace(
        parts[0],
        split=split,
        recordings=tuple(recordings),
        report=report,
        size=sizes.pop() if len(sizes) == 1 else None,
    )


def _name_and_path(text: str, registry: Registry) -> tuple[str, Path]:
    known = registry.names("dataset")
    every = {f"{entry.plugin}:{entry.component.name}" for entry in registry.entries("dataset")} | set(known)
    name = max((name for name in every if text.startswith(f"{name}:")), key=len, default=None)
    if name is not None and len(text) > len(name) + 1:
        return name, Path(text[len(name) + 1 :]).expanduser()
    asked, colon, _ = text.partition(":")
    if not colon or asked in known or not asked:
        raise EventDataError(f"{text!r}: expected NAME:PATH, such as {known[0] if known else 'name'}:folder")
    close = difflib.get_close_matches(asked, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise PluginError(f"unknown dataset '{asked}' in {text!r}; datasets: {', '.join(known) or 'none'}{hint}")
