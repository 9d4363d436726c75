"""What outlasts a window: saved and loaded states, and the journal of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger
from std_srvs.srv import Trigger

from snn_perception.errors import CheckpointError, SnnPerceptionError
from snn_perception.ros.jobs import LoadJob
from snn_perception.ros.queue import JobQueue
from snn_perception.ros.state_keeper import StateKeeper
from snn_perception.runtime.journal import Entry, JournalWriter
from snn_perception.runtime.serving import nowhere
from snn_perception.runtime.state_file import SavedStream, save_stream
from snn_perception.spec import ModelSpec
from snn_perception.state import to

NOTHING = "the node is not active, or its parameter state_dir is empty: there is nothing to"


class Memory:
    """The states and the journal of one activation.

    A journal that cannot be written any more ends there; detection goes on.

    Args:
        settings: the node's. queue: takes the states that are loaded. spec: returns the model's description.

    Raises:
        SnnPerceptionError: if there is a journal of that name already.
    """

    def __init__(
        self, settings: Mapping[str, Any], queue: JobQueue, spec: Callable[[], ModelSpec], logger: RcutilsLogger
    ) -> None:
        self._settings, self._queue, self._spec, self._logger = settings, queue, spec, logger
        self._keeper: StateKeeper | None = None
        self._copies = 0  # of states that were loaded, beside the journal
        self._journal: JournalWriter | None = None
        self._journal_ended = False
        if settings["journal"]:
            self._journal = JournalWriter(Path(settings["journal"]).expanduser())

    @property
    def journal(self) -> Callable[[Entry], None]:
        """Where decisions are written."""
        return nowhere if self._journal is None else self._note

    def keep(self, streams: Callable[[], tuple[ModelSpec, Mapping[str, SavedStream]]]) -> None:
        """Save the streams' states every so often, where there is a folder for them."""
        if self._settings["state_dir"]:
            folder = Path(self._settings["state_dir"]).expanduser()
            self._keeper = StateKeeper(folder, self._settings["snapshot_period_s"], streams, self._spec)
            self._keeper.start()

    def stop(self) -> None:
        """Save what has changed, and close the journal."""
        if self._keeper is not None:
            self._keeper.stop()
        if self._journal is not None:
            self._journal.close()

    def _note(self, entry: Entry) -> None:
        """Write a decision. After one that is missing the others would be of no use."""
        if self._journal is None or self._journal_ended:
            return
        try:
            self._journal.write(entry)
        except SnnPerceptionError as error:
            self._journal_ended = True
            self._logger.error(f"journal: {error}; it ends here, detection goes on")

    def restore(self, streams: Iterable[str], kept: Mapping[str, SavedStream]) -> None:
        """Let streams go on from what was kept or saved for them, where their next window is not too late."""
        max_gap_ms = self._settings["restore_max_gap_ms"]
        for name in streams if max_gap_ms else ():
            saved = kept.get(name) or self._on_disk(name)
            if saved is not None and saved.stream.model is not None:
                self._queue.put(self._job(name, saved, max_gap_ms))

    def save_state(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answer the service: write every stream's state now."""
        if self._keeper is None:
            return _answer(response, False, f"{NOTHING} save")
        try:
            paths = self._keeper.save()
        except SnnPerceptionError as error:
            return _answer(response, False, str(error))
        named = ", ".join(map(str, paths)) or "no window has come yet"
        return _answer(response, True, f"saved {len(paths)} stream(s): {named}")

    def load_state(self, streams: Iterable[str], response: Trigger.Response) -> Trigger.Response:
        """Answer the service: let these streams go on from the saved states, all of them or none."""
        if self._keeper is None:
            return _answer(response, False, f"{NOTHING} load")
        try:
            jobs = [self._job(name, self._keeper.load(name), None) for name in streams]
        except SnnPerceptionError as error:
            return _answer(response, False, str(error))
        for job in jobs:
            self._queue.put(job)
        return _answer(
            response, True, f"{len(jobs)} stream(s) go on from the saved state after the windows already queued"
        )

    def _on_disk(self, name: str) -> SavedStream | None:
        if self._keeper is None:
            return None
        try:
            return self._keeper.load(name) if self._keeper.path(name).exists() else None
        except (CheckpointError, OSError) as error:
            self._logger.warning(f"camera '{name}' starts from rest: {error}")
            return None

    def _job(self, name: str, saved: SavedStream, max_gap_ms: int | None) -> LoadJob:
        model = to(saved.stream.model, self._settings["device"])
        saved = replace(saved, stream=replace(saved.stream, model=model))
        return LoadJob(name, saved, self._copied(saved), max_gap_ms)

    def _copied(self, saved: SavedStream) -> str:
        """Return the file beside the journal in which a state that is loaded can be found again; empty without one."""
        if self._journal is None:
            return ""
        self._copies += 1
        path = self._journal.path.with_suffix(f".{self._copies}.safetensors")
        save_stream(path, saved, self._spec())
        return path.name


def _answer(response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
    response.success, response.message = success, message
    return response
