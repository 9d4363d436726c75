"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snn_perception.errors import SnnPerceptionError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix; when the block ends well the file is renamed to `path`.

    After an error, also one of the block itself, nothing is left behind and an older file at `path` stays as it was.

    Raises:
        SnnPerceptionError: if the folder is missing or not writable, or the file cannot be put in place.
    """
    path = Path(path)
    check_writable(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        try:
            _put_in_place(temporary, path)
        except OSError as error:
            raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raise SnnPerceptionError unless a file can be made at `path`; for a check before long work, nothing is made."""
    path = Path(path)
    if path.is_dir():
        raise SnnPerceptionError(f"{path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise SnnPerceptionError(f"{path}: the folder '{path.parent}' does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise SnnPerceptionError(f"{path}: the folder '{path.parent}' is not writable")


def cannot_write(path: Path, error: OSError) -> SnnPerceptionError:
    """Return the error to raise when the system refuses a write to `path`."""
    return SnnPerceptionError(f"{path}: cannot be written: {error.strerror or error}")


def _put_in_place(temporary: Path, path: Path) -> None:
    temporary.chmod(0o666 & ~_umask())  # as `open` would have made it; mkstemp makes it private
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk, so that a file put in place is there after a loss of power too."""
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
