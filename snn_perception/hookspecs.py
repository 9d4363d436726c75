"""Every extension point. A plugin implements any of these with `@hookimpl`; each returns a list of `Component`s.

Keyword-only parameters of a factory are the component's options: their names, defaults and order are its schema. What
the host supplies comes first, by position, as each hook says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from snn_perception.registry import Component

PROJECT = "snn_perception"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def snn_neurons() -> list[Component]:  # type: ignore[empty-body]
    """Spiking neuron models. ``factory(*, options) -> module``.

    Module ``(current [T, B, ...], state) -> (spikes [T, B, ...], state)``; state as in `snn_perception.state`.
    """


@hookspec
def snn_backbones() -> list[Component]:  # type: ignore[empty-body]
    """Feature extractors, neck included. ``factory(in_channels, neuron, *, options) -> module``.

    Module ``(x [T, B, C, H, W], state) -> (maps, state)`` with maps a list of [T, B, C_i, H_i, W_i], and an attribute
    ``features: FeatureInfo``. ``neuron()`` makes a fresh neuron.
    """


@hookspec
def snn_heads() -> list[Component]:  # type: ignore[empty-body]
    """Detection heads. ``factory(features, num_classes, neuron, *, options) -> module``.

    Module ``(maps, state) -> (raw, state)``; ``loss(raw, targets: list[Targets | None], size) -> dict of scalars``,
    whose sum is trained; ``decode(raw, size) -> list[Detections]``, one per batch row, in pixels of the model input of
    ``size: SensorSize``.
    """


@hookspec
def snn_representations() -> list[Component]:  # type: ignore[empty-body]
    """Events to tensors. ``factory(size: SensorSize, *, options) -> object``.

    Object with ``channels``, ``steps``, and ``__call__(window: EventWindow) -> Tensor [T, C, H, W]``, float32; the
    events' pixels are those of ``size``. Where it enlarges its images it has ``output_size: SensorSize`` and
    ``letterbox``, which takes the head's boxes back. Those that derive from ``GridRepresentation`` are also filled
    while events arrive.
    """


@hookspec
def snn_presets() -> list[Component]:  # type: ignore[empty-body]
    """Named models. ``factory(*, options) -> ModelSpec``."""


@hookspec
def snn_checkpoint_importers() -> list[Component]:  # type: ignore[empty-body]
    """Readers of authors' weights. ``factory() -> function``.

    Function ``(tensors, hints) -> (ModelSpec, state_dict, ImportReport)``, or None where the names in `tensors` are not
    of its family. For files with whole pickled objects it has ``inert(name) -> bool``, which tells the classes whose
    objects may occur: they are read as records without behaviour, whose plain values become hints.
    """


@hookspec
def snn_event_readers() -> list[Component]:  # type: ignore[empty-body]
    """Recordings on disk. ``factory(path, *, options) -> Recording`` (see `snn_perception.events.recording`).

    The factory's attribute ``claims(path) -> bool`` says from the file's name and first bytes whether it is of this
    format.
    """


@hookspec
def snn_event_decoders() -> list[Component]:  # type: ignore[empty-body]
    """Packet encodings, by their name in the message. ``factory() -> decoder`` for one stream.

    Decoder with ``decode(packet: Packet) -> DecodedEvents`` and ``resync()``, called after lost packets.
    """


@hookspec
def snn_datasets() -> list[Component]:  # type: ignore[empty-body]
    """Labelled sets of recordings on disk. ``factory(root, split, *, options) -> Dataset``.

    `snn_perception.data.dataset` describes the product. Making it reads listings, headers and at most label files, no
    events: a set has thousands of recordings. They come in the same order on every machine, under unique names, and
    can be pickled, so that worker processes may open them.

    Every set takes ``limit: int | None = None`` (at most so many recordings, the first of the whole set's) and
    ``skip_faulty: bool = True`` (leave out what is damaged as far as headers tell; otherwise it stays, with `faults`);
    a detection set also ``filter: str = "none"``, the name of a label filter.

    Sets are often there in part, which is no error: `Dataset.report` says what was looked for, found, missing, faulty
    and left out, and a split of which nothing is there comes back empty. A root that is no folder is an EventDataError.
    """
