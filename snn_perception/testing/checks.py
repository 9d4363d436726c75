"""One check for each kind of component; `snn_perception.testing` says what they are for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snn_perception.nn import NeuronFactory
from snn_perception.state import named_leaves
from snn_perception.testing.firing import FIRING_BAND, spiking_layers, wake
from snn_perception.testing.images import check_image_representation
from snn_perception.testing.inputs import event_window, sparse_input
from snn_perception.testing.steps import check_precision, check_step, tensors
from snn_perception.types import Detections, EventWindow, FeatureInfo, SensorSize, Targets

WINDOWS, STEPS, BATCH = 3, 4, 3
_SIZE = SensorSize(64, 96)


def check_neuron(make: NeuronFactory, *, shape: tuple[int, ...] = (4, 6, 5)) -> None:
    """Assert the contract of a neuron, ``(current [T, B, ...], state) -> (spikes [T, B, ...], state)``.

    Args:
        make: returns a fresh neuron at each call.
        shape: of one sample, without T and B.

    Raises:
        AssertionError: saying which part of the contract is broken.
    """
    neuron = make()
    assert isinstance(neuron, nn.Module), f"a neuron is a torch module, got {type(neuron).__name__}"
    assert make() is not neuron, "each call of the factory must make a fresh neuron, or layers would share weights"
    current = _stirring_current(neuron.double().eval(), shape)
    spikes, _ = neuron(current, None)
    assert spikes.shape == current.shape and spikes.dtype == current.dtype, (
        f"spikes must be as the current, {list(current.shape)} {current.dtype}, got {list(spikes.shape)} {spikes.dtype}"
    )
    check_step(lambda xs, state: neuron(xs[0], state), [current], module=neuron)
    _check_neuron_precision(make().eval(), current.float())
    _check_gradients(make().double().train(), current[: len(current) // WINDOWS])


def check_backbone(backbone: nn.Module, x: Tensor | None = None, *, in_channels: int = 2, steps: int = 1) -> None:
    """Assert the contract of a backbone, ``(x [T, B, C, H, W], state) -> (maps, state)``, while every layer fires.

    Args:
        backbone: any; copies of it are tested.
        x: input in float64 with B of at least 2 and T a multiple of 3 windows; by default sparse zeros and ones.
        in_channels: C of the default input.
        steps: time steps that belong together, for a network that reads a window as a whole.

    Raises:
        AssertionError: saying which part of the contract is broken.
    """
    if x is None:
        x = sparse_input(WINDOWS * STEPS * steps, BATCH, in_channels, _SIZE.height, _SIZE.width)
    backbone = copy.deepcopy(backbone).double()
    wake(backbone, x, windows=WINDOWS)
    _check_maps(backbone, x)
    check_step(lambda xs, state: backbone(xs[0], state), [x], module=backbone, steps=steps)
    _check_autocast(copy.deepcopy(backbone).float(), x[:steps].float())
    _check_gradients(copy.deepcopy(backbone).train(), x[: len(x) // WINDOWS])


def check_head(
    make: Callable[[FeatureInfo, int], Any],
    *,
    features: FeatureInfo,
    size: SensorSize = _SIZE,
    num_classes: int = 2,
    steps: int = 1,
) -> None:
    """Assert the contract of a head, ``(maps, state) -> (raw, state)`` with ``loss`` and ``decode``.

    Args:
        make: returns a head for (features, number of classes).
        features: the maps it is made for.
        size: of the model input, in pixels.
        steps: time steps of one window.

    Raises:
        AssertionError: saying which part of the contract is broken.
    """
    head = make(features, num_classes).double().eval()
    windows = [_head_input(features, size, steps, seed) for seed in range(WINDOWS)]
    maps = windows[0]
    if spiking_layers(head, maps):
        wake(head, windows)
    check_step(head, maps, module=head, time_outputs=False, steps=steps)
    assert any(leaf.any() for leaf in tensors(head(maps, None)[0])), "the raw output is all zeros, which proves nothing"
    _check_decode(head, maps, size, num_classes)
    _check_loss(make(features, num_classes).double().train(), maps, size)


def check_representation(make: Callable[[SensorSize], Any], *, size: SensorSize = _SIZE) -> None:
    """Assert the contract of a representation, ``EventWindow -> Tensor [T, C, H, W]``.

    Args:
        make: returns a representation for a model input of the given size.

    Raises:
        AssertionError: saying which part of the contract is broken.
    """
    represent = make(size)
    if getattr(represent, "takes_images", False):
        check_image_representation(represent, size)
        return
    window, other = event_window(size, seed=1), event_window(size, seed=2)
    x = represent(window)
    target = getattr(represent, "output_size", size)
    shape = (represent.steps, represent.channels, target.height, target.width)
    assert tuple(x.shape) == shape, f"expected [steps, channels, H, W] = {list(shape)}, got {list(x.shape)}"
    assert x.dtype == torch.float32, f"expected float32, got {x.dtype}"
    assert x.isfinite().all() and x.any(), "500 events must give finite values that are not all zero"
    kept, next_x = x.clone(), represent(other)
    assert torch.equal(x, kept), "a tensor must not change when the next window is represented: return a new one"
    assert not torch.equal(next_x, x), "other events must give another tensor"
    assert torch.equal(represent(window), x), "the same window must always give the same tensor"
    later = event_window(size, seed=1, t_start_us=3_600_000_000, stream="other")
    assert torch.equal(represent(later), x), "only the time inside the window may count, not the window's own"
    silent = represent(event_window(size, count=0))
    assert tuple(silent.shape) == shape and silent.isfinite().all(), "a window without events must give finite values"
    if target == size:
        _check_pixels(x, window, silent)
        if getattr(represent, "is_incremental", True):
            _check_each_event_counts(represent, window, silent)


def _check_pixels(x: Tensor, window: EventWindow, silent: Tensor) -> None:
    changed = (x != silent).flatten(0, 1).any(dim=0)
    fired = torch.zeros_like(changed)
    fired[window.events.y.astype(int), window.events.x.astype(int)] = True
    assert not (changed & ~fired).any(), "pixels without events must be as in silence"
    share = float((changed & fired).sum() / fired.sum())
    assert share > 0.9, f"expected nearly all pixels with events to differ from silence, {share:.0%} do"


def _check_each_event_counts(represent: Callable[[EventWindow], Tensor], window: EventWindow, silent: Tensor) -> None:
    """Assert it where bins are those of the window; where they follow the events, a lone event may have none."""
    for at in (0, len(window.events) - 1):
        alone = EventWindow(window.events[at : at + 1], window.t_start_us, window.t_end_us)
        changed = (represent(alone) != silent).flatten(0, 1).any(dim=0).nonzero().tolist()
        y, x = int(window.events.y[at]), int(window.events.x[at])
        assert changed == [[y, x]], (
            f"an event at y={y} x={x} t={window.events.t[at]} us must change its own pixel only, changed {changed[:5]}"
        )


def _stirring_current(neuron: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return a current [T, B, ...] in float64 at which the neuron fires within the band in each of three windows."""
    noise = torch.randn(WINDOWS * STEPS, BATCH, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tried, (low, high) = [], FIRING_BAND
    for gain in (1.0, 2.0, 0.5, 4.0, 0.25, 8.0, 16.0, 64.0, 256.0):
        current = gain * (noise + 0.25)
        rates, state = [], None
        with torch.no_grad():
            for window in current.chunk(WINDOWS):
                spikes, state = neuron(window, state)
                rates.append(float(torch.count_nonzero(spikes)) / spikes.numel())
        if all(low <= rate <= high for rate in rates):
            return current
        tried.append(f"{gain:g}: {', '.join(f'{rate:.1%}' for rate in rates)}")
    raise AssertionError(
        f"the neuron fires at {low:.0%} to {high:.0%} at no gain of a noise current; rates by gain: {'; '.join(tried)}"
    )


def _check_neuron_precision(neuron: nn.Module, current: Tensor) -> None:
    """Assert that with a half precision current membranes are those of float32, and spikes in the current's type."""
    with torch.no_grad():
        half = current.bfloat16()
        plain, plain_state = neuron(half.float(), None)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            spikes, state = neuron(half, None)
    assert spikes.dtype == torch.bfloat16, f"spikes must be in the current's dtype, bfloat16, got {spikes.dtype}"
    assert torch.equal(spikes.float(), plain), (
        "under autocast a neuron must fire as in float32: start from membrane(state, current)"
    )
    for (name, leaf), (_, expected) in zip(named_leaves(state), named_leaves(plain_state), strict=True):
        check_precision(name, leaf, torch.float32)
        assert torch.equal(leaf, expected), f"state '{name}': under autocast it must be as in float32"


def _check_autocast(backbone: nn.Module, x: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = backbone(x, None)
    for name, leaf in named_leaves(state):
        check_precision(name, leaf, torch.float32)


def _check_maps(backbone: nn.Module, x: Tensor) -> None:
    features = getattr(backbone, "features", None)
    assert isinstance(features, FeatureInfo), "a backbone must have an attribute `features: FeatureInfo`"
    with torch.no_grad():
        maps, _ = backbone(x, None)
    assert len(maps) == len(features.channels), (
        f"features tell of {len(features.channels)} maps, it returns {len(maps)}"
    )
    for at, (fmap, channels, stride) in enumerate(zip(maps, features.channels, features.strides, strict=True)):
        assert fmap.dim() == 5 and fmap.shape[1:3] == (x.shape[1], channels), (
            f"map {at}: expected [T, {x.shape[1]}, {channels}, H, W] by `features`, got {list(fmap.shape)}"
        )
        for got, whole in zip(fmap.shape[3:], x.shape[3:], strict=True):
            assert abs(got - whole / stride) <= 1, f"map {at}: {whole} px at stride {stride} cannot give {got} cells"


def _check_gradients(module: nn.Module, x: Tensor) -> None:
    """Assert that in training a gradient reaches the input and every weight that took part, finite and not zero."""
    x = x.clone().requires_grad_()
    used = _watch_weights(module)
    output, _ = module(x, None)
    generator = torch.Generator().manual_seed(0)
    loss = sum((y * torch.rand(y.shape, generator=generator, dtype=y.dtype)).sum() for y in tensors(output))
    assert isinstance(loss, Tensor) and loss.requires_grad, "in training the output must depend on the input's gradient"
    loss.backward()
    for name, tensor in [("the input", x), *used()]:
        assert tensor.grad is not None, f"no gradient reaches {name}; spikes need a surrogate gradient in training"
        assert tensor.grad.isfinite().all(), f"the gradient of {name} is not finite"
        assert tensor.grad.any(), f"the gradient of {name} is zero everywhere"


def _watch_weights(module: nn.Module) -> Callable[[], list[tuple[str, Tensor]]]:
    """Return a function that tells the trainable weights of the modules that ran since this call."""
    ran: set[nn.Module] = set()
    handles = [part.register_forward_pre_hook(lambda part, _: ran.add(part)) for part in module.modules()]

    def used() -> list[tuple[str, Tensor]]:
        for handle in handles:
            handle.remove()
        return [
            (f"{path}.{name}", weight)
            for path, part in module.named_modules()
            if part in ran
            for name, weight in part.named_parameters(recurse=False)
            if weight.requires_grad
        ]

    return used


def _head_input(features: FeatureInfo, size: SensorSize, steps: int, seed: int) -> list[Tensor]:
    return [
        sparse_input(steps, BATCH, channels, -(-size.height // stride), -(-size.width // stride), seed=10 * seed + at)
        for at, (channels, stride) in enumerate(zip(features.channels, features.strides, strict=True))
    ]


def _check_decode(head: Any, maps: list[Tensor], size: SensorSize, num_classes: int) -> None:
    with torch.no_grad():
        together = head.decode(head(maps, None)[0], size)
        alone = [head.decode(head([x[:, r : r + 1] for x in maps], None)[0], size) for r in range(BATCH)]
    assert len(together) == BATCH, f"decode must return one Detections for each of {BATCH} rows, got {len(together)}"
    assert all(isinstance(found, Detections) for found in together), "decode must return Detections"
    assert any(len(found) for found in together), "no detections, which proves nothing: lower the score threshold"
    for row, (found, (single,)) in enumerate(zip(together, alone, strict=True)):
        assert np.isfinite(found.xyxy).all(), f"row {row}: boxes must be finite"
        assert ((found.score >= 0) & (found.score <= 1)).all(), f"row {row}: scores must lie in 0..1"
        assert (np.diff(found.score) <= 0).all(), f"row {row}: the best score must come first"
        assert ((found.class_id >= 0) & (found.class_id < num_classes)).all(), f"row {row}: class_id out of range"
        same = np.array_equal(found.class_id, single.class_id)
        same = same and np.allclose(found.xyxy, single.xyxy, atol=1e-3) and np.allclose(found.score, single.score)
        assert same, f"row {row}: detections depend on other rows"


def _check_loss(head: Any, maps: list[Tensor], size: SensorSize) -> None:
    boxes = np.array([[8, 8, 40, 40], [30, 20, 60, 50]], np.float32)
    targets = [Targets(boxes, np.array([0, 1])), None, Targets(np.empty((0, 4), np.float32), np.empty(0, np.int64))]
    used = _watch_weights(head)
    losses = head.loss(head([x.clone().requires_grad_() for x in maps], None)[0], targets, size)
    _check_scalars(losses)
    sum(losses.values()).backward()
    for name, weight in used():
        assert weight.grad is not None and weight.grad.isfinite().all(), f"{name}: no finite gradient from the loss"
    nobody: list[Targets | None] = [None] * BATCH
    _check_scalars(head.loss(head(maps, None)[0], nobody, size))


def _check_scalars(losses: object) -> None:
    assert isinstance(losses, dict) and losses, f"loss must return a dict of scalars, got {type(losses).__name__}"
    for name, value in losses.items():
        assert isinstance(value, Tensor) and value.dim() == 0, f"loss '{name}' must be a scalar tensor"
        assert value.isfinite(), f"loss '{name}' is {value.item()}"
