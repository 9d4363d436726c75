"""How much a foreign file may ask of us, and the refusal that it meets beyond."""

import math
from dataclasses import dataclass

import torch

from snn_perception.foreign.records import GlobalRef

MAX_PICKLE_BYTES = 64 << 20  # names and numbers only, weights lie outside: real ones stay below 1 MiB
MAX_OPCODES = 1_000_000  # about a second; a pickled 755-tensor module with its optimizer takes a third of it
MAX_INTEGER_BYTES = 512
MAX_NUMBER_KEYS = 4_000
MAX_COPIED_BYTES = 64 << 20
MAX_DIMENSIONS = 32
MAX_ELEMENTS = 1 << 48
MAX_DEPTH = 64
MAX_MODULE_ENTRIES = 200_000  # attributes, parameters, buffers and children of all modules together
MAX_DOTTED_NAME = 256
MAX_TENSORS = 20_000
MAX_HINT_VALUES = 100_000
MAX_HINT_ELEMENTS = 1024
MAX_ARCHIVE_ENTRIES = 65_536

REMEDY = "export the file with torch.save(model.state_dict(), path) where it was made and try again"

_KEY_TYPES = frozenset({str, bytes, bool, type(None), int, float, GlobalRef, torch.dtype})


class Refusal(Exception):
    """Why a file is not read: what was expected, what came, what to try. The reader puts the file's name in front."""


def damaged(what: str) -> Refusal:
    """Return the refusal of something that no writer makes."""
    return Refusal(f"{what}: the file is damaged or hostile; copy or download it again")


def unknown(what: str) -> Refusal:
    """Return the refusal of something that is not read, though its writer may have meant well."""
    return Refusal(f"{what}: only tensors and plain values are read; {REMEDY}")


@dataclass
class Budget:
    """What one file may make us do beyond reading its own bytes once."""

    opcodes: int = MAX_OPCODES
    number_keys: int = MAX_NUMBER_KEYS
    copied_bytes: int = MAX_COPIED_BYTES

    def check_key(self, key: object) -> None:
        """Raise Refusal unless a dict key or set member is hashed and found in constant time."""
        if isinstance(key, (str, bytes, bool, type(None))):
            return
        # A tuple keeps no hash, and a nested one is hashed by recursion in C: only flat short ones.
        parts = key if isinstance(key, tuple) and len(key) <= 8 else (key,)
        if any(type(part) not in _KEY_TYPES for part in parts):
            raise unknown(f"refuses a {type(key).__name__} as a dictionary key")
        # Hashes of numbers can be chosen to collide, which makes a dict quadratic; those of texts hold a secret.
        self.number_keys -= 1
        if self.number_keys < 0:
            raise unknown(f"refuses more than {MAX_NUMBER_KEYS} dictionary keys that are not text")

    def spend_copy(self, nbytes: int) -> None:
        """Count bytes that a call copies; else a few bytes of pickle could ask for the same copy again and again."""
        self.copied_bytes -= nbytes
        if self.copied_bytes < 0:
            raise unknown(f"refuses to copy more than {MAX_COPIED_BYTES >> 20} MiB of values")


def shown(text: object, limit: int = 100) -> str:
    """Return a text from a file, quoted, short and free of control characters, for a message; else its type's name."""
    whole = str(text) if isinstance(text, (str, int, float)) else type(text).__name__
    return ascii(whole if len(whole) <= limit else whole[:limit] + "...")


def checked_size(size: object, what: str) -> tuple[int, ...]:
    """Return `size` as a tuple of non-negative integers whose product cannot overflow; raise Refusal otherwise."""
    if not isinstance(size, (tuple, list)) or len(size) > MAX_DIMENSIONS:
        raise damaged(f"{what} is not a tuple of at most {MAX_DIMENSIONS} integers")
    if any(type(dim) is not int or dim < 0 for dim in size):
        raise damaged(f"{what} holds something else than integers from 0 up")
    if math.prod(max(dim, 1) for dim in size) > MAX_ELEMENTS:
        raise damaged(f"{what} is {shown(str(tuple(size)))}, larger than any tensor could be")
    return tuple(size)
