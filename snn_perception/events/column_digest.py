"""Whether two streams hold the same events, told in one pass over each."""

from __future__ import annotations

import hashlib

import numpy as np

from snn_perception.events.recording import Recording
from snn_perception.events.walk import EventWalk
from snn_perception.registry import Registry
from snn_perception.types import DecodedEvents, EventArray


class ColumnDigest:
    """Four digests, of the columns t, x, y and p, so that two streams compare whatever their pieces."""

    def __init__(self) -> None:
        self.events = 0
        self._sha = {name: hashlib.sha256() for name in "txyp"}

    def add(self, events: DecodedEvents | EventArray, offset: int = 0) -> None:
        """Take in the next piece, with `offset` added to its times."""
        self.events += len(events)
        for name, sha in self._sha.items():
            column = getattr(events, name)
            sha.update(np.ascontiguousarray(column + offset if name == "t" and offset else column).data)

    def value(self) -> tuple[int, ...]:
        """Return what is equal for equal streams."""
        return (self.events, *(int.from_bytes(sha.digest(), "big") for sha in self._sha.values()))


def walk_digest(recording: Recording, registry: Registry, *, in_ns: bool, offset_ns: int = 0) -> ColumnDigest:
    """Return the digest of a recording's events, times in ns or us, less `offset_ns` (for those in ns)."""
    digest = ColumnDigest()
    for _, events in EventWalk(recording, registry):
        if not in_ns:
            digest.add(events.to_event_array())
        elif events.time_unit == "ns":
            digest.add(events, -offset_ns)
        else:
            digest.add(DecodedEvents(events.x, events.y, events.p, events.t * 1000, events.size, "ns"), -offset_ns)
    return digest
