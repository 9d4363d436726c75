"""A folder for one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snn_perception.errors import SnnPerceptionError

log = logging.getLogger(__name__)


@contextmanager
def held_folder(folder: Path, work: str) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder; the system lets go when this process ends, however it ends.

    Args:
        work: what goes on there, for the error, such as ``a training run``.

    Raises:
        SnnPerceptionError: if another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SnnPerceptionError(f"{folder}: {work} is at work in it; wait for its end") from None
        except OSError as error:  # some network file systems have no locks
            log.info("%s: cannot be locked: %s", folder, error)
        yield
    finally:
        os.close(handle)
