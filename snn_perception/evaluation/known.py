"""Outcomes of recordings that an earlier evaluation kept, found again by everything that they follow from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snn_perception import __version__
from snn_perception.data.dataset import LabelledRecording
from snn_perception.evaluation.engine_use import made_by_engine
from snn_perception.evaluation.job import Job
from snn_perception.evaluation.outcome import RecordingOutcome

if TYPE_CHECKING:
    from snn_perception.work import Ledger

OUTCOME_FORMAT = 2  # rises when the same inputs would give other stored numbers


def known_outcomes(
    ledger: Ledger | None, recordings: Sequence[LabelledRecording], job: Job, device_kind: str
) -> tuple[dict[int, RecordingOutcome], list[str]]:
    """Return the outcomes that are there from before by number, and the key of each recording.

    Args:
        ledger: that may hold them; None: there are none, nor keys.
    """
    if ledger is None:
        return {}, []
    from snn_perception.evaluation.package import PackedModel

    packed = PackedModel.of(job.detector, job.registry)
    made_by = [packed.digest, packed.plugins.code(), device_kind, *made_by_engine(job.engine)]
    keys = [_key(recording, made_by, job) for recording in recordings]
    known = {}
    for number, key in enumerate(keys):
        stored = ledger.get(key)
        try:
            if stored is not None:
                known[number] = RecordingOutcome.from_dict(stored)
        except (ValueError, KeyError, TypeError, ArithmeticError):  # written by other software: done anew
            continue
    return known, keys


def _key(recording: LabelledRecording, made_by: list[str], job: Job) -> str:
    """Return a name for everything that the outcome of a recording follows from; protocols come later."""
    from snn_perception.work import file_identity, unit_key

    files = [path for path in (recording.path, recording.labels_path) if path is not None and path.exists()]
    identity = [[path.name, file_identity(path)] for path in files]
    options = {name: _plain(value) for name, value in vars(job.options).items()}
    settings = [options, job.score_threshold, job.measure]
    return unit_key(
        OUTCOME_FORMAT, __version__, made_by, recording.name, identity, recording.rules, recording.piece, settings
    )


def _plain(value: Any) -> Any:
    return [list(pair) for pair in sorted(value.items())] if isinstance(value, dict) else value
