"""Padding, batch norm and convolution in training as one operation: nothing normalised or padded is ever written.

With ``g = gamma / sqrt(var + eps)`` and ``t = beta - mean * g`` of the batch, padding included, the convolution of the
normalised padded input is that of the plain input, zero padding as usual, with ``W * g`` and the bias ``sum(W * t)``:
as when norms are folded for inference, with the statistics of this batch. Equal to the three operations up to rounding;
kept for the gradient are the input, which a spiking layer keeps anyway, and weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snn_perception.fusing import can_fuse
from snn_perception.kernel_threads import in_threads

# Measured on one core: below this the calls cost more than the passes over memory that they save.
LEAST_ELEMENTS = 1 << 17
_THREAD_ELEMENTS = 1 << 17  # worth a thread of its own


def can_join(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> bool:
    """Return whether `joined` may stand in for norm and convolution, and pays: in training, on a CPU, on large maps."""
    return (
        type(norm) is nn.BatchNorm2d  # another kind, such as one with the statistics of several processes, has its way
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and type(conv) is nn.Conv2d
        and (conv.bias, conv.groups, conv.dilation, conv.padding) == (None, 1, (1, 1), (0, 0))
        and x.dim() == 4
        and x.numel() >= max(LEAST_ELEMENTS, 2 * x.shape[1])
        and x.device.type == "cpu"
        and x.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
        and not _observed(norm)
        and not _observed(conv)
        and can_fuse(x, conv.weight, norm.weight, norm.bias)
    )


def _observed(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def joined(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d, padding: int) -> Tensor:
    """Return [B, C', H', W'] of x [B, C, H, W], `padding` included in the norm, whose running statistics move on."""
    batch, _, height, width = x.shape
    count = batch * (height + 2 * padding) * (width + 2 * padding)
    terms = _norm_terms(x.detach(), norm, count)
    _keep_running(norm, terms, count)
    y: Tensor = _NormConvolution.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, conv.weight, terms, count, list(conv.stride), [padding, padding]
    )
    return y


def _norm_terms(x: Tensor, norm: nn.BatchNorm2d, count: int) -> Tensor:
    """Return mean, biased variance, 1 / deviation, scale and shift of each channel [5, C], float64."""
    from snn_perception.norm_kernels import norm_terms, pixel_statistics  # numba loads when training starts

    channels, pixels = x.shape[1], x.numel() // x.shape[1]
    means, squares, terms = np.empty(channels), np.empty(channels), np.empty((5, channels))
    in_threads(pixel_statistics, channels, _THREAD_ELEMENTS // pixels, _planes(x), means, squares)
    gamma, beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    norm_terms(means, squares, pixels, count - pixels, norm.eps, gamma, beta, terms)
    return torch.from_numpy(terms)


@torch.no_grad()
def _keep_running(norm: nn.BatchNorm2d, terms: Tensor, count: int) -> None:
    assert norm.num_batches_tracked is not None and norm.running_mean is not None and norm.running_var is not None
    norm.num_batches_tracked.add_(1)
    weight = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(terms[0].to(norm.running_mean.dtype), weight)
    norm.running_var.lerp_((terms[1] * (count / (count - 1))).to(norm.running_var.dtype), weight)


class _NormConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        weight: Tensor,
        terms: Tensor,
        count: int,
        stride: list[int],
        padding: list[int],
    ) -> Tensor:
        per_weight = terms[3:, :, None].expand(-1, -1, weight[0, 0].numel()).reshape(2, -1).to(x.dtype)
        scale, shift = per_weight
        flat = weight.flatten(1)
        folded = (flat * scale).view(weight.shape)
        ctx.save_for_backward(x, weight, folded, terms, scale, shift)
        ctx.count, ctx.stride, ctx.padding = count, stride, padding
        return nn.functional.conv2d(x, folded, flat @ shift, stride, padding)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, folded, terms, scale, shift = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        g_x, g_folded, g_bias = _convolution_gradients(g_y, x, folded, ctx.stride, ctx.padding, needs_x)
        flat, g_flat = weight.flatten(1), g_folded.flatten(1)
        channels = weight.shape[1]
        g_scale = (g_flat * flat).sum(0).view(channels, -1).sum(1)
        g_shift = (g_bias @ flat).view(channels, -1).sum(1)
        g_gamma = _through_norm(x, terms, g_scale, g_shift, ctx.count, g_x)
        g_weight = (g_flat * scale).addr_(g_bias, shift).view(weight.shape)
        return g_x, g_gamma, g_shift, g_weight, None, None, None, None


def _through_norm(x: Tensor, terms: Tensor, g_scale: Tensor, g_shift: Tensor, count: int, g_x: Tensor | None) -> Tensor:
    """Return the gradient of gamma, and add to `g_x` what reaches the pixels through mean and variance."""
    from snn_perception.norm_kernels import add_pixel_gradients, norm_gradients

    g_gamma, slope, offset = torch.empty(3, len(g_scale), dtype=x.dtype)
    numbers = [part.numpy() for part in (g_gamma, slope, offset)]
    norm_gradients(terms.numpy(), g_scale.numpy(), g_shift.numpy(), count, *numbers)
    if g_x is not None:
        least = _THREAD_ELEMENTS * x.shape[1] // x.numel()
        in_threads(add_pixel_gradients, x.shape[1], least, *numbers[1:], _planes(x), _planes(g_x))
    return g_gamma


def _planes(x: Tensor) -> np.ndarray[Any, Any]:
    return x.detach().view(*x.shape[:2], -1).numpy()


def _convolution_gradients(
    g_y: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of x (None unless `needs_x`), weight and bias."""
    g_x, g_weight, g_bias = torch.ops.aten.convolution_backward(
        g_y, x, weight, [len(weight)], stride, padding, [1, 1], False, [0, 0], 1, [needs_x, True, True]
    )
    return g_x.contiguous() if needs_x else None, g_weight, g_bias
