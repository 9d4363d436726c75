"""Array types, bounds, and the checks that every value of columns makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

LEAP_US = 100_000  # forward steps of sensor time above this are reported as leaps; the user's gap limit is no lower
JITTER_US = 50_000  # backward steps up to this are disorder (EVT3 may repeat 10 x 4096 us); beyond it time jumped
MAX_SIDE_PX = 1 << 14  # no event camera comes near; a larger geometry is a damaged header


def require(array: Any, name: str, dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `array` is a NumPy array of `dtype` and `shape` (None = any length)."""
    if isinstance(array, np.ndarray) and array.dtype == dtype and _matches(array.shape, shape):
        return
    wanted_text = f"{np.dtype(dtype).name}[{', '.join('N' if n is None else str(n) for n in shape)}]"
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: expected a NumPy array {wanted_text}, got {type(array).__name__}")
    raise ValueError(f"{name}: expected {wanted_text}, got {array.dtype.name}{list(array.shape)}")


def _matches(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w is None or w == n for w, n in zip(wanted, shape, strict=True))


def require_same_length(**arrays: npt.NDArray[Any]) -> None:
    if len(set(map(len, arrays.values()))) > 1:
        raise ValueError(f"columns differ in length: { {name: len(array) for name, array in arrays.items()} }")
