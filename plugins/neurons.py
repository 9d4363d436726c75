"""Leaky and non-leaky integrate-and-fire neurons, and every neuron of spikingjelly by name.

Each step first charges the membrane, ``h = f(v, x)``, then fires ``s = [h >= v_threshold]``, then resets: a hard reset
sets the membrane of a neuron that fired to ``v_reset``, a soft reset (``v_reset=None``) subtracts ``v_threshold``.
Rest is 0. Equality fires. The state of a neuron is its membrane after the last step, [B, ...], at least float32.

A neuron runs the fused step of the core, which gives the numbers of the plain steps below in a fraction of their time
and memory, unless its operations are traced or exported.
"""

from __future__ import annotations

import difflib
import inspect
import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import Tensor, nn

from snn_perception.api import (
    Component,
    FromMemoryModule,
    PluginError,
    Spike,
    State,
    StepRule,
    can_fuse,
    fused_steps,
    hookimpl,
    membrane,
)


class LearnedATan(nn.Module):
    """The arctan surrogate with a learnable steepness (EAS-SNN's ``patan``): ``atan(pi / 2 alpha x) / pi + 1 / 2``.

    Its gradient stands in for that of the step, with regard to the distance x from the threshold and to alpha.
    """

    def __init__(self, *, alpha: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    def forward(self, x: Tensor) -> Tensor:
        """Return spikes, 0 or 1 in the dtype of x."""
        smooth = (math.pi / 2 * self.alpha.to(x.dtype) * x).atan() / math.pi
        return (x >= 0).to(x.dtype) + (smooth - smooth.detach())


SURROGATES = {"sigmoid": sj_surrogate.Sigmoid, "atan": sj_surrogate.ATan, "patan": LearnedATan}
FUSED = ("sigmoid", "atan")  # those whose gradient the fused step knows


@hookimpl
def snn_neurons() -> list[Component]:
    return [
        Component("plif", ParametricLIF, "leaky integrate-and-fire with a learnable leak (Fang et al., ICCV 2021)"),
        Component("lif", LIF, "leaky integrate-and-fire with a fixed leak"),
        Component("if", IF, "integrate-and-fire, no leak"),
        Component("spikingjelly", from_spikingjelly, "any spikingjelly neuron, by its class name"),
    ]


class _Neuron(nn.Module, ABC):
    """Charge, fire and reset, common to all; a subclass says what its leak is.

    Attributes:
        rule: what one step does.
    """

    def __init__(
        self,
        leak: Literal["none", "times", "over"],
        *,
        decay_input: bool = False,
        v_threshold: float,
        v_reset: float | None,
        detach_reset: bool,
        surrogate: str,
        alpha: float,
    ) -> None:
        super().__init__()
        if v_reset not in (None, 0.0):
            raise ValueError(f"v_reset must be 0.0 (hard) or None (soft), since rest is 0, got {v_reset}")
        if surrogate not in SURROGATES:
            raise ValueError(f"surrogate must be one of {sorted(SURROGATES)}, got {surrogate!r}")
        if not v_threshold > 0:
            raise ValueError(f"v_threshold must be positive, got {v_threshold}")
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}")
        self.rule = StepRule(leak, decay_input, v_threshold, v_reset is not None, detach_reset, surrogate, alpha)
        self.spike = Spike(SURROGATES[surrogate](alpha=alpha))

    @abstractmethod
    def factor(self, v: Tensor) -> Tensor | float:
        """Return the factor of the leak: a scalar in the dtype of the membrane `v`, or a number."""

    def forward(self, current: Tensor, v: State = None) -> tuple[Tensor, State]:
        """Return spikes [T, B, ...] in the input's dtype and the membrane [B, ...] after the last step."""
        before = membrane(v, current)
        currents, factor = current.to(before.dtype), self.factor(before)
        # In evaluation a spike has no gradient, a surrogate's least of all; the fused step has that of training.
        is_fused = self.rule.surrogate in FUSED if self.training else not _need_gradients(currents, before, factor)
        if is_fused and can_fuse(currents, before):
            train, after = fused_steps(currents, before, self.rule, factor)
        else:
            train, after = self._plain_steps(currents, before, factor)
        return train.to(current.dtype), after

    def leak(self, v: Tensor, steps: int) -> Tensor:
        """Return what is left of a membrane after steps without input."""
        factor = self.factor(v)
        kept = {"none": 1.0, "times": 1.0 - factor, "over": 1.0 - 1.0 / factor}[self.rule.leak]
        return v * kept**steps

    def _plain_steps(self, currents: Tensor, v: Tensor, factor: Tensor | float) -> tuple[Tensor, Tensor]:
        spikes = []
        for current in currents:
            h = self.rule.charge(v, current, factor)
            s = self.spike(h, self.rule.v_threshold)
            fired = s.detach() if self.rule.detach_reset else s
            v = h - fired * (h if self.rule.hard_reset else self.rule.v_threshold)
            spikes.append(s)
        # One step, the usual case of a live camera, is a view: no copy.
        return spikes[0].unsqueeze(0) if len(spikes) == 1 else torch.stack(spikes), v


def _need_gradients(*values: Tensor | float) -> bool:
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in values)


class ParametricLIF(_Neuron):
    """Leaky integrate-and-fire neuron with one learnable leak ``1/tau = sigmoid(w)`` per layer (PLIF).

    Fang et al., "Incorporating learnable membrane time constant ...", ICCV 2021, eq. 5-7. With `decay_input`
    ``h = v + (x - v) / tau`` (ST-VGG, ResCat); without, ``h = v - v / tau + x`` (EAS-SNN).

    Args:
        tau: initial time constant in time steps, above 1.
        decay_input: whether the leak also scales the input.
        v_threshold: fires at and above it, positive.
        v_reset: 0.0 for a hard reset, None for a soft one.
        detach_reset: whether the reset passes no gradient to the spike.
        surrogate, alpha: ``sigmoid`` or ``atan`` and its steepness, or ``patan``, an arctan that learns it from there.
    """

    def __init__(
        self,
        *,
        tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = True,
        surrogate: str = "sigmoid",
        alpha: float = 4.0,
    ) -> None:
        super().__init__(
            "times",
            decay_input=decay_input,
            v_threshold=v_threshold,
            v_reset=v_reset,
            detach_reset=detach_reset,
            surrogate=surrogate,
            alpha=alpha,
        )
        _require_tau(tau)
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1.0)))

    def factor(self, v: Tensor) -> Tensor:
        return self.w.to(v.dtype).sigmoid()


class LIF(_Neuron):
    """Leaky integrate-and-fire neuron: ``h = v + (x - v) / tau``, or ``h = v - v / tau + x`` without `decay_input`.

    Args: as `ParametricLIF`, with a fixed `tau`.
    """

    def __init__(
        self,
        *,
        tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = True,
        surrogate: str = "sigmoid",
        alpha: float = 4.0,
    ) -> None:
        super().__init__(
            "over",
            decay_input=decay_input,
            v_threshold=v_threshold,
            v_reset=v_reset,
            detach_reset=detach_reset,
            surrogate=surrogate,
            alpha=alpha,
        )
        _require_tau(tau)
        self.tau = tau

    def factor(self, v: Tensor) -> float:
        return self.tau


class IF(_Neuron):
    """Integrate-and-fire neuron without leak: ``h = v + x``."""

    def __init__(
        self,
        *,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = True,
        surrogate: str = "sigmoid",
        alpha: float = 4.0,
    ) -> None:
        super().__init__(
            "none",
            v_threshold=v_threshold,
            v_reset=v_reset,
            detach_reset=detach_reset,
            surrogate=surrogate,
            alpha=alpha,
        )

    def factor(self, v: Tensor) -> float:
        return 1.0


def _require_tau(tau: float) -> None:
    if not 1.0 < tau < math.inf:
        raise ValueError(f"tau must be finite and exceed 1 time step, got {tau}")


def from_spikingjelly(*, node: str = "LIFNode", **node_options: object) -> FromMemoryModule:
    """Return a spikingjelly neuron with explicit state, e.g. ``node="ParametricLIFNode", init_tau=3.0``.

    Raises:
        PluginError: if spikingjelly has no such neuron, the neuron refuses the options, does not run step by step,
            or does not rest at 0.
    """
    kind = getattr(sj_neuron, node, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or "Base" in node:
        known = sorted(n for n in dir(sj_neuron) if n.endswith("Node") and "Base" not in n)
        close = difflib.get_close_matches(node, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        raise PluginError(f"spikingjelly has no neuron '{node}'; {hint}")
    try:
        built = kind(**node_options)
    except Exception as error:  # spikingjelly checks its arguments by assertions, among other things
        parameters = inspect.signature(kind).parameters.values()
        options = ", ".join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters)
        raise PluginError(
            f"spikingjelly {node}: {str(error) or 'the options are refused'}; options: ({options})"
        ) from error
    try:
        return FromMemoryModule(built)
    except ValueError as error:
        raise PluginError(f"spikingjelly {error}") from error
