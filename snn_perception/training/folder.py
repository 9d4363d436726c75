"""The folder of a run and the files in it. Only the leading process writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snn_perception.errors import CheckpointError, SnnPerceptionError
from snn_perception.held_folder import held_folder
from snn_perception.training.config import RunConfig
from snn_perception.training.metrics import MetricsLog
from snn_perception.training.run_file import dump_run
from snn_perception.training.run_state import (
    PREVIOUS_FILE,
    STATE_FILE,
    Progress,
    RunState,
    load_run_state,
    save_run_state,
)
from snn_perception.whole_file import check_writable, whole_file

RUN_FILE, METRICS_FILE = "run.yaml", "metrics.jsonl"
BEST_FILE, LAST_FILE = "best.safetensors", "last.safetensors"


class RunFolder:
    """Where a run keeps its files.

    Args:
        writes: whether this process is the one that writes.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self._writes = path, writes
        self.best, self.last = path / BEST_FILE, path / LAST_FILE
        self._metrics: MetricsLog | None = None

    def begin(self, config: RunConfig) -> None:
        """Make the folder of a new run.

        Raises:
            SnnPerceptionError: if a run is there already, or nothing can be written there.
        """
        if not self._writes:
            return
        held = [name for name in (STATE_FILE, PREVIOUS_FILE, BEST_FILE, LAST_FILE) if (self.path / name).exists()]
        if held:
            raise SnnPerceptionError(
                f"{self.path}: holds a run already ({', '.join(held)}); go on with --resume, or choose another folder"
            )
        check_writable(self.path / RUN_FILE)
        self._clear_leftovers()
        with whole_file(self.path / RUN_FILE) as temporary:
            temporary.write_text(dump_run(config), "utf-8")
        self._metrics = MetricsLog(self.path / METRICS_FILE)
        self._metrics.truncate_to(0)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder, if this process writes.

        Raises:
            SnnPerceptionError: if the folder cannot be made, or another run is at work in it.
        """
        if not self._writes:
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SnnPerceptionError(f"{self.path}: the folder cannot be made: {error.strerror or error}") from error
        with held_folder(self.path, "another training run"):
            yield

    def resume(self, wanted: Progress) -> RunState:
        """Return the run as it stands here; what it logged after that is taken back.

        Args:
            wanted: digests of configuration and data that it must have.

        Raises:
            CheckpointError: if there is nothing to resume, it is damaged, or of another configuration or other data.
        """
        state = load_run_state(self.path)
        if state.progress.data != wanted.data and state.progress.run == wanted.run:
            raise CheckpointError(
                f"{self.path}: the data are not those that its run is trained on (other recordings or labels); bring "
                "those back, or train in another folder from its checkpoint (model.checkpoint)"
            )
        if state.progress.run != wanted.run:
            raise CheckpointError(
                f"{self.path}: its run has another configuration than asked for; resume with its own "
                f"{RUN_FILE}, or train in another folder"
            )
        if self._writes:
            check_writable(self.path / RUN_FILE)
            self._clear_leftovers()
            self._metrics = MetricsLog(self.path / METRICS_FILE)
            self._metrics.truncate_to(state.progress.metrics_lines)
        return state

    def save(self, state: RunState) -> Path:
        """Write the run as it stands.

        Raises:
            CheckpointError: if it cannot be written; what was saved before is then as it was.
        """
        try:
            return save_run_state(self.path, state)
        except CheckpointError as error:
            kept = "go on with --resume" if (self.path / STATE_FILE).exists() else "nothing was saved yet, begin again"
            raise CheckpointError(f"{error}; make room or the folder writable, then {kept}") from error

    def log(self, kind: str, values: dict[str, Any]) -> int:
        """Add a line to the metrics; return how many there are."""
        assert self._metrics is not None
        self._metrics.write({"kind": kind, **values})
        return self._metrics.lines

    def _clear_leftovers(self) -> None:
        """Remove temporary files of a process that was killed while it wrote."""
        for name in (BEST_FILE, LAST_FILE, f"fresh.{STATE_FILE}", RUN_FILE):
            stem, _, suffix = name.rpartition(".")
            for path in self.path.glob(f".{stem}.*.{suffix}"):
                path.unlink(missing_ok=True)
        (self.path / f"fresh.{STATE_FILE}").unlink(missing_ok=True)
