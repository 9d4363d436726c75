"""The text header of a Prophesee RAW file: what it says, read with bounds and judged before any word is.

Lines that start with ``% `` and end in LF, each a key and a value. Older files say ``% evt 3.0`` and ``% geometry
1280x720``, newer ones ``% format EVT3;height=720;width=1280``. The header ends after ``% end``, or else before the
first line that does not start with ``% `` or is no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snn_perception.errors import EventDataError
from snn_perception.types import SensorSize

MAX_HEADER_BYTES = 1 << 16  # real headers are below 1000 bytes
MAX_OFFSET_US = 1 << 61  # so that no time of a file overflows int64
TIME_OFFSET_KEY = "time_offset_us"  # of our own; others ignore it
ENCODINGS = ("evt2", "evt21", "evt21e", "evt3")
_VERSIONS = {"2.0": "evt2", "2": "evt2", "2.1": "evt21", "21": "evt21", "3.0": "evt3", "3": "evt3"}
_ORDERS = {"little": "evt21", "legacy": "evt21e"}
_REMEDY = "convert it with its vendor's tools, or give the encoding if it is one of " + ", ".join(ENCODINGS)


@dataclass(frozen=True)
class RawHeader:
    """What the header holds.

    Attributes:
        text: values by lower-case key.
        data_offset: where the first word lies, in bytes.
        is_cut: it holds what is no text before its end; what follows that is not in `text`.
    """

    text: dict[str, str]
    data_offset: int
    is_cut: bool = False

    @property
    def format_name(self) -> str:
        """The name in the ``format`` line, upper case; "" where there is none."""
        return self.text.get("format", "").partition(";")[0].strip().upper()

    @property
    def format_options(self) -> dict[str, str]:
        """The options in the ``format`` line, names in lower case."""
        pairs = (option.partition("=") for option in self.text.get("format", "").split(";")[1:])
        return {name.strip().lower(): value.strip() for name, _, value in pairs}


def parse_header(head: bytes, path: Path) -> RawHeader:
    """Return the header found in the first bytes of a file (`MAX_HEADER_BYTES` of them, or all there are).

    Raises:
        EventDataError: for a line that does not end within them.
    """
    text: dict[str, str] = {}
    at = 0
    while head.startswith(b"% ", at):
        end = head.find(b"\n", at)
        line = head[at + 2 : end if end >= 0 else at + 82].rstrip(b"\r")
        if not all(byte >= 32 or byte == 9 for byte in line):
            resumes = head.find(b"\n% end\n", at)
            return RawHeader(text, at) if resumes < 0 else RawHeader(text, resumes + 7, is_cut=True)
        if end < 0:
            if len(head) < MAX_HEADER_BYTES:
                break  # two letters of the first words, or a file that ends here
            raise EventDataError(
                f"{path}: expected a text header of at most {MAX_HEADER_BYTES} bytes, got the line {line[:40]!r}; "
                "the header is damaged, or this is no RAW file"
            )
        key, _, value = line.decode("utf-8", "replace").strip().partition(" ")
        at = end + 1
        if key.lower() == "end":
            break
        text[key.lower()] = value.strip()
    return RawHeader(text, at)


def looks_like_raw(head: bytes) -> bool:
    """Return whether a file that begins with `head` has a RAW header, of an encoding known here or not."""
    try:
        text = parse_header(head, Path()).text
    except EventDataError:
        return False
    return "evt" in text or "format" in text


def stated_encoding(header: RawHeader, path: Path) -> tuple[str, bool]:
    """Return the encoding that the header states, and whether that includes the order of EVT 2.1's halves.

    Raises:
        EventDataError: if it states none, one that is not known here, or two.
    """
    if header.is_cut:
        raise EventDataError(
            f"{path}: expected a text header up to '% end', got bytes that are no text; the header is damaged"
        )
    version, name = header.text.get("evt"), header.format_name
    if version is None and not name:
        raise EventDataError(
            f"{path}: expected a header line '% evt' or '% format', got neither; give the encoding "
            f"({', '.join(ENCODINGS)}) if this is a RAW file"
        )
    found = {_VERSIONS.get(version)} if version is not None else set()
    found |= {_VERSIONS.get(name.removeprefix("EVT").strip()) if name.startswith("EVT") else None} if name else set()
    said = header.text.get("format") or f"evt {version}"
    if len(found) > 1:
        raise EventDataError(
            f"{path}: its header says 'evt {version!s:.20}' and 'format {said:.40}'; give the encoding"
        )
    encoding = found.pop()
    if encoding is None:
        raise EventDataError(f"{path}: expected EVT2, EVT21 or EVT3, got {said[:60]!r}; {_REMEDY}")
    order = header.format_options.get("endianness", "").lower()
    if encoding != "evt21" or not order:
        return encoding, encoding != "evt21"
    if order not in _ORDERS:
        raise EventDataError(
            f"{path}: expected endianness {' or '.join(_ORDERS)}, got {order!r:.40}; give the encoding, evt21 or evt21e"
        )
    return _ORDERS[order], True


def stated_size(header: RawHeader, path: Path) -> SensorSize | None:
    """Return the sensor size that the header states (in its format, geometry, or height and width), None without one.

    Raises:
        EventDataError: for an impossible one.
    """
    options, text = header.format_options, header.text
    if "height" in options or "width" in options:
        sides = options.get("height"), options.get("width")
    elif "geometry" in text:
        width, _, height = text["geometry"].lower().partition("x")
        sides = height, width
    elif "height" in text or "width" in text:
        sides = text.get("height"), text.get("width")
    else:
        return None
    try:
        return SensorSize(*(int(str(side)) for side in sides))
    except ValueError as error:
        raise EventDataError(
            f"{path}: impossible geometry, height {sides[0]!s:.20} and width {sides[1]!s:.20} ({error!s:.80}); "
            "give the sensor size by hand"
        ) from None


def stated_offset(header: RawHeader, path: Path) -> int:
    """Return what is to be added to the words' time, in us; 0 in files of other makers.

    Raises:
        EventDataError: for an impossible one.
    """
    said = header.text.get(TIME_OFFSET_KEY, "0")
    try:
        offset = int(said) if len(said) <= 20 else MAX_OFFSET_US
    except ValueError:
        offset = MAX_OFFSET_US
    if abs(offset) >= MAX_OFFSET_US:
        raise EventDataError(
            f"{path}: expected whole us after '% {TIME_OFFSET_KEY}', below {MAX_OFFSET_US}, got {said[:40]!r}; "
            "mend or remove that line"
        )
    return offset


def header_bytes(size: SensorSize, time_offset_us: int) -> bytes:
    """Return the header of an EVT3 file, in the old and in the new way."""
    lines = ["evt 3.0", f"format EVT3;height={size.height};width={size.width}", f"geometry {size}"]
    if time_offset_us:
        lines.append(f"{TIME_OFFSET_KEY} {time_offset_us}")
    return "".join(f"% {line}\n" for line in [*lines, "end"]).encode()
