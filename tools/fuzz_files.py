"""Damaged files of every format: what reads them, and what must hold of what comes.

`FileInputs` writes one file after the other under one name in a temporary folder (in memory, where tools/fuzz_watch.py
finds one), and reads it as a user's command would. See tools/fuzz.py.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from weakref import finalize

import numpy as np

from snn_perception.data.labels import Labels, count_labels, read_labels
from snn_perception.data.rvt import RvtSequence
from snn_perception.errors import EventDataError
from snn_perception.events import hdf5_codecs
from snn_perception.events.atis_bin import AtisBinRecording, outline_box, read_ncaltech_annotation
from snn_perception.events.dat import DatRecording
from snn_perception.events.hdf5 import Hdf5Recording
from snn_perception.events.raw import RawRecording
from snn_perception.events.recording import CHUNK_EVENTS, Recording
from snn_perception.events.rosbag2 import BagRecording
from snn_perception.types import DecodedEvents, Losses
from tools import fuzz_corpus as corpus
from tools import fuzz_packets
from tools.fuzz_damage import Sample, damage
from tools.fuzz_watch import Inputs, check_message

Found = tuple[int, bool]  # how much was read, and whether a loss was told


# --- reading --------------------------------------------------------------------------------------------------------


def read(path: Path, *, max_events: int = 64, seeks: bool = True) -> Found:
    """Return how many events, messages or labels a file gives, and whether it tells of losses; check what must hold.

    Args:
        max_events: read at a time. seeks: read it again from the middle on.

    Raises:
        EventDataError: if the file is refused.
        AssertionError: for what must not be.
    """
    if path.is_dir() or path.suffix in (".db3", ".mcap"):
        return _read_bag(path)
    return _READERS[path.suffix](path, max_events, seeks)


def _read_dat(path: Path, max_events: int, seeks: bool) -> Found:
    recording = DatRecording(path)
    count, losses, times = _read_events(recording, recording.chunks(max_events))
    held = (path.stat().st_size - recording.header.data_offset) // 8
    assert count + losses.outside == held, "an event is neither there nor counted"
    _seek(recording, max_events, times if seeks else [], count)
    return count, bool(recording.notes or losses.total)


def _read_raw(path: Path, max_events: int, seeks: bool) -> Found:
    recording = RawRecording(path)
    count, losses, times = _read_events(recording, recording.chunks(max_events, align_us=1_000))
    done, total = recording.progress()
    assert done == total == path.stat().st_size, "not read to the end"
    _seek(recording, max_events, times if seeks else [], count)
    return count, bool(recording.notes or losses.total)


def _read_columns(path: Path, max_events: int, seeks: bool) -> Found:
    """Read HDF5 up to its first damaged chunk, or ATIS .bin."""
    recording: Recording = (AtisBinRecording if path.suffix == ".bin" else Hdf5Recording)(path)
    damages: list[EventDataError] = []
    count, losses, times = _read_events(recording, _to_damage(recording.chunks(max_events, align_us=1_000), damages))
    assert not times or min(times) >= 0, "negative times"
    if damages:
        return count, True
    done, total = recording.progress()
    assert done == total, "not read to the end"
    if times and seeks:
        tail = sum(len(chunk) for chunk in recording.chunks(max_events, start_us=times[len(times) // 2]))
        assert tail <= count and (tail or times != sorted(times)), "a seek gives what is not there, or nothing"
    return count, bool(recording.notes or losses.total)  # type: ignore[attr-defined]


def _to_damage(chunks: Iterator[DecodedEvents], damages: list[EventDataError]) -> Iterator[DecodedEvents]:
    """Yield the chunks up to one that cannot be decoded, which goes to `damages`; other errors come through."""
    try:
        yield from chunks
    except EventDataError as error:
        if "cannot be decoded" not in str(error):
            raise
        damages.append(error)


def _read_events(recording: Recording, chunks: Iterator[DecodedEvents]) -> tuple[int, Losses, list[int]]:
    """Return the number of events, losses, and the last time of each chunk; check every event."""
    count, losses, times = 0, Losses(), []
    for chunk in chunks:
        _check_chunk(recording, chunk)
        count, losses = count + len(chunk), losses + chunk.losses
        times += chunk.t[-1:].tolist()
    return count, losses, times


def _check_chunk(recording: Recording, chunk: DecodedEvents) -> None:
    n = len(chunk)
    assert chunk.x.shape == chunk.y.shape == chunk.p.shape == chunk.t.shape == (n,) and chunk.t.dtype == np.int64
    if n:
        assert int(chunk.x.max()) < recording.size.width and int(chunk.y.max()) < recording.size.height, "outside"
        assert int(chunk.p.max()) < 2, "a polarity that is none"
        assert not chunk.in_order or bool((chunk.t[1:] >= chunk.t[:-1]).all()), "out of order, and not told"
    losses = chunk.losses
    assert min(losses.outside, losses.unknown, losses.unsynced, losses.ragged) >= 0, "negative losses"


def _seek(recording: Recording, max_events: int, times: list[int], count: int) -> None:
    """Read from the middle on: the tail of what has just been read."""
    if times:
        tail = sum(len(chunk) for chunk in recording.chunks(max_events, start_us=times[len(times) // 2]))
        assert 0 < tail <= count, "a seek gives what is not there, or nothing"


def _read_bag(path: Path) -> Found:
    recording = BagRecording(path)
    decoder = fuzz_packets.DECODERS[recording.encoding]() if recording.encoding in fuzz_packets.DECODERS else None
    count = 0
    for packet in recording.packets():
        assert packet.data.dtype == np.uint8 and (packet.seq is None or packet.size is not None)
        count += 1
        if decoder and packet.encoding == recording.encoding:
            with suppress(EventDataError):
                fuzz_packets.check(packet, decoder.decode(packet))
    assert recording.size.width > 0
    done, total = recording.progress()
    assert 0 <= done <= total
    return count, bool(recording.notes or recording.skipped)


def _read_labels(path: Path, *_: object) -> Found:
    labels, notes = read_labels(path)
    _check_labels(labels)
    assert len(labels) <= count_labels(path)
    assert bool((labels.t_us[1:] >= labels.t_us[:-1]).all()), "labels out of order"
    return len(labels), bool(notes)


def _check_labels(labels: Labels) -> None:
    assert bool(np.isfinite(labels.xywh).all()) and bool(np.isfinite(labels.confidence).all()), "a box that is none"


def read_annotation(path: Path, *_: object) -> Found:
    """Return the number of corners of an N-Caltech101 annotation; check and raise as `read` does."""
    outlines = read_ncaltech_annotation(path)
    for outline in outlines:
        assert outline.dtype == np.int16 and outline.shape[0] == 2 and outline.shape[1] > 0
        box = outline_box(outline)
        assert box.shape == (4,) and bool((box[2:] >= 0).all())
    return sum(outline.shape[1] for outline in outlines), False


def read_sequence(path: Path, *_: object) -> Found:
    """Return the number of windows of an RVT-preprocessed sequence; check and raise as `read` does."""
    sequence = RvtSequence(path)
    assert bool((sequence.t_end_us[1:] > sequence.t_end_us[:-1]).all())
    labels, n = sequence.labels(), len(sequence)
    _check_labels(labels)
    assert len(sequence.frame_start) == len(sequence.frame_window) + 1
    assert sequence.frame_start[-1] == len(labels) and bool((np.diff(sequence.frame_start) >= 0).all())
    assert all(0 <= window < n for window in sequence.labelled_windows())
    assert sum(len(sequence.labels_of_window(window)) for window in sequence.labelled_windows()) == len(labels)
    for histogram in sequence.histograms():
        assert (
            histogram.shape == (2 * sequence.bins, sequence.size.height, sequence.size.width)
            and histogram.dtype == np.uint8
        )
    return n, bool(sequence.notes)


_READERS: dict[str, Callable[[Path, int, bool], Found]] = {
    ".dat": _read_dat,
    ".raw": _read_raw,
    ".bin": _read_columns,
    ".h5": _read_columns,
    ".npy": _read_labels,
}


# --- inputs ---------------------------------------------------------------------------------------------------------

FORMATS = (*corpus.SAMPLES, "rvt_sequence")


class FileInputs(Inputs):
    """Damaged files of one format, of all its variants in turn by chance."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
        finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._files = self._make_files()
        self._sound = [(path, sample, sample.data) for path, sample in self._files]
        self._all = [data for *_, data in self._sound]
        self._latest = self._sound[0][0], self._all[0]
        self._options: dict[str, object] = {}
        self.seed("0")
        if name in ("hdf5", "rvt_sequence"):
            _wake_codecs()

    def seed(self, text: str) -> None:
        self._rng = Random(text)

    def prepare(self) -> None:
        rng = self._rng
        self._restore()
        path, sample, data = rng.choice(self._sound)
        damaged = damage(sample, self._all, rng)
        path.write_bytes(damaged)
        self._latest = path, data
        small = rng.random() < 0.2
        self._options = {"max_events": 64 if small else CHUNK_EVENTS, "seeks": small}

    def read(self) -> bool:
        path = self._latest[0]
        try:
            return self._read(path)[0] > 0
        except EventDataError as error:
            check_message(error, str(self.folder))
            raise

    def content(self) -> bytes:
        return self._latest[0].read_bytes()

    def _make_files(self) -> list[tuple[Path, Sample]]:
        return [
            (self.folder / f"fuzzed{Path(name).suffix}", make(self.folder))
            for name, make in corpus.SAMPLES[self.name].items()
        ]

    def _restore(self) -> None:
        """Nothing: the next input takes the place of this one."""

    def _read(self, path: Path) -> Found:
        if self.name == "ncaltech_annotation":
            return read_annotation(path)
        return read(path, **self._options)  # type: ignore[arg-type]


class SequenceInputs(FileInputs):
    """Folders of an RVT-preprocessed sequence, one of whose files is damaged."""

    def _make_files(self) -> list[tuple[Path, Sample]]:
        files = [(self.folder / "sequence" / name, sample) for name, sample in corpus.rvt(self.folder).items()]
        for path, sample in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.data)
        return files

    def _restore(self) -> None:
        path, sound = self._latest
        path.write_bytes(sound)

    def _read(self, path: Path) -> Found:
        return read_sequence(self.folder / "sequence")


def _wake_codecs() -> None:
    """Compile the loops that only some compressions need: one of these comes up by chance, late, and takes 70 MiB."""
    hdf5_codecs.unpack_lzf_block(b"\0a", 1)
    with suppress(hdf5_codecs.BadChunk):
        hdf5_codecs.unpack_blosclz_block(b"\0a", 1)
    hdf5_codecs.gather_bits(np.zeros(8, np.uint8), np.zeros(8, np.uint8), 1)


def file_inputs(name: str) -> FileInputs:
    """Return the inputs for one of `FORMATS`."""
    return (SequenceInputs if name == "rvt_sequence" else FileInputs)(name)
