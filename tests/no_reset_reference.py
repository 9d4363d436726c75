"""The no-reset networks once more, in plain NumPy and with the authors' names: a second opinion for the plugins.

Written from the published description alone (pad, norm, convolution, PLIF), without any code of the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden_support.vectors import golden_fill

Array = np.ndarray
MAPS = 6
PER_CELL = (4, 6, 6, 6, 4, 4)


class PlainNetwork:
    """A network over a state_dict of bare names; call it window by window, potentials stay in it."""

    def __init__(self, state: Mapping[str, Array], cfg: Sequence[int | str], *, one_one_extras: bool = False) -> None:
        self.state, self.cfg, self.one_one = dict(state), list(cfg), one_one_extras
        self.potentials: dict[str, Array] = {}
        self.spikes: dict[str, Array] = {}  # of the last window, by the neuron's name, in the order of the passage

    def features(self, x: Array) -> list[Array]:
        """Return the feature maps of one window x [B, C, H, W], extras included."""
        self.spikes = {}
        maps = self._rescat(x) if "features.0.1.weight" in self.state else self._vgg(x)
        x, level = maps[-1], 0
        while f"extras.{level}.0.bn_conv_neuron.2.weight" in self.state:
            if self.one_one:
                x = self._extra(x, f"extras.{level}.0", stride=1, pad=0)
            x = self._extra(x, f"extras.{level}.{int(self.one_one)}", stride=2, pad=1)
            maps.append(x)
            level += 1
        return maps

    def logits(self, x: Array) -> Array:
        """Return the class scores [B, K] of one window, positions summed."""
        y = self._conv(self._norm(self.features(x)[-1], "classifier.norm_classif"), "classifier.conv_classif", 1)
        return y.sum(axis=(2, 3))

    def heads(self, maps: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Return the box maps and the class maps."""

        def outputs(kind: str) -> list[Array]:
            names = [f"head.{kind}_head.module_list.{i}" for i in range(len(maps))]
            return [self._conv(self._norm(_pad(x), f"{n}.1"), f"{n}.2", 1) for x, n in zip(maps, names, strict=True)]

        return outputs("regression"), outputs("classification")

    def _vgg(self, x: Array) -> list[Array]:
        maps = []
        for i, item in enumerate(self.cfg):
            name, halves = f"features.{i}", str(item).endswith("s2")
            x = self._norm(_pad(x) if i else x, f"{name}.norm")
            x = self._fire(self._conv(x, f"{name}.conv", 2 if halves else 1 if i else 4), f"{name}.act")
            maps += [x] if halves else []
        return maps

    def _rescat(self, x: Array) -> list[Array]:
        x = self._fire(self._conv(self._norm(x, "features.0.0"), "features.0.1", 4), "features.0.2")
        x = self._norm(_pad(x), "features.0.3.norm")
        x = self._fire(self._conv(x, "features.0.3.conv", 1), "features.0.3.act")
        maps = []
        for k in range(1, len(self.cfg) - 1):
            name = f"features.{k}.0"
            y = self._conv(self._norm(_pad(x), f"{name}.norm1"), f"{name}.conv1", 1)
            y = self._fire(y, f"{name}.act1")
            y = self._conv(self._norm(_pad(y), f"{name}.norm2"), f"{name}.conv2", 2)
            y = self._fire(y, f"{name}.act2")
            z = self._conv(self._norm(x, f"{name}.norm_trans"), f"{name}.conv_trans", 2)
            x = np.concatenate([y, self._fire(z, f"{name}.act_trans")], axis=1)
            maps.append(x)
        return maps

    def _extra(self, x: Array, name: str, *, stride: int, pad: int) -> Array:
        name += ".bn_conv_neuron"
        x = self._norm(_pad(x) if pad else x, f"{name}.1")
        return self._fire(self._conv(x, f"{name}.2", stride), f"{name}.3")

    def _norm(self, x: Array, name: str) -> Array:
        mean, var, gain, shift = (
            self.state[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * gain + shift

    def _conv(self, x: Array, name: str, stride: int) -> Array:
        kernel = self.state[f"{name}.weight"]
        patches = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))
        return np.einsum("bcijkl,ockl->boij", patches[:, :, ::stride, ::stride], kernel, optimize=True)

    def _fire(self, current: Array, name: str) -> Array:
        v = self.potentials.get(name, np.zeros_like(current))
        h = v + (current - v) / (1 + np.exp(-self.state[f"{name}.w"]))
        self.spikes[name] = (h - 1.0 >= 0).astype(np.float64)
        self.potentials[name] = (1 - self.spikes[name]) * h
        return self.spikes[name]


def _pad(x: Array) -> Array:
    return np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))


def shapes_of(
    cfg: Sequence[int | str],
    *,
    channels: int = 2,
    extras: Sequence[int] = (),
    one_one_extras: bool = False,
    classes: int = 2,
) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the authors' state_dict; a list of plain numbers is that of a ResCat."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(norm: str, conv: str, shape: tuple[int, ...], leak: str = "") -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{leaf}"] = (shape[1],)
        shapes[f"{norm}.num_batches_tracked"] = ()
        shapes[f"{conv}.weight"] = shape
        if leak:
            shapes[f"{leak}.w"] = ()

    ends = []
    if all(isinstance(item, int) for item in cfg):
        layer("features.0.0", "features.0.1", (cfg[0], channels, 4, 4), "features.0.2")
        layer("features.0.3.norm", "features.0.3.conv", (cfg[1], cfg[0], 3, 3), "features.0.3.act")
        at = cfg[1]
        for k, width in enumerate(cfg[2:], start=1):
            name = f"features.{k}.0"
            layer(f"{name}.norm1", f"{name}.conv1", (at, at, 3, 3), f"{name}.act1")
            layer(f"{name}.norm2", f"{name}.conv2", (width, at, 3, 3), f"{name}.act2")
            layer(f"{name}.norm_trans", f"{name}.conv_trans", (width // 2, at, 1, 1), f"{name}.act_trans")
            at = width * 3 // 2
            ends.append(at)
    else:
        at = channels
        for i, item in enumerate(cfg):
            width, side, name = int(str(item).removesuffix("s2")), 3 if i else 4, f"features.{i}"
            layer(f"{name}.norm", f"{name}.conv", (width, at, side, side), f"{name}.act")
            at = width
            ends += [at] if str(item).endswith("s2") else []
    layer("classifier.norm_classif", "classifier.conv_classif", (classes, at, 1, 1))
    for level, width in enumerate(extras):
        for i, (out, side) in enumerate([(at // 2, 1), (width, 3)] if one_one_extras else [(width, 3)]):
            name = f"extras.{level}.{i}.bn_conv_neuron"
            layer(f"{name}.1", f"{name}.2", (out, at, side, side), f"{name}.3")
            at = out
        ends.append(at)
    for kind, terms in (("classification", classes), ("regression", 4)) if extras else ():
        for i, width in enumerate(ends):
            name = f"head.{kind}_head.module_list.{i}"
            layer(f"{name}.1", f"{name}.2", (PER_CELL[i] * terms, width, 3, 3))
    return shapes


def write_vector(
    path: Path,
    cfg: Sequence[int | str],
    input_shape: Sequence[int],
    *,
    prefix: str = "",
    gain: float = 4.0,
    extras: Sequence[int] = (),
    one_one_extras: bool = False,
    classes: int = 2,
    windows: int = 3,
) -> dict[str, Array]:
    """Write a golden vector (JSON and NPZ) whose numbers come from `PlainNetwork`; return its firing rates by layer."""
    shapes = shapes_of(cfg, channels=input_shape[1], extras=extras, one_one_extras=one_one_extras, classes=classes)
    outer = {"head": "", "extras": "backbone."} if extras else {}
    named = {bare: outer.get(bare.split(".")[0], prefix) + bare for bare in shapes}
    state, recipe = {}, []
    for bare, shape in shapes.items():
        value = golden_fill().fill(named[bare], shape)
        state[bare] = value * gain if len(shape) >= 2 else value
        recipe.append([named[bare], list(shape), "int64" if value.dtype == np.int64 else "float64"])
    network = PlainNetwork(state, cfg, one_one_extras=one_one_extras)
    arrays: dict[str, Array] = {}
    seen: list[dict[str, Array]] = []
    for k in range(windows):
        x = golden_fill().events(seed=k, shape=tuple(input_shape))
        if extras:
            maps = network.features(x)
            for i, one in enumerate(maps):
                arrays[f"w{k}_feat{i}_bits"] = np.packbits(one.astype(bool).ravel())
            for kind, outputs in zip(("reg", "cls"), network.heads(maps), strict=True):
                arrays |= {f"w{k}_{kind}{i}": one for i, one in enumerate(outputs)}
        else:
            arrays[f"w{k}_logits"] = network.logits(x)
        seen.append(dict(network.spikes))
    arrays["spike_counts"] = np.array([[int(s[name].sum()) for s in seen] for name in seen[0]])
    arrays["rates"] = np.array([[s[name].mean() for s in seen] for name in seen[0]])
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    content: dict[str, Any] = {
        "model": "rescat" if "features.0.1.weight" in state else "vgg",
        "cfg": list(cfg),
        "extras": list(extras) or None,
        "one_one_extras": one_one_extras,
        "tbin": input_shape[1] // 2,
        "num_classes": classes,
        "input_shape": list(input_shape),
        "windows": windows,
        "dtype": "float64",
        "mode": "eval",
        "weight_gain": gain,
        "feature_shapes": [list(one.shape) for one in maps] if extras else None,
        "spiking_layers": [[named.get(f"{name}.w", name), list(one.shape)] for name, one in seen[0].items()],
        "num_params": sum(value.size for name, value in state.items() if not name.endswith(buffers)),
        "state": recipe,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    np.savez(path.with_suffix(".npz"), **arrays)
    return dict(zip(seen[0], arrays["rates"], strict=True))
