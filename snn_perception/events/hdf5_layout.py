"""Where an HDF5 file keeps its events: plain columns as h5py users write them, or Prophesee's tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn_perception.errors import EventDataError
from snn_perception.events.hdf5_storage import MAGIC, Hdf5File, opened_hdf5
from snn_perception.types import SensorSize

SUFFIXES = (".h5", ".hdf5")
_COLUMNS = "xytp"
_PLAIN_GROUPS = ("events", "")  # columns in a group, or at the root
_TABLE, _INDEXES, _TRIGGERS = "CD/events", "CD/indexes", "EXT_TRIGGER/events"
MAX_OFFSET_US = 1 << 61


@dataclass(frozen=True)
class TimeHint:
    """A table of first events per stretch of time, to be checked before it is used.

    Attributes:
        name: data set [K]. field: of its rows, None for plain numbers. step_us: sensor time per row.
    """

    name: str
    field: str | None
    step_us: int


@dataclass(frozen=True)
class EventLayout:
    """Where the events lie.

    Attributes:
        columns: for each of x, y, t and p: data set and field of its rows (None for plain numbers).
        events: how many rows there are.
        size: sensor size that the file states, None where it states none.
        t_offset_us: what the file says is to be added to every time.
        hint: a table for seeking, None where there is none.
        triggers: data set of external triggers, None where there is none.
    """

    columns: dict[str, tuple[str, str | None]]
    events: int
    size: SensorSize | None
    t_offset_us: int = 0
    hint: TimeHint | None = None
    triggers: str | None = None


def claims_hdf5(path: Path) -> bool:
    """Return whether `path` is an HDF5 file that holds events, or one by its name that cannot be looked into.

    The second, so that reading says what is wrong with it.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            is_hdf5 = file.read(len(MAGIC)) == MAGIC
    except OSError:
        return path.suffix.lower() in SUFFIXES
    if not is_hdf5 and path.suffix.lower() not in SUFFIXES:
        return False
    try:
        with opened_hdf5(path) as file:
            return _plain_group(file) is not None or file.find(_TABLE) is not None
    except EventDataError:
        return True


def find_layout(file: Hdf5File, path: Path) -> EventLayout:
    """Return where an opened file keeps its events; none are read.

    Raises:
        EventDataError: if it holds none, in another layout, of differing lengths or other than whole numbers, or
            compressed in a way that cannot be read here.
    """
    group = _plain_group(file)
    if group is not None:
        return _plain_layout(file, group, path)
    if file.find(_TABLE) is not None:
        return _table_layout(file, path)
    found = ", ".join(name[:40] for name in file.names()[:12]) or "nothing"
    raise EventDataError(
        f"{path}: expected events in 'events/x', 'events/y', 'events/t' and 'events/p' (or these four at the root, or "
        f"'{_TABLE}'), got a file that holds {found}"
    )


def _plain_group(file: Hdf5File) -> str | None:
    """Return the prefix under which the four columns lie, or most of them."""
    for group in _PLAIN_GROUPS:
        prefix = f"{group}/" if group else ""
        present = [file.find(prefix + column) is not None for column in _COLUMNS]
        if all(present) or (group and sum(present) >= 2):
            return prefix
    return None


def _plain_layout(file: Hdf5File, prefix: str, path: Path) -> EventLayout:
    lengths: dict[str, int] = {}
    for column in _COLUMNS:
        name = prefix + column
        if file.find(name) is None:
            raise EventDataError(
                f"{path}: expected the columns x, y, t and p in '{prefix or '/'}', '{name}' is missing"
            )
        rows = file.rows(name)
        if len(rows.shape) != 1 or rows.dtype.kind not in "iu":
            advice = "; write times as whole microseconds" if column == "t" and rows.dtype.kind == "f" else ""
            raise EventDataError(
                f"{path}: expected whole numbers [N] in {name}, got {rows.dtype} of shape {list(rows.shape)}{advice}"
            )
        lengths[name] = len(rows)
    if len(set(lengths.values())) > 1:
        raise EventDataError(f"{path}: expected columns of one length, got {lengths}; the file was not written whole")
    hints = [name for name in ("ms_to_idx", f"{prefix}ms_to_idx") if file.find(name) is not None]
    return EventLayout(
        columns={column: (prefix + column, None) for column in _COLUMNS},
        events=next(iter(lengths.values())),
        size=_stated_size(file, prefix, path),
        t_offset_us=_t_offset(file, prefix, path),
        hint=TimeHint(hints[0], None, 1000) if hints else None,
    )


def _table_layout(file: Hdf5File, path: Path) -> EventLayout:
    rows = file.rows(_TABLE)
    fields = rows.dtype.names or ()
    whole = all(column in fields and rows.dtype[column].kind in "iu" for column in _COLUMNS)
    if not whole or len(rows.shape) != 1:
        raise EventDataError(
            f"{path}: expected rows of whole numbers x, y, p and t in {_TABLE}, got {rows.dtype!s:.200} of shape "
            f"{list(rows.shape)}"
        )
    has_indexes, has_triggers = (_is_there(file, name) for name in (_INDEXES, _TRIGGERS))
    return EventLayout(
        columns={column: (_TABLE, column) for column in _COLUMNS},
        events=len(rows),
        size=_geometry(file, path),
        hint=TimeHint(_INDEXES, "id", 2000) if has_indexes else None,
        triggers=_TRIGGERS if has_triggers else None,
    )


def _stated_size(file: Hdf5File, prefix: str, path: Path) -> SensorSize | None:
    """Return the size in ``height`` and ``width`` beside the columns, data sets or attributes of their group."""
    sides = [_side(file, prefix, name) for name in ("height", "width")]
    if None in sides:
        return None
    return _size_of(sides[0], sides[1], path)


def _side(file: Hdf5File, prefix: str, name: str) -> Any:
    numbers = file.small_numbers(prefix + name)
    if numbers is not None and len(numbers) == 1:
        return numbers[0].item()
    value = file.attribute(prefix.rstrip("/"), name)
    return value if isinstance(value, int) else None


def _is_there(file: Hdf5File, name: str) -> bool:
    """Return whether there is a data set that the events can do without; one that cannot be read counts as none."""
    try:
        return file.find(name) is not None
    except EventDataError:
        return False


def _geometry(file: Hdf5File, path: Path) -> SensorSize | None:
    """Return the size in the root attribute ``geometry`` ("WxH"), None where there is none."""
    text = file.attribute("", "geometry")
    if not isinstance(text, str):
        return None
    match = re.fullmatch(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", text)
    if match is None:
        raise EventDataError(f"{path}: expected a geometry as '1280x720', got {text!r:.60}; give the size: --size WxH")
    return _size_of(int(match[2]), int(match[1]), path)


def _size_of(height: Any, width: Any, path: Path) -> SensorSize:
    try:
        return SensorSize(height, width)
    except ValueError as error:
        raise EventDataError(f"{path}: impossible sensor size ({error}); give the size: --size WxH") from None


def _t_offset(file: Hdf5File, prefix: str, path: Path) -> int:
    for name in dict.fromkeys(("t_offset", f"{prefix}t_offset")):
        numbers = file.small_numbers(name)
        if numbers is not None and len(numbers) == 1 and numbers.dtype.kind in "iu":
            offset = int(numbers[0])
            if abs(offset) > MAX_OFFSET_US:
                raise EventDataError(f"{path}: impossible {name} of {offset} us; read it with the option t_offset off")
            return offset
    return 0
