"""Work over many recordings: one executor for all commands, and the record of what is done already.

    with make_executor("processes", workers=4) as executor:
        for result in executor.map(convert_one, recordings, on_done=advance):
            ...

One recording is one unit. Results come in the order of the units and are the same for any executor and any number of
workers. `Ledger` and `unit_key` let an interrupted run go on where it stopped.
"""

from __future__ import annotations

from snn_perception.work.executor import EXECUTORS, Executor, OnDone, make_executor, processors_at_hand
from snn_perception.work.ledger import Ledger, file_identity, unit_key

__all__ = [
    "EXECUTORS",
    "Executor",
    "Ledger",
    "OnDone",
    "file_identity",
    "make_executor",
    "processors_at_hand",
    "unit_key",
]
