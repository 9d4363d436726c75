"""One unit's run and what came of it, in a form that reaches other processes whole."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from snn_perception.errors import SnnPerceptionError

_LONGEST_NAME = 80


@dataclass(frozen=True)
class Done:
    """The result of a unit."""

    result: Any

    def value(self, unit: object, number: int) -> Any:
        """Return the result."""
        return self.result


@dataclass(frozen=True)
class Failed:
    """The error that ended a unit.

    Attributes:
        error: pickled, as its class may be unknown where it arrives.
        is_told: it is an SnnPerceptionError, so its text is meant for people.
        text: its message. kind: its class. trace: where it arose, as Python prints it.
    """

    error: bytes
    is_told: bool
    text: str
    kind: str
    trace: str

    def value(self, unit: object, number: int) -> Any:
        """Raise the error with the unit named: an SnnPerceptionError in its message, any other in its cause.

        Args:
            number: which unit it is, counted from 1.
        """
        name = unit_name(unit, number)
        cause = UnitFailed(f"in {name}:\n{self.trace}")
        error = self._restored()
        if self.is_told:
            kind = type(error) if isinstance(error, SnnPerceptionError) else SnnPerceptionError
            text = self.text if name in self.text else f"{name}: {self.text}"
            raise _told(kind, text) from cause
        if isinstance(error, MemoryError):
            raise SnnPerceptionError(f"{name}: memory ran out; use fewer workers (--workers)") from cause
        if isinstance(error, Exception):
            raise error from cause
        raise RuntimeError(f"{name}: {self.kind}: {self.text}") from cause  # SystemExit and their kin end no command

    def _restored(self) -> BaseException | None:
        try:
            error = pickle.loads(self.error)
        except Exception:
            return None
        return error if isinstance(error, BaseException) else None


Outcome = Done | Failed


class UnitFailed(Exception):
    """The cause of an error that a unit raised: which unit, and where in its process."""


def attempt(function: Callable[[Any], Any], unit: object) -> Outcome:
    """Return what came of ``function(unit)``; only Ctrl-C and a worker's own end go through."""
    try:
        return Done(function(unit))
    except (KeyboardInterrupt, WorkerEnds):
        raise
    except BaseException as error:
        return failed(error)


def failed(error: BaseException) -> Failed:
    """Return an error as an outcome."""
    try:
        pickled = pickle.dumps(error)
    except Exception:
        pickled = b""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Failed(pickled, isinstance(error, SnnPerceptionError), str(error), type(error).__name__, trace)


class WorkerEnds(BaseException):
    """Raised in a worker that shall end, so that what it has half written is removed on the way out."""


def unit_name(unit: object, number: int) -> str:
    """Return what a person calls a unit: its `name`, its path or text, or else its number.

    Args:
        number: counted from 1.
    """
    first = unit[0] if isinstance(unit, tuple) and unit else unit
    for value in (getattr(first, "name", None) if not isinstance(first, PurePath) else None, first):
        if isinstance(value, (str, PurePath)) and str(value):
            text = str(value)
            return text if len(text) <= _LONGEST_NAME else f"...{text[-_LONGEST_NAME:]}"
    return f"unit {number}"


def _told(kind: type[SnnPerceptionError], text: str) -> SnnPerceptionError:
    try:
        return kind(text)
    except Exception:  # a subclass with other arguments
        return SnnPerceptionError(text)
