"""Samplers of EAS-SNN: authors' names and values -> our samplers -> frames, spikes, potentials and gradients."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from snn_perception_plugins.eas_snn.samplers import build_sampler
from snn_perception_plugins.eas_snn.thin_conv import from_phases
from torch import Tensor, nn

from snn_perception.fusing import plain_operations
from snn_perception.registry import Registry
from tests.golden_support.vectors import Vector, golden_fill

_NAMES = {"AdaptiveRSNNEmbedding": "arsnn", "SpikingEmbedding": "rsnn", "LIFEmbedding": "snn"}
# The authors' options -> ours.
_OPTIONS = {
    "kernel_size": "ksize",
    "depth": "depth",
    "Tm": "steps",
    "Ts": "slots",
    "thresh": "threshold",
    "reset": "reset",
    "readout": "readout",
    "spike_attach": "spike_attach",
    "write_zero": "write_zero",
}
_PREFIX = "embedding."  # under which the fill rule names the weights
_WEIGHTS_SEED = 7  # of the loss


def tells_samplers(vector: Vector) -> bool:
    cases = vector.json.get("options")
    return isinstance(cases, dict) and any(isinstance(case, dict) and "class" in case for case in cases.values())


def check_samplers(vector: Vector, registry: Registry) -> None:
    """Check every case twice: convolved in phases, as it runs, and plainly."""
    gain = vector.json["gain"]
    assert set(gain) == {"tensors with 2 or more axes", "everything else"} and gain["everything else"] == 1.0
    assert list(vector.arrays["input"].shape) == vector.json["input_shape"]
    for plainly in (False, True):
        with plain_operations() if plainly else nullcontext():
            for case in vector.json["options"]:
                _check_case(vector, case, gain["tensors with 2 or more axes"], in_phases=not plainly)
            if "count/output" in vector.arrays:
                bins = _bins(vector)
                vector.compare("count/output", build_sampler("count", steps=len(bins))(bins)[0])


def _check_case(vector: Vector, case: str, gain: float, *, in_phases: bool) -> None:
    recipe = vector.json["options"][case]
    sampler = _sampler(recipe, gain)
    bins = _bins(vector).requires_grad_()
    height, width = bins.shape[-2:]
    seen: list[tuple[Tensor, Tensor]] = []
    fire = sampler.cell.fire if hasattr(sampler, "cell") else sampler.fire
    handle = fire.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    frames = sampler(bins)
    handle.remove()
    if in_phases and height % 2 == 0 and width % 2 == 0:
        assert seen[0][0].shape[-2:] == (height // 2, width // 2), "the fast way was not taken"
        seen = [(from_phases(u), from_phases(s)) for u, s in seen]
    if recipe["options"]["Ts"] is None:  # one frame, without an axis of slots
        frames = frames[0]
    assert list(frames.shape) == recipe["output_shape"]
    vector.compare(f"{case}/output", frames)
    vector.compare_value((frames != 0).double().mean(), "options", case, "output_nonzero")
    potentials, spikes = (torch.stack(values) for values in zip(*seen, strict=True))
    assert 0.05 < spikes.mean() < 0.95, f"{vector}: {case}: hardly a spike, or nothing else"
    if f"{case}/spikes" in vector.arrays:  # the reference may stop early; what it did until then is compared
        steps = len(vector.arrays[f"{case}/spikes"])
        vector.compare(f"{case}/spikes", spikes[:steps].to(torch.uint8))
        fired = spikes[:steps].any(dim=0).double().mean()
        vector.compare_value(fired, "options", case, "fired_fraction")
    if f"{case}/potential_before_reset" in vector.arrays:
        steps = len(vector.arrays[f"{case}/potential_before_reset"])
        vector.compare(f"{case}/potential_before_reset", potentials[:steps])
    _compare_gradients(vector, case, sampler, bins, frames)


def _compare_gradients(vector: Vector, case: str, sampler: nn.Module, bins: Tensor, frames: Tensor) -> None:
    weights = np.random.default_rng(_WEIGHTS_SEED).standard_normal(tuple(frames.shape))
    (frames * torch.from_numpy(weights)).sum().backward()
    vector.compare(f"{case}/grad_input", bins.grad.transpose(0, 1))
    for name, parameter in sampler.named_parameters():
        vector.compare(f"{case}/grad/{name}", parameter.grad)


def _sampler(recipe: dict[str, Any], gain: float) -> nn.Module:
    """Return our sampler in training, with the authors' weights under the authors' names."""
    theirs = recipe["options"]
    assert set(theirs) <= set(_OPTIONS), f"options that nobody reads: {sorted(set(theirs) - set(_OPTIONS))}"
    options = {_OPTIONS[name]: value for name, value in theirs.items()}
    options["slots"] = options.get("slots") or 1
    deeper = any(name.startswith("inner_net.") for name, _, _ in recipe["state"])
    branch = {"branch": "ncaltech-rep"} if deeper else {}
    sampler = build_sampler(_NAMES[recipe["class"]], **options, **branch).double()
    state = {}
    for name, shape, dtype in recipe["state"]:
        value = golden_fill().fill(_PREFIX + name, tuple(shape)) * (gain if len(shape) >= 2 else 1)
        # The recipe's notes say 0 for the decay of the leaky cell; its numbers have the fill rule's value.
        state[name] = torch.from_numpy(np.asarray(value)).to(getattr(torch, dtype))
    sampler.load_state_dict(state)
    return sampler.train()


def _bins(vector: Vector) -> Tensor:
    """Return the micro-bins [Tm, N, 2, H, W] of the stored input [N, Tm, 2, H, W]."""
    return torch.from_numpy(vector.input("input")).transpose(0, 1).contiguous()
