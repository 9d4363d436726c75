"""The second file; a dataclass looks its module up by name while it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Part:
    size: int = 3
