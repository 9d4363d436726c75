"""The names that a pickle may mention, and what stands in for each; every other name is refused."""

import re
import sys
from collections.abc import Callable
from typing import Any

import torch

from snn_perception.foreign import standins
from snn_perception.foreign.limits import Budget, damaged, shown, unknown
from snn_perception.foreign.records import DTYPES, ArrayRecord, ArrayType, GlobalRef, Inert, TensorRecord
from snn_perception.foreign.standins import Args, StandIn, expect

_STORAGE_NAMES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    **{"Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
}
STORAGE_TYPES: dict[str, torch.dtype] = {
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGE_NAMES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _STORAGE_NAMES.items()},
    **dict.fromkeys(("torch.storage.UntypedStorage", "torch.storage._UntypedStorage"), torch.uint8),
}
"""Storage classes and the type of their elements; an untyped one counts bytes, its tensors name their own type."""

_REBUILDS: dict[str, StandIn] = {
    "torch._utils._rebuild_tensor": standins.tensor,
    "torch._utils._rebuild_tensor_v2": standins.tensor,
    "torch._utils._rebuild_tensor_v3": standins.tensor_v3,
    "torch._utils._rebuild_parameter": standins.parameter,
    "torch._utils._rebuild_parameter_with_state": standins.parameter,
}


def _from_type(args: Args, budget: Budget) -> TensorRecord:
    """Stand in for ``_rebuild_from_type_v2(function, type, args, state)``: a tensor with Python attributes."""
    expect(len(args) == 4 and isinstance(args[0], GlobalRef) and isinstance(args[2], tuple), "tensor with attributes")
    expect(args[0].name in _REBUILDS, "tensor with attributes")
    record: TensorRecord = _REBUILDS[args[0].name](args[2], budget)
    return record


_CALLS: dict[str, StandIn] = {
    **_REBUILDS,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": standins.size,
    "torch.device": standins.device,
    "torch.serialization._get_layout": standins.text,
    "torch.torch_version.TorchVersion": standins.text,
    "collections.OrderedDict": standins.ordered_dict,
    "collections.defaultdict": standins.default_dict,
    "collections.Counter": standins.same_dict,
    "collections.deque": standins.empty_list,
    "builtins.set": standins.members,
    "builtins.frozenset": standins.members,
    "_codecs.encode": standins.encoded,
    "numpy.dtype": standins.array_type,
    "pytorch_lightning.utilities.parsing.AttributeDict": standins.same_dict,
    "lightning.pytorch.utilities.parsing.AttributeDict": standins.same_dict,
}
for _library in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _CALLS[f"{_library}.multiarray.scalar"] = standins.array_scalar
    _CALLS[f"{_library}.multiarray._reconstruct"] = standins.empty_array
    _CALLS[f"{_library}.numeric._frombuffer"] = standins.array_from_buffer
for _library in ("pathlib", "pathlib._local"):  # before and in Python 3.13
    for _name in ("Path", "PosixPath", "PurePath", "PurePosixPath"):
        _CALLS[f"{_library}.{_name}"] = standins.posix_path
    for _name in ("WindowsPath", "PureWindowsPath"):
        _CALLS[f"{_library}.{_name}"] = standins.windows_path

_NAMESPACES = frozenset({"argparse.Namespace", "types.SimpleNamespace"})

# May be mentioned (as a dictionary's key or factory, or as a type beside its data), never called.
_MENTIONS = frozenset(
    {
        *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "int", "list", "object", "str", "tuple")),
        *("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
        *("numpy.ndarray", "torch.storage.TypedStorage", "torch.storage._TypedStorage"),
    }
)
# Lightning files the states of its callbacks under their classes.
_MENTIONED_PACKAGES = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "lightning_lite.")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def resolve(module: str, name: str, inert: Callable[[str], bool], where: Callable[[], str]) -> GlobalRef | torch.dtype:
    """Return what a mention of a name leaves on the stack: the name, or a dtype; raise Refusal if it is unknown."""
    full = f"{_PYTHON_2.get(module, module)}.{name}"
    if full in DTYPES:
        return DTYPES[full]
    if full in _CALLS or full in _NAMESPACES or full in _MENTIONS or full in STORAGE_TYPES:
        return GlobalRef(full)
    is_name = len(full) <= 300 and _NAME.fullmatch(full) is not None
    if is_name and (full.startswith(_MENTIONED_PACKAGES) or _is_inert(full, inert)):
        return GlobalRef(full)
    raise unknown(f"refuses global {shown(full)} ({where()})")


def stand_in(name: str, args: Args, budget: Budget, inert: Callable[[str], bool]) -> Any:
    """Return what takes the place of a call of `name`; raise Refusal if there is nothing, or for unusual arguments."""
    if name in _CALLS:
        return _CALLS[name](args, budget)
    if name in _NAMESPACES or _is_inert(name, inert):
        return Inert(name, args)
    raise unknown(f"refuses a call of {shown(name)}")


def set_state(target: Any, state: Any, budget: Budget) -> None:
    """Give a fresh record its state; attributes of a dict (``state_dict()._metadata``) are of no use and dropped."""
    if isinstance(target, Inert) and target.state is None:
        expect(target.qualified_name not in _NAMESPACES or isinstance(state, dict), "namespace")
        target.state = state
    elif isinstance(target, ArrayType):
        expect(isinstance(state, tuple) and len(state) >= 2 and state[1] in standins.BYTE_ORDERS, "NumPy type")
        target.order = state[1]
    elif isinstance(target, ArrayRecord) and target.value is None:
        expect(isinstance(state, tuple) and len(state) == 5, "NumPy array")
        _, shape, kind, is_fortran, raw = state
        target.value = standins.array(raw, kind, shape, "F" if is_fortran is True else "C", budget)
    elif not (isinstance(target, dict) and isinstance(state, dict)):
        raise damaged(f"gives a state to a {type(target).__name__} that takes none or has one")


def _is_inert(name: str, inert: Callable[[str], bool]) -> bool:
    """Whether the caller allows a class as an inert record; nothing of the standard library ever is one."""
    return name.split(".", maxsplit=1)[0] not in sys.stdlib_module_names and inert(name)
