"""Weights files of other programs, read as plain tensors and plain values; nothing in a file is ever executed.

A ``.pt``, ``.pth`` or ``.ckpt`` file is a pickle: a program that builds objects. Here a small interpreter of our own
runs that program on inert records. It has no way to import, look up or call what the file names: a name is a text,
compared with a short list of things that we know how to stand in for, and refused otherwise.

    reader      one file -> ForeignCheckpoint; tells the formats apart
    containers  the two torch layouts (zip archive; the stream used before 1.6) -> records and storages
    archive     the zip directory, checked entry by entry
    opcodes     bytes -> pickle instructions
    machine     instructions -> records
    known       the names that may occur; standins makes what takes their place
    contents    where in the records the weights are
    hints       the plain values beside them
    weights     tensor records -> tensors in memory of their own
    limits      what a file may ask of us at most
"""

from snn_perception.foreign.reader import ForeignCheckpoint, read_foreign
from snn_perception.foreign.records import Inert

__all__ = ["ForeignCheckpoint", "Inert", "read_foreign"]
