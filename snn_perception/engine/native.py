"""The detector with every layer in the form that is fastest here: norms folded, spikes added, or dense, as measured.

What a convolution gets decides how it is best computed. Layers fed with spikes add weights where a neuron fired
(`snn_perception.native`), together with their neuron where one follows. Where much fires, or the input is no spikes,
the dense convolution of torch is faster. So each layer is timed once in each form on windows of a made-up scene; the
choice is kept in the cache of engines.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception import native
from snn_perception.detector import Detector
from snn_perception.engine.cache import cache_folder, cache_name, processor
from snn_perception.engine.engines import DetectorEngine, Settings
from snn_perception.engine.export import weights_digest
from snn_perception.engine.probe import synthetic_inputs
from snn_perception.engine.sparse_layers import DenseConv, DenseStage, SparseConv, SparseStage, has_step, is_patches
from snn_perception.engine.whole_layers import TilesConv, has_whole_step, taken_by, whole_stage
from snn_perception.errors import ExportError
from snn_perception.fold import Foldable, Fusable, fold_norms, map_layers, merge_siblings
from snn_perception.native.neuron import Form
from snn_perception.native.tiles import MOST_SPIKES as MOST_IN_TILES
from snn_perception.native.tiles import fits_tiles
from snn_perception.nn import PotentialStage, SpikingStage
from snn_perception.whole_file import whole_file

WARM_UP_WINDOWS = 3
_REPEATS = 3
_FORMAT = 2  # of the choices in the cache

log = logging.getLogger(__name__)

Makers = dict[str, Callable[[], nn.Module]]


class NativeEngine(DetectorEngine):
    """A detector whose layers are in the form chosen for this processor.

    Attributes:
        choices: the form of each layer, by its name: ``dense``, ``sparse`` ....

    Raises:
        ExportError: if the kernels are not built, or the model is not on the CPU.
    """

    def __init__(self, detector: Detector, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        if (reason := native.why_not()) is not None:
            raise ExportError(f"the engine 'native' needs its kernels: {reason}")
        if detector.device.type != "cpu" or detector.dtype != torch.float32:
            raise ExportError(
                f"the engine 'native' is for float32 on the CPU, got {detector.dtype} on {detector.device}"
            )
        form = _with_alternatives(detector)
        self.choices = _chosen(form, detector, settings)
        super().__init__(_in_form(form, self.choices), "native", source=detector)


class Alternatives(nn.Module):
    """A layer of several convolutions in a row that also equals a single one; it runs as the several."""

    def __init__(self, several: nn.Module, single: nn.Conv2d) -> None:
        super().__init__()
        self.several, self.single = several, single

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        y: Tensor = self.several(x)
        return y


def _with_alternatives(detector: Detector) -> Detector:
    """Return a folded copy in which layers that have two forms have both."""

    def alternatives(layer: nn.Module) -> nn.Module | None:
        if not (isinstance(layer, Fusable) and isinstance(layer, Foldable)):
            return None
        return Alternatives(layer.folded(), layer.fused())

    return merge_siblings(fold_norms(map_layers(detector, alternatives))).requires_grad_(False)


def _chosen(form: Detector, detector: Detector, settings: Settings) -> dict[str, str]:
    """Return the form of each layer: from the cache, or measured now."""
    key = cache_name(
        weights_digest(detector),
        "native",
        ("torch", "snn_perception"),
        processor(),
        threads=settings.threads,
        v=_FORMAT,
    )
    path = cache_folder(settings.cache) / f"{key}.native.json"
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict) and {name for name, _ in _layers(form)} <= found.keys():
            return {str(name): str(value) for name, value in found.items()}
    except (OSError, ValueError):
        pass
    settings.on_stage("measuring the layers, once for these weights")
    choices = measure_layers(form, synthetic_inputs(detector, WARM_UP_WINDOWS + 1))
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(choices, indent=1))
    return choices


@torch.no_grad()
def measure_layers(form: Detector, inputs: Sequence[Tensor]) -> dict[str, str]:
    """Return the fastest form of each layer of a folded detector on the last of some windows."""
    choices: dict[str, str] = {}
    state = None
    for x in inputs[:-1]:
        _, state = form(x, state)
    handles = []
    fed = _fed_by_whole_stages(form)
    for name, layer in _layers(form):

        def look(module: nn.Module, arguments: tuple[Any, ...], output: Any, name: str = name) -> None:
            if name not in choices:
                choices[name] = "dense"  # what is measured calls this hook again
                choices[name] = _fastest(module, arguments, any_form=name in fed)

        handles.append(layer.register_forward_hook(look))
    try:
        form(inputs[-1], state)
    finally:
        for handle in handles:
            handle.remove()
    return dict.fromkeys((name for name, _ in _layers(form)), "dense") | choices  # some never run


def _fed_by_whole_stages(form: nn.Module) -> set[str]:
    """Return the names of layers whose spikes will come in the form that they read fastest."""
    stages = ((name, stage) for name, stage in form.named_modules() if isinstance(stage, PotentialStage))
    return {f"{name}.current" for name, stage in stages if has_whole_step(stage.neuron)}


def _layers(form: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that can be replaced, by name; what is inside of one is not among them."""
    found: list[tuple[str, nn.Module]] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if _is_layer(child):
                found.append((path, child))
            else:
                walk(child, f"{path}.")

    walk(form, "")
    return found


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, SpikingStage):
        return _is_plain(module.current) and has_step(module.neuron)
    return isinstance(module, Alternatives) or _is_plain(module)


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.groups == 1 and module.dilation == (1, 1)


def _makers(layer: nn.Module, *, binary: bool, form: Form = "floats") -> Makers:
    """Return the forms of a layer whose input is spikes: 0 and 1, or, if not `binary`, whole numbers."""
    if isinstance(layer, SpikingStage):
        conv, neuron = layer.current, layer.neuron
        assert isinstance(conv, nn.Conv2d)
        sparse: Makers = {"sparse": lambda: SparseStage(conv, neuron, form=form)} if binary else {}
        if binary and is_patches(conv):
            sparse["sparse patches"] = lambda: SparseStage(conv, neuron, form=form, patches=True)
        return {"dense": lambda: DenseStage(conv, neuron), **sparse}
    if isinstance(layer, Alternatives):
        return {
            "dense": lambda: _dense(layer.several),
            "sparse": lambda: _first_sparse(layer.several, binary=binary),
            "fused sparse": lambda: SparseConv(layer.single, binary=binary),
        }
    assert isinstance(layer, nn.Conv2d)
    makers: Makers = {"dense": lambda: DenseConv(layer), "sparse": lambda: SparseConv(layer, binary=binary)}
    if fits_tiles(layer):
        makers["tiles"] = lambda: TilesConv(layer)
    return makers


def _dense(layer: nn.Module) -> nn.Module:
    """Return a convolution, or several in a row, in the order of channels_last."""
    if isinstance(layer, nn.Sequential):
        return nn.Sequential(*map(_dense, layer))
    return DenseConv(layer) if isinstance(layer, nn.Conv2d) else layer


def _first_sparse(several: nn.Module, *, binary: bool) -> nn.Module:
    """Return a sequence whose first convolution, which is fed with spikes, adds."""
    first, *others = several.children()
    assert isinstance(first, nn.Conv2d)
    return nn.Sequential(SparseConv(first, binary=binary), *(_dense(layer) for layer in others))


def _fastest(layer: nn.Module, arguments: tuple[Any, ...], *, any_form: bool) -> str:
    """Return the name of a layer's fastest form for these arguments, ``whole`` before it if spikes are no bits.

    Args:
        any_form: whether spikes will come to the layer in the form that it reads fastest; else as numbers.
    """
    x, *rest = arguments
    x = _channels_last(x)
    if (kind := spike_kind(x)) is None:
        return "dense"
    makers = _makers(layer, binary=kind == "binary")
    if not bool((x <= MOST_IN_TILES).all()):
        makers = {name: make for name, make in makers.items() if not name.endswith("tiles")}
    candidates = {name: make() for name, make in makers.items()}
    inputs = {
        name: x.to(torch.uint8) if any_form and taken_by(candidate) == "bytes" else x
        for name, candidate in candidates.items()
    }
    times = dict.fromkeys(candidates, math.inf)
    for _ in range(_REPEATS + 1):  # in turn: other work on the machine slows all of them
        for name, candidate in candidates.items():
            times[name] = min(times[name], _seconds(candidate, inputs[name], rest))
    best = min(times, key=times.__getitem__)
    return best if kind == "binary" or best == "dense" else f"whole {best}"


def spike_kind(x: Tensor) -> str | None:
    """Return ``binary`` for 0 and 1 alone, ``whole`` for small whole numbers from 0, None for anything else."""
    if bool(((x == 0) | (x == 1)).all()):
        return "binary"
    return "whole" if bool(((x >= 0) & (x <= 255) & (x == x.round())).all()) else None


def _channels_last(x: Tensor) -> Tensor:
    """Return x [N, C, H, W] or [T, B, C, H, W] in memory of channels_last."""
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def _seconds(layer: nn.Module, x: Tensor, rest: Sequence[Any]) -> float:
    begun = time.process_time()
    layer(x, *rest)
    return time.process_time() - begun


def _in_form(form: Detector, choices: dict[str, str]) -> Detector:
    """Return a detector with its layers in the chosen forms; unknown layers stay as they are."""
    result = copy.deepcopy(form)
    for name, layer in _layers(result):
        choice = choices.get(name)
        if choice is None:
            continue
        makers = _makers(layer, binary=not choice.startswith("whole "))
        make = makers.get(choice.removeprefix("whole "))
        if make is None:  # of another version
            continue
        holder, _, last = name.rpartition(".")
        setattr(result.get_submodule(holder), last, make())
    return map_layers(result, lambda layer: whole_stage(layer) if isinstance(layer, PotentialStage) else None)
