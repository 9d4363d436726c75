"""One step of a neuron in one pass over the memory, with spikes in whatever form is asked for."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snn_perception.kernel_threads import in_threads
from snn_perception.native.calls import Caller, best_isa, require, require_floats
from snn_perception.native.library import Charge, Neuron, Output
from snn_perception.native.packing import PackedSpikes, words_for
from snn_perception.neuron_steps import StepRule

Form = Literal["floats", "bytes", "packed"]
FORMS: tuple[Form, ...] = ("floats", "bytes", "packed")
FLOATS: tuple[Form, ...] = ("floats",)
LEAST_PIXELS = 1024  # a smaller share of the work is not worth a thread
CHUNK = 16_384  # elements; cut there, results do not depend on the number of threads

_CHARGES = {
    ("none", True): Charge.SUM,
    ("none", False): Charge.SUM,
    ("times", True): Charge.INPUT_TIMES,
    ("over", True): Charge.INPUT_OVER,
    ("times", False): Charge.PLAIN_TIMES,
    ("over", False): Charge.PLAIN_OVER,
}


@dataclass(frozen=True)
class NeuronStep:
    """What a neuron does with a current; make it with `of_rule` or `of_whole_numbers`.

    Attributes:
        charge: formula of the membrane before firing.
        factor: of its leak. threshold: at which it fires, or the most that it fires. hard_reset: to 0.
        gain: of the current, for whole numbers.
    """

    charge: Charge
    factor: float
    threshold: float
    hard_reset: bool = False
    gain: float = 1.0

    @classmethod
    def of_rule(cls, rule: StepRule, factor: Tensor | float = 0.0) -> NeuronStep:
        """Return the step of an integrate-and-fire neuron; its spikes and membrane have the bits of the plain formula.

        Args:
            rule: of the step. factor: of its leak, as `neuron_steps.fused_steps` takes it.
        """
        return cls(_CHARGES[rule.leak, rule.decay_input], float(factor), rule.v_threshold, rule.hard_reset)

    @classmethod
    def of_whole_numbers(cls, max_spikes: int, decay: float, gain: float = 1.0) -> NeuronStep:
        """Return the step ``u = decay * v + gain * x; s = round(clamp(u, 0, max_spikes)); v = u - s``, ties to even.

        That is I-LIF (Luo et al., SpikeYOLO, ECCV 2024, sec. 3.3). Packed spikes are where s is not 0.

        Raises:
            ValueError: if `max_spikes` is not from 1 to 255.
        """
        if not 1 <= max_spikes <= 255:
            raise ValueError(f"max_spikes: expected 1 to 255, got {max_spikes}")
        return cls(Charge.WHOLE_NUMBER, float(decay), float(max_spikes), gain=float(gain))

    @property
    def is_binary(self) -> bool:
        """Whether it fires 0 or 1 alone."""
        return self.charge != Charge.WHOLE_NUMBER or self.threshold == 1.0

    def as_structure(self) -> Neuron:
        """Return it for the library."""
        return Neuron(int(self.charge), self.hard_reset, self.factor, self.threshold, self.gain)


@dataclass(frozen=True, eq=False)
class Fired:
    """What a step gave.

    Attributes:
        v: membrane afterwards, float32 [B, C, H, W]. floats, bytes: spikes [B, C, H, W] as float32 and uint8.
        packed: spikes as bits. None where not asked for. All tensors in memory of channels_last.
    """

    v: Tensor
    floats: Tensor | None = None
    bytes: Tensor | None = None
    packed: PackedSpikes | None = None

    def spikes(self, form: Form) -> Tensor | PackedSpikes:
        """Return the spikes in a form that was asked for."""
        found: Tensor | PackedSpikes | None = getattr(self, form)
        assert found is not None, f"'{form}' was not asked for"
        return found


def prepare(
    shape: torch.Size, v: Tensor | None, v_after: Tensor | None, forms: Collection[Form]
) -> tuple[Fired, Output]:
    """Return memory for the results of a step on currents [B, C, H, W], and its addresses for the library.

    Raises:
        ValueError: if a membrane is not float32 of that shape in memory of channels_last, or a form is unknown.
    """
    if not forms or any(form not in FORMS for form in forms):
        raise ValueError(f"forms of spikes: expected some of {FORMS}, got {list(forms)}")
    if v is not None:
        require_floats(v, shape, "membrane")
    if v_after is not None and v_after is not v:
        require_floats(v_after, shape, "membrane afterwards")
    after = torch.empty(shape, memory_format=torch.channels_last) if v_after is None else v_after
    fired = Fired(
        after,
        _empty(shape, torch.float32) if "floats" in forms else None,
        _empty(shape, torch.uint8) if "bytes" in forms else None,
        _no_spikes(shape) if "packed" in forms else None,
    )
    words = None if fired.packed is None else fired.packed.words
    return fired, Output(None, *map(_address, (v, after, fired.floats, fired.bytes, words)))


def fire(
    current: Tensor,
    v: Tensor | None,
    step: NeuronStep,
    *,
    forms: Collection[Form] = FLOATS,
    v_after: Tensor | None = None,
) -> Fired:
    """Return the spikes of one step, and the membrane after it.

    The result does not depend on the number of threads.

    Args:
        current: float32 [B, C, H, W] in memory of channels_last.
        v: membrane before it, likewise; None for rest.
        step: of the neuron.
        forms: in which spikes are written.
        v_after: where the membrane goes, `v` itself to update it in place; new memory by default.

    Raises:
        ValueError: for tensors of another kind.
        SnnPerceptionError: if the kernels are not there.
    """
    library = require()
    require_floats(current, current.shape, "current")
    if current.dim() != 4 or current.numel() == 0:
        raise ValueError(f"current: expected [B, C, H, W] with elements, got {list(current.shape)}")
    fired, output = prepare(current.shape, v, v_after, forms)
    batch, channels, height, width = current.shape
    neuron = step.as_structure()
    call = Caller(
        library.fire,
        best_isa(library),
        ctypes.byref(neuron),
        current.data_ptr(),
        ctypes.byref(output),
        channels,
    )
    in_threads(call.piece, batch * height * width, LEAST_PIXELS)
    return fired


def fire_whole(current: Tensor, v: Tensor | None, step: NeuronStep, *, form: Form = "bytes") -> tuple[Tensor, Tensor]:
    """Return all spikes [T, B, C, H, W] of steps that fire whole numbers, and the membrane [B, C, H, W] after the last.

    Both are in memory of channels_last. The result does not depend on the number of threads.

    Args:
        current: float32 [T, B, C, H, W], brought into the order of channels_last where it is not so.
        v: membrane before, float32 [B, C, H, W], likewise; None for rest.
        step: of `NeuronStep.of_whole_numbers`.
        form: of the spikes, ``floats`` or ``bytes``.

    Raises:
        ValueError: for tensors or a step of another kind.
        SnnPerceptionError: if the kernels are not there.
    """
    library = require()
    if step.charge != Charge.WHOLE_NUMBER or form == "packed":
        raise ValueError(f"expected a step of whole numbers as floats or bytes, got {step.charge.name} as {form}")
    if current.dim() != 5 or current.numel() == 0:
        raise ValueError(f"current: expected [T, B, C, H, W] with elements, got {list(current.shape)}")
    steps, *shape = current.shape
    flat = current.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    require_floats(flat, flat.shape, "current")
    if v is not None:
        v = v.contiguous(memory_format=torch.channels_last)
        require_floats(v, torch.Size(shape), "membrane")
    after = _empty(torch.Size(shape), torch.float32)
    spikes = _empty(flat.shape, torch.uint8 if form == "bytes" else torch.float32)
    outputs = (None, spikes.data_ptr()) if form == "bytes" else (spikes.data_ptr(), None)
    output = Output(None, _address(v), after.data_ptr(), *outputs, None)
    neuron = step.as_structure()
    size = after.numel()
    arguments = ctypes.byref(neuron), flat.data_ptr(), ctypes.byref(output), steps, size
    call = Caller(library.fire_whole, best_isa(library), *arguments)
    in_threads(lambda first, last: call.piece(first * CHUNK, min(last * CHUNK, size)), -(-size // CHUNK), 2)
    return spikes.unflatten(0, (steps, shape[0])), after


def _empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _no_spikes(shape: torch.Size) -> PackedSpikes:
    batch, channels, height, width = shape
    return PackedSpikes(torch.zeros((batch, height, width, words_for(channels)), dtype=torch.int64), channels)


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
