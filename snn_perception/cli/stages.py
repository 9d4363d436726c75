"""Long work whose length nobody knows: a spinner that says what is being done, lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def told_stages(*, enabled: bool = True) -> Iterator[Callable[[str], None]]:
    """Yield ``on_stage(text)``, shown on stderr with the seconds since the start; not unless `enabled`."""
    begun = time.monotonic()
    if not enabled:
        yield lambda stage: None
        return
    if not sys.stderr.isatty():
        yield lambda stage: print(f"{time.monotonic() - begun:6.1f} s  {stage}", file=sys.stderr)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting")
        yield lambda stage: progress.update(task, description=stage)
