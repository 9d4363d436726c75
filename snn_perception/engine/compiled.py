"""The folded step compiled ahead of time by inductor, torch's compiler: a library that start-up only has to load.

The norms are folded into convolutions and these into their packed weights; what lies between two convolutions (the
leak, the threshold, the reset) becomes one loop. The library takes 1 to 16 rows. It is kept in the cache of engines
under a name that holds weights, versions and processor; neither Python code nor the compiler is needed to load it.

This is ``torch.compile`` without its just-in-time half. With that, every process traces and checks the network again
before it finds the compiled loops on disk, and a graph whose weights are packed is not kept at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_perception.detector import Detector
from snn_perception.engine.cache import cache_folder, cache_name, processor
from snn_perception.engine.engines import Settings
from snn_perception.engine.export import example_input, weights_digest
from snn_perception.engine.program import export_program, flat_arguments, unflatten
from snn_perception.engine.step import Step, StepShape, step_shape
from snn_perception.errors import ExportError
from snn_perception.fold import fold_norms
from snn_perception.state import State
from snn_perception.whole_file import whole_file

PACKAGES = ("torch", "snn_perception")
_FORMAT = 1  # of what is kept
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # where the compiler leaves its parts; it has no other way to be told


class CompiledEngine:
    """A step in machine code.

    Raises:
        ExportError: if the network cannot be traced or compiled, or there is no C++ compiler and nothing in the cache.
    """

    name, precision = "compile", "fp32"

    def __init__(self, detector: Detector, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        if detector.dtype != torch.float32:
            raise ExportError(f"the engine 'compile' is for float32, got {detector.dtype}")
        self.shape: StepShape = step_shape(detector, example_input(detector, rows=1, seed=0))
        self._device = detector.device
        self._run = _loaded(library_of(detector, settings), self._device)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, state: State = None, keep: Tensor | None = None, active: Tensor | None = None
    ) -> tuple[Any, State]:
        """Return the head's raw output and the state after x."""
        arguments = flat_arguments(self.shape, x.to(self._device), state, keep, active)
        with exact_floats(self._device):
            return unflatten(self.shape, self._run(arguments))


def library_of(detector: Detector, settings: Settings) -> Path:
    """Return the compiled step of a detector from the cache, compiled now if it is not there.

    Raises:
        ExportError: if it cannot be.
    """
    device = processor() if detector.device.type == "cpu" else torch.cuda.get_device_name(detector.device)
    name = cache_name(weights_digest(detector), "inductor", PACKAGES, device, threads=settings.threads, v=_FORMAT)
    path = cache_folder(settings.cache) / f"{name}.pt2"
    if not path.exists():
        compile_step(detector, path, settings)
    return path


def compile_step(detector: Detector, path: Path, settings: Settings) -> None:
    """Write the compiled step of a detector as ``path``.

    Raises:
        ExportError: if this version of torch has no such compiler, there is no C++ compiler, or it fails.
    """
    _require_compiler(detector.device)
    x = example_input(detector, rows=2, seed=0)
    step = Step(fold_norms(detector).requires_grad_(False), x, with_boxes=False).eval()
    settings.on_stage("tracing the network")
    program = export_program(step, x)
    settings.on_stage("compiling the network, once for these weights and this processor")
    options = {
        "freezing": True,
        "cpp.threads": settings.threads,
        # Headers serve one compilation here, and instructions are looked up, not tried out: half of the time.
        "aot_inductor.precompile_headers": False,
        "cpp.vec_isa_ok": True,
    }
    with whole_file(path) as partial, _scratch(path.parent), torch.no_grad(), exact_floats(detector.device):
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(partial), inductor_configs=options)
        except Exception as error:  # the compiler's errors have no common base
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
            raise ExportError(f"the network cannot be compiled: {reason}; use another engine") from error


@contextmanager
def _scratch(beside: Path) -> Iterator[None]:
    """Let the compiler leave its parts in a folder that is gone afterwards."""
    before = os.environ.get(_FOLDER)
    with tempfile.TemporaryDirectory(prefix=".inductor.", dir=beside, ignore_cleanup_errors=True) as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            os.environ.pop(_FOLDER)
            if before is not None:
                os.environ[_FOLDER] = before


def _require_compiler(device: torch.device) -> None:
    import torch._inductor.cpp_builder as builder
    import torch._inductor.exc as errors

    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        raise ExportError(f"the engine 'compile' needs torch 2.6, here is {torch.__version__}; use another engine")
    try:
        builder.get_cpp_compiler()
    except errors.InvalidCxxCompiler:
        raise ExportError(
            "the engine 'compile' needs a C++ compiler: install g++ (apt install g++) or name one in the variable CXX, "
            "or copy the cache of a machine with the same processor and versions"
        ) from None


def _loaded(path: Path, device: torch.device) -> Any:
    """Return ``run(inputs) -> outputs`` of a compiled step."""
    # torch._inductor.aoti_load_package wraps the same loader and imports the whole compiler, which takes seconds.
    from torch._C._aoti import AOTIModelPackageLoader

    try:
        loader = AOTIModelPackageLoader(str(path), "model", False, 1, -1 if device.index is None else device.index)
    except RuntimeError as error:
        path.unlink(missing_ok=True)  # the next start makes it anew
        reason = str(error).strip().splitlines()[0][:200]
        raise ExportError(f"{path}: cannot be loaded: {reason}; it is deleted, start again") from error
    return loader.run


def exact_floats(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which a GPU keeps all bits of float32: with TF32, torch's default, other neurons fire."""
    return nullcontext() if device.type == "cpu" else torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
