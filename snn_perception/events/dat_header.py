"""The text header of a Prophesee DAT file, read with bounds and judged before any event is.

Lines that start with ``% `` and end in LF; then, unless there is no header at all, one byte each of event type and
event size. The header ends after ``% end`` or before the first line that does not start with ``% ``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.types import SensorSize

MAX_HEADER_BYTES = 1 << 16  # real headers are below 300 bytes
EVENT_BYTES = 8
EVENT_TYPES = {0: "Event2D", 12: "EventCD"}
TIME_OFFSET_KEY = "Time_offset_us"  # our own line; other tools pass over it and read times modulo 2^32 us
MOST_OFFSET_US = 1 << 61
_OTHER_TYPES = {14: "external triggers", 40: "optical flow"}
_RAW_KEYS = {"evt", "format"}  # their lines start alike, but hold no such two bytes


@dataclass(frozen=True)
class DatHeader:
    """What the header says.

    Attributes:
        event_type: 0 (Event2D, also of files without a header) or 12 (EventCD).
        data_offset: where the first event lies, in bytes.
        text: the header's lines by lower-case key, for people.
        time_offset_us: what is added to all times, a multiple of 2^32; 0 but for files whose first event lies later.
    """

    event_type: int
    data_offset: int
    text: dict[str, str]
    time_offset_us: int = 0


def parse_header(head: bytes, path: Path) -> DatHeader:
    """Return the header found in the first bytes of a file (`MAX_HEADER_BYTES` + 2 of them, or all there are).

    Raises:
        EventDataError: for a header that does not end, other event types or sizes, or the old word layout; each
            names the file and what to do.
    """
    lines, at = _text_lines(head, path)
    text = _by_key(lines)
    if not lines:  # before there were headers: type 0, events from the first byte
        return DatHeader(0, 0, {})
    raw = _RAW_KEYS & text.keys()
    if raw:
        said = f"{min(raw)} {text[min(raw)]}"[:40]
        raise EventDataError(
            f"{path}: expected DAT, got a RAW file (its header says '{said}'); convert it to DAT first"
        )
    version = text.get("version", "2")
    if version.partition(".")[0] != "2":
        raise EventDataError(
            f"{path}: expected DAT version 2, got version {version!r}, whose words are laid out otherwise; convert it "
            "with its vendor's tools"
        )
    if len(head) < at + 2:
        raise EventDataError(
            f"{path}: ends after its header of {at} bytes, before event type and size; record it again"
        )
    event_type, event_bytes = head[at], head[at + 1]
    if event_type not in EVENT_TYPES:
        kind = _OTHER_TYPES.get(event_type, "unknown here")
        known = " or ".join(f"{number} ({name})" for number, name in EVENT_TYPES.items())
        raise EventDataError(f"{path}: expected DAT events of type {known}, got type {event_type} ({kind})")
    if event_bytes != EVENT_BYTES:
        raise EventDataError(
            f"{path}: expected DAT events of {EVENT_BYTES} bytes, got {event_bytes}; the header is damaged"
        )
    return DatHeader(event_type, at + 2, text, _time_offset_us(text, path))


def looks_like_raw(head: bytes) -> bool:
    """Return whether a file that begins with `head` has the header of a RAW file."""
    try:
        lines, _ = _text_lines(head, Path())
    except EventDataError:
        return False
    return bool(_RAW_KEYS & _by_key(lines).keys())


def looks_like_dat(head: bytes) -> bool:
    """Return whether a file that begins with `head` has a DAT header: its lines, no RAW keys, a type of event."""
    try:
        lines, at = _text_lines(head, Path())
    except EventDataError:
        return False
    known_types = EVENT_TYPES.keys() | _OTHER_TYPES.keys()
    return bool(lines) and not _RAW_KEYS & _by_key(lines).keys() and len(head) >= at + 2 and head[at] in known_types


def _text_lines(head: bytes, path: Path) -> tuple[list[str], int]:
    """Return the header lines without ``% `` and the offset after them."""
    lines: list[str] = []
    at = 0
    while head.startswith(b"% ", at):
        end = head.find(b"\n", at, MAX_HEADER_BYTES)
        line = head[at + 2 : end if end >= 0 else at + 82].rstrip(b"\r")
        if end < 0 or not _is_text(line):
            if not lines:
                break  # no header: the first event happens to begin with these two bytes
            raise EventDataError(
                f"{path}: expected a text header of at most {MAX_HEADER_BYTES} bytes, got the line {line[:40]!r}; "
                "the header is damaged, or this is no DAT file"
            )
        lines.append(line.decode("utf-8", "replace").strip())
        at = end + 1
        if lines[-1].lower() == "end":
            break
    return lines, at


def _is_text(line: bytes) -> bool:
    return all(byte >= 32 or byte == 9 for byte in line)


def _by_key(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(" ") for line in lines)
    return {key.lower(): value.strip() for key, _, value in pairs}


def _time_offset_us(text: dict[str, str], path: Path) -> int:
    stated = text.get(TIME_OFFSET_KEY.lower(), "0")
    offset = int(stated) if stated.isdecimal() and len(stated) < 20 else -1
    if not 0 <= offset <= MOST_OFFSET_US or offset % (1 << 32):
        raise EventDataError(
            f"{path}: expected a {TIME_OFFSET_KEY} that is a multiple of 2^32, got {stated[:40]!r}; the header is "
            "damaged: take the line out to read times modulo 2^32 us"
        )
    return offset


def stated_size(header: DatHeader, path: Path) -> SensorSize | None:
    """Return the sensor size that the header states, or None where it states none.

    Raises:
        EventDataError: for an impossible one.
    """
    sides = [header.text.get("height"), header.text.get("width")]
    if sides == [None, None]:
        return None
    try:
        height, width = (int(str(side)) for side in sides)
        return SensorSize(height, width)
    except ValueError as error:
        raise EventDataError(
            f"{path}: impossible geometry, Height {sides[0]!s:.20} and Width {sides[1]!s:.20} ({error!s:.80}); "
            "give the sensor size by hand"
        ) from None
