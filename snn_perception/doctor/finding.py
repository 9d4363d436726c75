"""What a check found, what the checks share, and how they are run one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.registry import Registry
    from snn_perception.runtime.detections_file import WindowDetections
    from snn_perception.runtime.labelled_drive import LabelledDrive

Status = Literal["ok", "warning", "failed", "skipped"]
STATUSES: tuple[Status, ...] = ("ok", "warning", "failed", "skipped")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        status: ``ok``; ``warning``, it works but a person should know; ``failed``; ``skipped``, with the reason.
        told: what was found, in a line. remedy: what to do about it; empty where nothing is to be done.
        facts: plain values for the report. check, seconds: its name and how long it took, set by `examine`.
    """

    status: Status
    told: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    check: str = ""
    seconds: float = 0.0


class Skip(Exception):
    """Raised by a check that cannot run; the text is the reason."""


@dataclass(frozen=True)
class Subject:
    """The model that runs: its file, whether it was ever trained, and what counts of its detections in a window."""

    checkpoint: Path
    is_trained: bool
    score_threshold: float
    max_detections: int


@dataclass
class Bench:
    """What later checks take from earlier ones.

    Attributes:
        folder: for files that are gone afterwards.
        model: shipped weights, a checkpoint or a preset to run; None where none are shipped and none was named.
        plugins, blocked: local plugins to load, ids to leave out.
        registry: every plugin that can be loaded.
        drive: the small synthetic drive. subject: the model as it runs on it.
        seen: what it sees there, window by window, without ROS. detections: the file that holds it.
    """

    folder: Path
    model: str | None = None
    plugins: Sequence[str] = ()
    blocked: Sequence[str] = ()
    registry: Registry | None = None
    drive: LabelledDrive | None = None
    subject: Subject | None = None
    seen: Sequence[WindowDetections] | None = None
    detections: Path | None = None

    def need(self, name: str) -> Any:
        """Return what an earlier check left here.

        Raises:
            Skip: if that check did not get so far.
        """
        value = getattr(self, name)
        if value is None:
            raise Skip(_NEEDED[name])
        return value


_NEEDED = {
    "model": "no weights are shipped with this version; name a model with --model (a preset runs untrained)",
    "registry": "the plugins could not be loaded",
    "drive": "the small drive could not be made",
    "subject": "no model could be run",
    "seen": "the model was not run on the small drive",
    "detections": "the model was not run on the small drive",
}

Check = Callable[[Bench], Finding]


def examine(
    checks: Mapping[str, Check], bench: Bench, on_start: Callable[[str], None] = lambda name: None
) -> Iterator[Finding]:
    """Yield the finding of each check; one that breaks down has failed, and the others go on.

    Args:
        checks: by name, in the order in which they run.
        on_start: called with the name of the check that begins.
    """
    for name, check in checks.items():
        on_start(name)
        began = time.perf_counter()
        try:
            found = check(bench)
        except Skip as reason:
            found = Finding("skipped", str(reason))
        except (SnnPerceptionError, OSError) as error:
            found = Finding("failed", _one_line(error))
        except Exception as error:  # whatever is wrong with an installation, the other checks shall tell more of it
            log.debug("check '%s'", name, exc_info=error)
            told = f"{type(error).__name__}: {_one_line(error)}"
            found = Finding("failed", told, "run doctor with -vv for the traceback")
        yield replace(found, check=name, seconds=round(time.perf_counter() - began, 2))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
