"""Which optimizer changes which parameters how: its settings, its groups of parameters, and their warm-up.

Torch is imported where it is used: settings are read by commands that start fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snn_perception.errors import SpecError

if TYPE_CHECKING:
    from torch import nn, optim

OPTIMIZERS = ("adamw", "sgd")
DECAYS = ("all", "weights")
# What each keeps of a parameter from update to update.
MEMORY = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer beside its learning rate.

    Attributes:
        name: ``adamw``, or ``sgd`` with Nesterov's momentum.
        momentum: of ``sgd``.
        decays: what the weight decay acts on: ``all`` parameters, or ``weights`` alone, which are those of two and
            more dimensions: no norms, no biases.
        accumulate: gradients of so many batches add up to one update.
        warmup_bias_lr: learning rate that biases start the warm-up from; the others start from 0.
        warmup_momentum: momentum that ``sgd`` starts the warm-up from; None does not change it.
    """

    name: str = "adamw"
    momentum: float = 0.9
    decays: str = "all"
    accumulate: int = 1
    warmup_bias_lr: float = 0.0
    warmup_momentum: float | None = None

    def __post_init__(self) -> None:
        _require(self.name in OPTIMIZERS, "name", " or ".join(OPTIMIZERS), self.name)
        _require(self.decays in DECAYS, "decays", " or ".join(DECAYS), self.decays)
        _require(0 < self.momentum < 1, "momentum", "a share between 0 and 1", self.momentum)
        _require(self.accumulate >= 1, "accumulate", "at least 1", self.accumulate)
        _require(0 <= self.warmup_bias_lr < math.inf, "warmup_bias_lr", "at least 0", self.warmup_bias_lr)
        start = self.warmup_momentum
        _require(start is None or 0 < start < 1, "warmup_momentum", "a share between 0 and 1, or nothing", start)


def make_optimizer(
    config: OptimizerConfig, model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> optim.Optimizer:
    """Return the optimizer of a model's parameters that learn, in up to three groups, of which the last is biases.

    Args:
        betas, eps: of ``adamw``.
    """
    from torch import optim

    groups = _groups(config, model, weight_decay)
    if config.name == "sgd":
        return optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=True)
    return optim.AdamW(groups, lr=lr, betas=betas, eps=eps)


def set_rates(optimizer: optim.Optimizer, config: OptimizerConfig, lr: float, warmth: float) -> None:
    """Give every group its learning rate, and its momentum.

    Args:
        lr: at full warmth. warmth: share of the warm-up that is done, 1 after it.
    """
    for group in optimizer.param_groups:
        start = config.warmup_bias_lr if group["is_bias"] else 0.0
        group["lr"] = start + (lr - start) * warmth
        if config.name == "sgd" and config.warmup_momentum is not None:
            group["momentum"] = config.warmup_momentum + (config.momentum - config.warmup_momentum) * warmth


def _groups(config: OptimizerConfig, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the groups that are not empty: what decays, what does not, and biases."""
    parts: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_bias = name.rpartition(".")[2] == "bias"
            decays = config.decays == "all" or (parameter.ndim > 1 and not is_bias)
            parts.setdefault((is_bias, decays), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "is_bias": is_bias}
        for (is_bias, decays), parameters in sorted(parts.items(), key=lambda part: (part[0][0], not part[0][1]))
    ]


def _require(fits: bool, name: str, wanted: str, got: object) -> None:
    if not fits:
        raise SpecError(f"train.optimizer.{name}: expected {wanted}, got {got}")
