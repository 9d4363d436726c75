"""What importers read off the names and shapes of a file's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from snn_perception.errors import CheckpointError

MAX_CHANNELS = 99_999


def names_in_row(named: Mapping[str, Tensor], pattern: str, *, start: int = 0, step: int = 1) -> list[str]:
    """Return the names `pattern` gives for start, start + step, ... as long as they are in the file."""
    names: list[str] = []
    while (name := pattern.format(start + step * len(names))) in named:
        names.append(name)
    return names


def kernel_shape(
    named: Mapping[str, Tensor], name: str, *, prefix: str = "", most: int = MAX_CHANNELS
) -> tuple[int, ...]:
    """Return the shape [out, in, height, width] of a convolution's kernel.

    Args:
        prefix: of the name in the file, for messages. most: of each side.

    Raises:
        CheckpointError: if it is not there, or is no kernel.
    """
    if name not in named:
        raise CheckpointError(f"tensors do not fit the network: missing '{prefix}{name}'")
    shape = tuple(named[name].shape)
    if len(shape) != 4 or not all(1 <= side <= most for side in shape):
        raise CheckpointError(f"tensor '{prefix}{name}': expected a kernel [out, in, height, width], got {list(shape)}")
    return shape


def some(names: Sequence[str], limit: int = 4) -> str:
    """Return the first names, quoted and cut, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(ascii(name[:80]) for name in names[:limit]) or "none") + more
