"""How an evaluation cuts windows where nobody says so: as the weights were trained, if the model can be run so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snn_perception.data.window_rule import GRID, WindowRule
from snn_perception.errors import SpecError

BY_HAND = "asked for"
OF_RUN = "as the checkpoint was trained"
OF_IMPORT = "as the imported weights were trained by their authors"
OF_DATA = "the data set's own"
BY_DEFAULT = "by default"


@dataclass(frozen=True)
class ChosenRule:
    """The window rule that is in force, and in words where it came from."""

    rule: WindowRule
    origin: str

    def as_settings(self) -> dict[str, Any]:
        """Return plain values for the settings of a report."""
        return {"windows": self.rule.kind, "lookback": self.rule.lookback, "windows_from": self.origin}


def choose_rule(
    run: Mapping[str, Any],
    state_policy: str,
    *,
    kind: str | None = None,
    lookback: bool | None = None,
    has_windows: bool = False,
) -> ChosenRule:
    """Return how windows are cut: as asked for, else as the weights were trained, else on the grid.

    Args:
        run: the record of a checkpoint (`Checkpoint.run`), empty for a model without one.
        state_policy: of the model; one that carries state needs the grid.
        kind, lookback: what was asked for. A kind alone is without look-back; look-back alone is of the kind that would
            be taken without it.
        has_windows: the data set's samples are windows already, or images: nothing is cut.

    Raises:
        SpecError: for look-back with another kind than ``label``.
    """
    if kind is not None:
        return ChosenRule(WindowRule(kind, bool(lookback)), BY_HAND)
    own = _own_rule(run, state_policy, has_windows)
    return own if lookback is None else ChosenRule(WindowRule(own.rule.kind, lookback), BY_HAND)


def _own_rule(run: Mapping[str, Any], state_policy: str, has_windows: bool) -> ChosenRule:
    if has_windows:
        return ChosenRule(GRID, OF_DATA)
    for said, origin in ((_at(run, "config", "data"), OF_RUN), (_at(run, "report", "windows"), OF_IMPORT)):
        rule = _rule_in(said)
        if rule is None:
            continue
        if not rule.is_grid and state_policy != "per_window":
            return ChosenRule(GRID, f"trained with windows: {rule.kind}, which state_policy {state_policy} rules out")
        return ChosenRule(rule, origin)
    return ChosenRule(GRID, BY_DEFAULT)


def _at(values: Any, *keys: str) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _rule_in(said: Any) -> WindowRule | None:
    """Return the rule in a run's data section or an import's report; None if there is none that this version knows."""
    kind, lookback = _at(said, "windows"), _at(said, "lookback")
    if not isinstance(kind, str):
        return None
    try:
        return WindowRule(kind, lookback is True)
    except SpecError:
        return None
