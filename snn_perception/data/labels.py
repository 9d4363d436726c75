"""Labelled boxes as data sets store them: one row per box and time, read by field name.

GEN1 and 1Mpx differ in names, order, packing and integer types, and files of both exist in variants, so neither the
position of a field nor the length of a row says anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn_perception.data.npy import read_npy, read_npy_header
from snn_perception.errors import EventDataError
from snn_perception.types import F32, I64
from snn_perception.whole_file import whole_file

# Our column -> the field names that hold it, the first present one wins.
_FIELDS = {
    "t": ("t", "ts"),
    "x": ("x",),
    "y": ("y",),
    "w": ("w",),
    "h": ("h",),
    "class_id": ("class_id",),
    "confidence": ("class_confidence", "confidence"),
    "track_id": ("track_id",),
}
# Class of a row without a box: somebody looked at that time, and there is nothing of any class.
NOTHING = -1
_REQUIRED = ("t", "x", "y", "w", "h", "class_id")
_BOX = [("x", "<f4"), ("y", "<f4"), ("w", "<f4"), ("h", "<f4")]
LAYOUTS: dict[str, np.dtype[Any]] = {
    "gen1": np.dtype(  # packed, 33 bytes
        [("ts", "<u8"), *_BOX, ("class_id", "u1"), ("confidence", "<f4"), ("track_id", "<u4")]
    ),
    "one_mpx": np.dtype(  # 40 bytes, the last 4 empty
        {
            "names": ["t", "x", "y", "w", "h", "class_id", "track_id", "class_confidence"],
            "formats": ["<i8", "<f4", "<f4", "<f4", "<f4", "<u4", "<u4", "<f4"],
            "offsets": [0, 8, 12, 16, 20, 24, 28, 32],
            "itemsize": 40,
        }
    ),
}


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled boxes of one recording: columns of equal length, in time order where they come from a file.

    Attributes:
        t_us: sensor time in microseconds, int64 [M].
        xywh: float32 [M, 4], left, top, width and height in pixels; a box may reach beyond the image on any side.
        class_id: int64 [M], index into the classes of the data set.
        track_id: int64 [M], the same for one object over time.
        confidence: float32 [M], of the labeller.
        area: float32 [M], of the object inside its box in square pixels; None where only boxes are known.
        is_crowd: bool [M], boxes around many objects, in which a detection counts neither way; None: there are none.

    Raises:
        ValueError: for a wrong dtype, shape or differing lengths.
    """

    t_us: I64
    xywh: F32
    class_id: I64
    track_id: I64
    confidence: F32
    area: F32 | None = None
    is_crowd: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        wanted = {name: (np.int64, (len(self.t_us),)) for name in ("t_us", "class_id", "track_id")}
        columns: dict[str, tuple[Any, tuple[int, ...]]] = {
            **wanted,
            "xywh": (np.float32, (len(self.t_us), 4)),
            "confidence": (np.float32, (len(self.t_us),)),
        }
        optional = {"area": np.float32, "is_crowd": np.bool_}
        columns |= {n: (kind, (len(self.t_us),)) for n, kind in optional.items() if getattr(self, n) is not None}
        for name, (dtype, shape) in columns.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
                got = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                raise ValueError(f"{name}: expected {np.dtype(dtype).name}{list(shape)}, got {got}")

    def __len__(self) -> int:
        return len(self.t_us)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Labels:
        """Return the chosen rows (a view for a slice)."""
        return Labels(
            self.t_us[rows],
            self.xywh[rows],
            self.class_id[rows],
            self.track_id[rows],
            self.confidence[rows],
            None if self.area is None else self.area[rows],
            None if self.is_crowd is None else self.is_crowd[rows],
        )

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """Return the area of each object in square pixels [M], that of its box where its own is not known."""
        if self.area is not None:
            return self.area.astype(np.float64)
        sides = self.xywh[:, 2:].astype(np.float64)
        area: npt.NDArray[np.float64] = sides[:, 0] * sides[:, 1]
        return area

    @property
    def crowds(self) -> npt.NDArray[np.bool_]:
        """Return which boxes are around many objects [M]."""
        return np.zeros(len(self), bool) if self.is_crowd is None else self.is_crowd

    @staticmethod
    def empty() -> Labels:
        """Return no labels."""
        none, no_boxes = np.empty(0, np.int64), np.empty((0, 4), np.float32)
        return Labels(none, no_boxes, none, none, np.empty(0, np.float32))

    @staticmethod
    def concatenate(parts: Sequence[Labels]) -> Labels:
        """Return the rows of `parts`, one after the other."""
        if not parts:
            return Labels.empty()
        with_area = any(part.area is not None for part in parts)
        with_crowds = any(part.is_crowd is not None for part in parts)
        return Labels(
            np.concatenate([part.t_us for part in parts]),
            np.concatenate([part.xywh for part in parts]),
            np.concatenate([part.class_id for part in parts]),
            np.concatenate([part.track_id for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            np.concatenate([part.areas for part in parts]).astype(np.float32) if with_area else None,
            np.concatenate([part.crowds for part in parts]) if with_crowds else None,
        )


def read_labels(path: str | Path) -> tuple[Labels, tuple[str, ...]]:
    """Return the labels of an ``.npy`` file in time order, and notes on what was dropped or assumed.

    Raises:
        EventDataError: if the file cannot be read, is damaged, or lacks a field; it names the fields expected and got.
    """
    rows, notes = read_npy(path)
    labels, more = labels_from_rows(rows, path)
    return labels, notes + more


def count_labels(path: str | Path) -> int:
    """Return how many rows a label file announces, from its header alone. Raises as `read_labels` does."""
    header = read_npy_header(path)
    _find_fields(header.dtype, path)
    return header.rows


def labels_from_rows(rows: npt.NDArray[Any], path: str | Path) -> tuple[Labels, tuple[str, ...]]:
    """Return the labels in a structured array in time order (stable), and notes on what was dropped or assumed.

    Fields go by name: t or ts (microseconds), x, y, w, h, class_id; where present also track_id (else the row's
    number) and class_confidence or confidence (else 1). Rows with a true ``invalid``, a box that is not finite, or
    a time or id that int64 cannot hold are dropped.

    Args:
        rows: structured array of any byte order, packing and number of further fields.
        path: names the source in errors.

    Raises:
        EventDataError: for a missing field, or one that holds no single number.
    """
    fields = _find_fields(rows.dtype, path)
    rows = rows.reshape(-1)
    columns = {name: rows[field] if field else None for name, field in fields.items()}
    notes: list[str] = []
    xywh, finite_box = _boxes(columns)
    kept = np.ones(len(rows), bool)
    _drop(kept, _invalid(rows), "marked invalid", notes)
    _drop(kept, ~finite_box, "with a box that is not finite", notes)
    whole = {}
    for name in ("t", "class_id", "track_id"):
        whole[name], fits = _whole_numbers(columns[name], len(rows))
        _drop(kept, ~fits, f"whose {name} is no 64-bit whole number", notes)
    confidence = _confidence(columns["confidence"], len(rows), notes)
    if columns["track_id"] is None and len(rows):
        notes.append("no field track_id: every label is a track of its own")
    chosen = np.flatnonzero(kept)
    t = whole["t"][chosen]
    if np.any(t[1:] < t[:-1]):
        notes.append("labels were not in time order: sorted")
        chosen = chosen[np.argsort(t, kind="stable")]
    labels = Labels(
        whole["t"][chosen], xywh[chosen], whole["class_id"][chosen], whole["track_id"][chosen], confidence[chosen]
    )
    return labels, tuple(notes)


def write_labels(path: str | Path, labels: Labels, layout: str = "gen1") -> None:
    """Write labels to an ``.npy`` file, which appears only once it is whole.

    Args:
        layout: ``gen1`` (packed rows of 33 bytes, field ts) or ``one_mpx`` (40 bytes, field t), as those data sets
            store them.

    Raises:
        EventDataError: for an unknown layout, or a number that its field cannot hold.
        SnnPerceptionError: if the file cannot be put there.
    """
    if layout not in LAYOUTS:
        raise EventDataError(f"{path}: label layout '{layout}' is unknown; layouts: {', '.join(LAYOUTS)}")
    dtype = LAYOUTS[layout]
    columns: dict[str, npt.NDArray[Any]] = {
        "t": labels.t_us,
        **{side: labels.xywh[:, i] for i, side in enumerate("xywh")},
        "class_id": labels.class_id,
        "confidence": labels.confidence,
        "track_id": labels.track_id,
    }
    rows = np.zeros(len(labels), dtype)
    for name, column in columns.items():
        field = next(candidate for candidate in _FIELDS[name] if candidate in (dtype.names or ()))
        rows[field] = column
        lost = rows[field] != column if column.dtype.kind == "i" else np.zeros(len(column), bool)
        if lost.any() or (column.dtype.kind == "i" and dtype[field].kind == "u" and np.any(column < 0)):
            at = int(np.argmax(lost | (column < 0)))
            raise EventDataError(
                f"{path}: label {at}: {name} {column[at]} does not fit field '{field}' of layout '{layout}' "
                f"({dtype[field]})"
            )
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, rows, allow_pickle=False)


def _expected() -> str:
    return ", ".join("|".join(_FIELDS[name]) for name in _REQUIRED)


def _find_fields(dtype: np.dtype[Any], path: str | Path) -> dict[str, str | None]:
    """Return our columns -> the fields that hold them, None where an optional one is missing."""
    present = dtype.names
    if present is None:
        raise EventDataError(f"{path}: expected labels with the fields {_expected()}, got plain {dtype} numbers")
    found: dict[str, str | None] = {}
    for name, candidates in _FIELDS.items():
        field = next((candidate for candidate in candidates if candidate in present), None)
        if field is None and name in _REQUIRED:
            got = ", ".join(name if name.isprintable() else repr(name) for name in present[:20]) or "none"
            raise EventDataError(
                f"{path}: expected labels with the fields {_expected()}, got {got:.120}; '{name}' is missing"
            )
        if field is not None and dtype[field].kind not in "biuf":
            raise EventDataError(f"{path}: expected one number in field '{field}', got {dtype[field]!s:.80}")
        found[name] = field
    return found


def _boxes(columns: dict[str, npt.NDArray[Any] | None]) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Return boxes [M, 4] and which of them are finite in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        xywh = np.stack([np.asarray(columns[name], np.float32) for name in "xywh"], axis=1)
    finite: npt.NDArray[np.bool_] = np.all(np.isfinite(xywh), axis=1)
    return xywh, finite


def _invalid(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if "invalid" not in (rows.dtype.names or ()) or rows.dtype["invalid"].kind not in "biuf":
        return np.zeros(len(rows), bool)
    return rows["invalid"] != 0


def _whole_numbers(column: npt.NDArray[Any] | None, n: int) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Return int64 [M] (fractions cut off) and which rows fit; a missing column counts the rows."""
    if column is None:
        return np.arange(n, dtype=np.int64), np.ones(n, bool)
    if column.dtype.kind == "f":
        fits = np.isfinite(column) & (np.abs(column) < 2.0**63)
        return np.where(fits, column, 0).astype(np.int64), fits
    fits = column <= np.iinfo(np.int64).max if column.dtype.kind == "u" else np.ones(n, bool)
    return column.astype(np.int64), fits


def _confidence(column: npt.NDArray[Any] | None, n: int, notes: list[str]) -> F32:
    if column is None:
        return np.ones(n, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        confidence = column.astype(np.float32)
    finite = np.isfinite(confidence)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} confidence(s) not finite: taken as 1")
    return np.where(finite, confidence, np.float32(1))


def _drop(kept: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_], what: str, notes: list[str]) -> None:
    """Take the rows of `bad` out of `kept`, with a note of how many that were."""
    count = int((bad & kept).sum())
    if count:
        notes.append(f"{count} label(s) {what}: dropped")
        kept &= ~bad
