"""Several processes that train one model: each feeds its own rows, and what depends on the whole batch is summed.

Losses are not averaged but add up (see `ranks.sum_over_ranks`), and so do the gradients; norms see the statistics of
the rows of all processes. Training with n processes so equals training with one and the same rows, up to rounding.
Started by ``torchrun``, whose variables are read here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from snn_perception.errors import SnnPerceptionError
from snn_perception.ranks import in_company
from snn_perception.state import State, split_rows, stack_rows, to


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def own_rows(self, rows: int) -> range:
        """Return which of the batch rows belong to this process.

        Raises:
            SnnPerceptionError: if the rows cannot be dealt out evenly.
        """
        if rows % self.world:
            raise SnnPerceptionError(
                f"train.lanes: {rows} rows cannot be dealt to {self.world} processes; choose a multiple of {self.world}"
            )
        each = rows // self.world
        return range(self.rank * each, (self.rank + 1) * each)


@contextmanager
def company(device: torch.device) -> Iterator[Ranks]:
    """Yield this process's place; joins the others where torchrun started several, and leaves them at the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world <= 1 or distributed.is_initialized():
        yield Ranks(distributed.get_rank(), distributed.get_world_size()) if in_company() else Ranks()
        return
    if device.type == "cuda":  # what goes by pickle travels over gloo, and past the GPUs
        torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    except RuntimeError as error:
        if any(word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer")):
            raise SnnPerceptionError(
                f"process {distributed.get_rank()}: another process of this run has ended; its message tells why "
                f"({str(error).splitlines()[0]:.120})"
            ) from error
        raise
    finally:
        distributed.destroy_process_group()


def local_device(name: str) -> torch.device:
    """Return the device of this process: under torchrun, ``cuda`` is the GPU of the local rank.

    Raises:
        SnnPerceptionError: if several processes are told to use one GPU.
    """
    device = torch.device(name)
    if device.type != "cuda" or int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return device
    if device.index is not None:
        raise SnnPerceptionError(f"--device {name}: several processes cannot share a GPU; give --device cuda alone")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Let a GPU give the same bits each time, and no TF32: float32 models would spike differently than on a CPU."""
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def any_over_ranks(fact: bool, device: torch.device) -> bool:
    """Return whether it holds in any process."""
    return bool(most_over_ranks(int(fact), device))


def most_over_ranks(number: int, device: torch.device) -> int:
    """Return the largest of the numbers that the processes give."""
    if not in_company():
        return number
    most = torch.tensor(number, device=device)
    distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
    return int(most)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes, in one message.

    A parameter without gradient in every process stays without.
    """
    if not in_company():
        return
    every = list(parameters)
    present = torch.tensor([float(p.grad is not None) for p in every], device=every[0].device)
    distributed.all_reduce(present)
    used = [p for p, count in zip(every, present.tolist(), strict=True) if count]
    if not used:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
    distributed.all_reduce(flat)
    for p, part in zip(used, flat.split([p.numel() for p in used]), strict=True):
        p.grad = part.view_as(p).clone()


def same_weights(model: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    if in_company():
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)


def gather(value: Any) -> list[Any]:
    """Return the value of every process, in their order; all get the list."""
    if not in_company():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def gather_rows(state: State) -> State:
    """Return the state of the rows of all processes, on the CPU."""
    return stack_rows(gather(to(state, "cpu")))


def own_rows(state: State, rows: int, own: range) -> State:
    """Return those of a state's `rows` that belong to this process."""
    return state if len(own) == rows else stack_rows(split_rows(state, rows)[own.start : own.stop])


def wait_for_all() -> None:
    """Return when every process is here."""
    if in_company():
        distributed.barrier()


def share_norms(model: nn.Module) -> None:
    """Let every batch norm of `model` see the rows of all processes. Names in its state_dict stay."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SharedNorm):
            setattr(model, name, SharedNorm.of(child))
        else:
            share_norms(child)


class SharedNorm(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the rows of all processes.

    torch's own SyncBatchNorm runs on GPUs only.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedNorm:
        """Return one with the tensors of `norm`."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared.weight, shared.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(shared, name, getattr(norm, name))
        return shared.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return [B, C, H, W], normalised; in evaluation mode as any batch norm."""
        if not (self.training and in_company()):
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = _Sum.apply(x.new_tensor(x.numel() // x.shape[1]))
        mean = _Sum.apply(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        var = _Sum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        self._remember(mean.detach(), var.detach(), float(count))
        y = centred * (var + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, count: float) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((var * (count / max(count - 1, 1))).to(self.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """The sum over processes; each process's loss depends on every process's share, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total
