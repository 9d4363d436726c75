"""Tensor records become tensors, each in memory of its own."""

import math
import sys
from collections import defaultdict

import torch

from snn_perception.foreign.containers import StorageSource
from snn_perception.foreign.limits import MAX_TENSORS, Refusal, damaged, shown
from snn_perception.foreign.records import TensorRecord, itemsize


def materialise(records: dict[str, TensorRecord], source: StorageSource, file_size: int) -> dict[str, torch.Tensor]:
    """Return contiguous tensors in the order of `records`, no two of which share memory.

    Raises:
        Refusal: if the tensors would take far more memory than the file.
    """
    _check_total(records, file_size)
    by_storage: dict[str, list[str]] = defaultdict(list)
    for name, record in records.items():
        by_storage[record.storage.key].append(name)
    tensors = {}
    for key, names in by_storage.items():  # one storage at a time, so that shared ones are read once
        is_used = any(records[name].numel for name in names)  # else there may be nothing to read
        content = source.read(key) if is_used else torch.empty(0, dtype=torch.uint8)
        for name in names:
            tensors[name] = _tensor(content, records[name], source.byteorder, shared=len(names) > 1)
    return {name: tensors[name] for name in records}


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raise Refusal where a floating tensor holds NaN or infinity: nothing good can be computed from it."""
    for name, tensor in tensors.items():
        _check_finite(name, tensor)


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = values.float() if values.element_size() == 1 else values
    lowest, highest = torch.aminmax(values)  # one pass without a mask; NaN anywhere comes out as NaN
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        count = int(torch.isfinite(values).logical_not().sum())
        raise Refusal(
            f"holds {count} NaN or infinite among {values.numel()} values of tensor {shown(name)}, "
            "expected finite weights: the training had diverged, take an earlier checkpoint"
        )


def _check_total(records: dict[str, TensorRecord], file_size: int) -> None:
    # A stride of 0 or a storage that many tensors share makes more tensor from less file; real files do little of it.
    total = sum(record.numel * itemsize(record.dtype) for record in records.values())
    limit = 4 * file_size + (16 << 20)
    if total > limit:
        raise damaged(f"unfolds {file_size} bytes to tensors of {total}")
    if len(records) > MAX_TENSORS:
        raise damaged(f"holds {len(records)} tensors, over the limit of {MAX_TENSORS}")


def _tensor(content: torch.Tensor, record: TensorRecord, byteorder: str, *, shared: bool) -> torch.Tensor:
    if not record.numel:
        return torch.empty(record.size, dtype=record.dtype)
    begin = record.storage.start * itemsize(record.storage.dtype)
    width = itemsize(record.dtype)
    length = record.storage.nbytes // width
    raw = content[begin : begin + length * width]
    if byteorder != sys.byteorder:
        part = width // 2 if record.dtype.is_complex else width  # a complex number is two floats, swapped one by one
        raw = raw.view(-1, part).flip(1).reshape(-1)
    flat = raw != 0 if record.dtype is torch.bool else raw.view(record.dtype)  # no byte but 0 and 1 is a bool
    view = torch.as_strided(flat, record.size, record.stride, flat.storage_offset() + record.offset)
    if view.is_contiguous() and not shared and record.numel == len(content) // width:
        return view  # the only user of all its memory
    return view.clone(memory_format=torch.contiguous_format)
