"""Feeds inputs to something that reads them, and watches what it takes: time, memory, open files, what it touches.

A target runs in a process of its own, so that a crash or a hang is seen from outside and memory is its own.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from snn_perception.errors import EventDataError
from snn_perception.work.peak import peak_resident_mib

LIMIT_MS = 1000.0  # of CPU time for one input
LIMIT_MIB = 16.0  # of resident memory, from the warm-up to the end
EXTRA_BYTES = 1 << 29  # of address space beyond what the process holds before it reads
WARM_UP = 2000
WOKEN = 300  # inputs before the first that counts
STALL_S = 30.0  # without a next input, as seen from outside
START_S = 600.0  # the same before the first one, when loops may have to be compiled
BLOCK = 1000  # inputs per seed, so that a late one can be had again without all before it
MOST_VIOLATIONS = 10  # then a target is given up
_WATCHED = ("os.exec", "os.posix_spawn", "os.system", "pickle.find_class", "socket.connect", "subprocess.Popen")


class Violation(AssertionError):
    """A reader or decoder did what it must not."""


class Inputs(ABC):
    """Damaged inputs for one format, the same for the same seed."""

    name: str

    @abstractmethod
    def seed(self, text: str) -> None:
        """Begin another series of inputs."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the next input."""

    @abstractmethod
    def read(self) -> bool:
        """Read the input; return whether anything came of it.

        Raises:
            EventDataError: if it is refused.
            Violation: if what came of it breaks a promise.
        """

    @abstractmethod
    def content(self) -> bytes:
        """Return the latest input, to be kept."""


@dataclass
class Row:
    """What became of the inputs of one target.

    Attributes:
        inputs: how many there were; so many were `refused` with EventDataError, and something came of `produced`.
        slowest_ms: CPU time of the slowest input. `slowest`: its number.
        grown_mib: resident memory at the end beyond that after the warm-up. peak_mib: the same at the worst moment.
        grown_files: open files at the end beyond those after the warm-up.
        violations: what went wrong, each with its input's number.
    """

    name: str
    group: str
    seed: int
    inputs: int = 0
    refused: int = 0
    produced: int = 0
    slowest_ms: float = 0.0
    slowest: int = 0
    grown_mib: float = 0.0
    peak_mib: float = 0.0
    grown_files: int = 0
    seconds: float = 0.0
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%d"))
    violations: list[str] = field(default_factory=list)


def resident_mib() -> float:
    """Return the memory that this process holds, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mib() -> float:
    """Return the most memory this process has held, MiB."""
    return peak_resident_mib()


def limit_memory(extra_bytes: int = EXTRA_BYTES) -> tuple[int, int]:
    """Refuse any allocation beyond `extra_bytes` more, used or not; return the limits before."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + extra_bytes, before[1]))
    return before


def check_message(error: EventDataError, named: str = "") -> None:
    """Raise Violation unless an error is one line of bearable length that names the file."""
    text = str(error)
    if "\n" in text or len(text) > 1000 or named not in text:
        raise Violation(f"an error of several lines, too long, or without the file's name: {text[:300]!r}")


class _Marks:
    """Memory and open files after the warm-up."""

    def __init__(self) -> None:
        _give_back()
        self.resident, self.peak, self.files = resident_mib(), peak_mib(), _open_files()

    def grown(self, row: Row) -> None:
        """Write into the row what has come to be held since."""
        _give_back()
        row.grown_mib = round(max(0.0, resident_mib() - self.resident), 1)
        row.peak_mib = round(max(0.0, peak_mib() - self.peak), 1)
        row.grown_files = _open_files() - self.files
        if row.grown_mib >= LIMIT_MIB:
            row.violations.append(f"memory grew by {row.grown_mib} MiB")
        if row.grown_files > 0:
            row.violations.append(f"{row.grown_files} files were left open")


def watch(
    inputs: Inputs,
    row: Row,
    count: int,
    *,
    seconds: float = float("inf"),
    start: int = 0,
    keep: Callable[[Row, int, bytes], object] = lambda *_: None,
    tell: Callable[[int], object] = lambda _: None,
) -> Row:
    """Return the row, filled with what became of `count` inputs, fewer if `seconds` pass.

    Args:
        start: number of the first input; reading begins with its block.
        keep: called with the row, number and bytes of an input that was handled wrongly.
        tell: called with the number of each input before it is read.
    """
    begun, marks = time.monotonic(), None
    warm_up = min(WARM_UP, count // 4)
    first = start - start % BLOCK
    for number in range(first, start + count):
        if number % BLOCK == 0:
            inputs.seed(f"{row.seed} {inputs.name} {number // BLOCK}")
            if time.monotonic() - begun > seconds:
                break
        if number - first == warm_up:
            marks = _Marks()
        inputs.prepare()
        tell(number)
        found = _feed(inputs, row, number)
        if found:
            row.violations.append(f"input {number}: {found}")
            keep(row, number, inputs.content())
            if len(row.violations) >= MOST_VIOLATIONS:
                break
    if marks:
        marks.grown(row)
    row.seconds = round(time.monotonic() - begun, 1)
    return row


def _feed(inputs: Inputs, row: Row, number: int) -> str:
    """Read the prepared input, count it, and return what was wrong with that."""
    wrong = ""
    row.inputs += 1
    begun = time.process_time()
    try:
        row.produced += inputs.read()
    except EventDataError as error:
        row.refused += 1
        try:
            check_message(error)
        except Violation as violation:
            wrong = str(violation)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"[:500]
    took_ms = (time.process_time() - begun) * 1e3
    if took_ms > row.slowest_ms:
        row.slowest_ms, row.slowest = round(took_ms, 2), number
    return wrong or (f"took {took_ms:.0f} ms" if took_ms > LIMIT_MS else "")


def watch_apart(
    make: Callable[[], Inputs], row: Row, count: int, *, findings: Path, stall_s: float = STALL_S, **options: Any
) -> Row:
    """Return what `watch` does, run in a process of its own; a crash or a hang of that is a violation.

    Inputs that are handled wrongly are written to the folder `findings`.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz_", dir=_memory_folder()) as folder:  # also after a crash, gone
        return _watch_apart(make, row, count, Path(folder), findings, stall_s, options)


def _watch_apart(
    make: Callable[[], Inputs],
    row: Row,
    count: int,
    folder: Path,
    findings: Path,
    stall_s: float,
    options: dict[str, Any],
) -> Row:
    context = multiprocessing.get_context("fork")
    reached = context.Value("q", -1, lock=False)
    ours, theirs = context.Pipe(duplex=False)

    def tell(number: int) -> None:
        reached.value = number

    def work() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        tempfile.tempdir = str(folder)
        inputs = make()
        _wake(inputs)
        limit_memory()
        arm_audit(findings, folder)
        theirs.send(watch(inputs, row, count, keep=Keeper(findings), tell=tell, **options))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    seen, since = -2, time.monotonic()
    try:
        while not ours.poll(0.5):
            if reached.value != seen:
                seen, since = reached.value, time.monotonic()
            elif time.monotonic() - since > (stall_s if seen >= 0 else START_S):
                process.kill()
                return _lost(row, seen, f"no end within {stall_s:.0f} s")
        done: Row = ours.recv()
        return done
    except EOFError:
        process.join()
        return _lost(row, reached.value, f"the process ended with exit code {process.exitcode}")
    finally:
        process.join(5)
        ours.close()


def _memory_folder() -> str | None:
    """Return a folder that lies in memory, None where the system has none that can be written."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and os.access(shared, os.W_OK) else None


def _wake(inputs: Inputs) -> None:
    """Read a few inputs, so that loops are compiled and libraries loaded before memory is limited."""
    for _ in range(WOKEN):
        inputs.prepare()
        with suppress(Exception):  # comes again, and is told then
            inputs.read()


def _lost(row: Row, number: int, what: str) -> Row:
    row.inputs = number + 1
    row.violations.append(f"input {number}: {what}")
    return row


class Keeper:
    """Writes inputs that were handled wrongly to files, and prints where."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, row: Row, number: int, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{row.name}_{row.seed}_{number}"
        path.write_bytes(content)
        print(f"{row.violations[-1]}\n  kept as {path}", file=sys.stderr, flush=True)


def arm_audit(*also: Path) -> None:
    """From now on, let this process run no program, unpickle nothing, connect to nothing, and write only to `also`:
    whatever tries raises Violation. It cannot be taken back."""
    allowed = (*(str(path) for path in also), os.devnull)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(path, str) and not path.startswith(allowed) and not _is_compiler():
                raise Violation(f"opened {path} for writing")
        elif event in _WATCHED and not _is_compiler():
            raise Violation(f"reading led to {event}")

    sys.addaudithook(hook)


def _give_back() -> None:
    """Free what is unreachable, and hand freed memory back to the system, so that what is left is held by someone."""
    gc.collect()
    with suppress(OSError, AttributeError):  # a C library of another make
        ctypes.CDLL(None).malloc_trim(0)


def _is_compiler() -> bool:
    """Return whether numba is at work: it loads its own compiled loops as pickles."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") == "numba.core.caching":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
