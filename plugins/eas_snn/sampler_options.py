"""Options of a sampler, checked one by one and against each other."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from .sampler_slices import READOUTS, Readout

NAMES = ("arsnn", "rsnn", "snn", "count")
BRANCHES = ("main", "ncaltech-rep")


@dataclass(frozen=True)
class SamplerOptions:
    """Options of a sampler, as `build_sampler` has them."""

    name: str
    ksize: int
    depth: int
    steps: int
    slots: int
    threshold: float
    reset: float | None
    readout: Readout
    spike_attach: bool
    write_zero: bool
    absolute: bool
    branch: str
    leak: float

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            close = difflib.get_close_matches(self.name, NAMES, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"sampler must be one of {list(NAMES)}, got {self.name!r}{hint}")
        if self.branch not in BRANCHES:
            raise ValueError(f"branch must be one of {list(BRANCHES)}, got {self.branch!r}")
        if self.readout not in READOUTS:
            raise ValueError(f"readout must be one of {list(READOUTS)}, got {self.readout!r}")
        for option in ("depth", "steps", "slots", "ksize"):
            if type(value := getattr(self, option)) is not int or value < 1:
                raise ValueError(f"{option} must be a whole number of at least 1, got {value!r}")
        if self.ksize % 2 == 0:
            raise ValueError(f"ksize must be odd, since the sampler keeps the size of its input, got {self.ksize}")
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"threshold must be positive, got {self.threshold}")
        if self.reset is not None and not math.isfinite(self.reset):
            raise ValueError(f"reset must be a number (hard) or None (soft: less by the threshold), got {self.reset}")
        if not 0 < self.leak < 1:
            raise ValueError(f"leak must lie between 0 and 1, got {self.leak}")
        self._require_sense()

    def _require_sense(self) -> None:
        """Refuse options that contradict each other."""
        if self.name == "arsnn":
            if self.readout == "last" and self.reset == 0 and self.write_zero:
                raise ValueError(
                    "readout 'last' reads the potential after the reset to 0, and write_zero drops all that has not "
                    "fired, so every frame would be 0; use readout 'before_reset', or write_zero=False"
                )
            return
        kinds = {"rsnn": ("sum", "last"), "snn": ("sum", "last"), "count": ("sum",)}[self.name]
        if self.slots != 1:
            raise ValueError(f"slots must be 1 for the sampler '{self.name}', got {self.slots}; only 'arsnn' has more")
        if self.readout not in kinds:
            raise ValueError(f"readout must be one of {list(kinds)} for '{self.name}', got {self.readout!r}")
        if self.name == "snn" and self.reset != 0:
            raise ValueError(f"reset must be 0 for the sampler 'snn', got {self.reset}")
        if self.absolute and self.name != "rsnn":
            raise ValueError(f"absolute is for 'arsnn' and 'rsnn', whose frames can be negative, not '{self.name}'")
        if self.branch != "main" and self.depth > 1 and self.name != "count":
            raise ValueError(
                f"branch '{self.branch}' has a deeper form of 'arsnn' alone; use depth=1 or branch='main' "
                f"for '{self.name}'"
            )
