"""What changes the weights: gradient to update, learning rate, moving average, precision."""

from __future__ import annotations

import fnmatch
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from snn_perception.errors import SnnPerceptionError
from snn_perception.training.config import TrainConfig
from snn_perception.training.distributed import sum_gradients
from snn_perception.training.optimizer import MEMORY, make_optimizer, set_rates

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def learning_rate(config: TrainConfig, epochs_done: float) -> float:
    """Return the learning rate after so many passes over the set, whole ones where `schedule_by` is ``epoch``.

    In the warm-up it is that of all parameters but biases.
    """
    return scheduled_rate(config, epochs_done) * warmth(config, epochs_done)


def warmth(config: TrainConfig, epochs_done: float) -> float:
    """Return the share of the warm-up that is done."""
    return min(1.0, epochs_done / config.warmup_epochs) if config.warmup_epochs else 1.0


def scheduled_rate(config: TrainConfig, epochs_done: float) -> float:
    """Return the learning rate as if there was no warm-up.

    Cosine: ``min + (lr - min) (1 + cos(pi e / epochs)) / 2`` (Loshchilov & Hutter, ICLR 2017, eq. 5, one period).
    Linear: ``min + (lr - min) (1 - e / epochs)``.
    """
    if config.schedule == "constant":
        return config.lr
    at = math.floor(epochs_done + 1e-9) if config.schedule_by == "epoch" else epochs_done
    done = min(at / config.epochs, 1.0)
    share = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.min_lr + (config.lr - config.min_lr) * share


def average_decay(config: TrainConfig, updates: int) -> float:
    """Return the decay of the moving average after so many updates, at least 1.

    Early on it is less, so that the average forgets the first weights; with a ramp as in YOLOX.
    """
    if config.ema_ramp:
        return config.ema * (1 - math.exp(-updates / config.ema_ramp))
    return min(config.ema, (1 + updates) / (10 + updates))


class Engine:
    """A model in training with its optimizer and moving average.

    Args:
        model: trained in place.
        device: where it is.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        self.model, self.config, self.device = model, config, device
        _freeze(model, config.freeze)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise SnnPerceptionError(f"train.freeze: {', '.join(config.freeze)} leaves nothing to train")
        self.optimizer = make_optimizer(
            config.optimizer,
            model,
            lr=config.lr,
            weight_decay=config.weight_decay,
            betas=config.betas,
            eps=config.eps,
        )
        self._gathered = 0  # batches whose gradients wait in `_waiting`, by the number of the parameter
        self._waiting: dict[int, Tensor] = {}
        if config.amp == "fp16" and device.type != "cuda":
            raise SnnPerceptionError(f"train.amp: fp16 needs a GPU, not '{device}'; use bf16 or off")
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.average = _floating(model) if config.ema else None
        self.updates = 0

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which the network runs."""
        if self.config.amp == "off":
            return nullcontext()
        return torch.autocast(self.device.type, _DTYPES[self.config.amp])

    def update(self, loss: Tensor, epochs_done: float) -> float | None:
        """Change the weights by the gradient of `loss`, summed over all processes; return its norm before clipping.

        Where gradients of several batches add up, only the last of these changes the weights; before, it is None.

        Raises:
            SnnPerceptionError: if loss or gradient is not finite. The weights are then as they were.
        """
        config = self.config
        set_rates(self.optimizer, config.optimizer, scheduled_rate(config, epochs_done), warmth(config, epochs_done))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        sum_gradients(self.parameters)  # before the scaler looks for overflow: all processes must see the same
        if not self._is_gathered():
            return None
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf))
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler passes over such steps by itself
            raise SnnPerceptionError(
                f"update {self.updates + 1}: the gradient is not finite (loss {float(loss.detach()):.4g}); lower "
                "train.lr and start again, from the last checkpoint if you like (model.checkpoint)"
            )
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # it shrinks after an overflow, whose step is left out
            self.updates += 1
            self._follow()
        return norm

    def _is_gathered(self) -> bool:
        """Add what waits to the gradients; return whether they are complete, or else let them wait."""
        for i, parameter in enumerate(self.parameters):
            if i in self._waiting:
                own = parameter.grad
                parameter.grad = self._waiting[i] if own is None else own + self._waiting[i]
        self._gathered = (self._gathered + 1) % self.config.optimizer.accumulate
        self._waiting = {i: p.grad for i, p in enumerate(self.parameters) if p.grad is not None and self._gathered > 0}
        return self._gathered == 0

    @property
    def lr(self) -> float:
        """Learning rate of the latest update."""
        return float(self.optimizer.param_groups[0]["lr"])

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights."""
        if self.average is None:
            return
        decay = average_decay(self.config, self.updates)
        for name, tensor in _floating_of(self.model):
            self.average[name].lerp_(tensor, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to use and to save: the average where there is one."""
        own = self.model.state_dict()
        return own | self.average if self.average is not None else own

    def tensors(self) -> dict[str, Tensor]:
        """Return everything to go on with, by names that `restore` knows."""
        held = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        held |= {f"average.{name}": tensor for name, tensor in (self.average or {}).items()}
        for i, parameter in enumerate(self.parameters):
            state = self.optimizer.state.get(parameter, {})
            held |= {f"{self._kind}.{i}.{name}": state[name] for name in MEMORY[self._kind] if name in state}
        return held | {f"gradient.{i}": gradient for i, gradient in self._waiting.items()}

    @property
    def _kind(self) -> str:
        return self.config.optimizer.name

    def numbers(self) -> dict[str, Any]:
        """Return the plain values that belong to `tensors`."""
        counts = {"updates": self.updates, "gathered": self._gathered}
        return {**counts, "lr": self.lr, "scaler": dict(self.scaler.state_dict())}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from what `tensors` and `numbers` gave.

        Raises:
            KeyError, RuntimeError: if they are of another model.
        """
        self.model.load_state_dict(_under("model.", tensors))
        if self.average is not None:
            stored = _under("average.", tensors)
            for name, tensor in self.average.items():
                tensor.copy_(stored[name])
        for i, parameter in enumerate(self.parameters):
            state = _under(f"{self._kind}.{i}.", tensors)
            if state:  # AdamW keeps its step count on the CPU, whatever the weights are on
                self.optimizer.state[parameter] = {
                    name: state[name] if name == "step" else state[name].to(self.device) for name in MEMORY[self._kind]
                }
        self._waiting = {
            i: tensors[name].to(self.device)
            for i in range(len(self.parameters))
            if (name := f"gradient.{i}") in tensors
        }
        self.updates, self._gathered = int(numbers["updates"]), int(numbers.get("gathered", 0))
        for group in self.optimizer.param_groups:
            group["lr"] = float(numbers["lr"])
        if numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])


def _freeze(model: nn.Module, patterns: tuple[str, ...]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise SnnPerceptionError(
                f"train.freeze: no parameter matches {pattern!r}; names are such as {', '.join(names[:3])}"
            )
    for name, parameter in model.named_parameters():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def _floating_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()]


def _floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _floating_of(model)}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
