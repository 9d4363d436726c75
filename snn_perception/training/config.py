"""A training run as data. `run_file` reads it from YAML; the resolved form is stored in every checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from snn_perception.data.image_changes import ImageChanges
from snn_perception.data.window_rule import WindowRule
from snn_perception.errors import SpecError
from snn_perception.training.optimizer import OptimizerConfig

MODES = ("lanes", "windows", "classification")
UPDATES = ("window", "chunk")
SCHEDULES = ("cosine", "linear", "constant")
AMP = ("off", "bf16", "fp16")
PLACINGS = ("none", "whole_pixels", "exact")


@dataclass(frozen=True)
class ModelConfig:
    """What is trained.

    Attributes:
        preset: name of a preset, which gives the model description.
        options: of the preset.
        overrides: of the description it gives: ``{"neuron": {"tau": 4.0}, "head": {...}, "state_policy": "carry"}``.
            A role's entry changes options of that component, or with ``name`` replaces it.
        checkpoint: weights to start from, a path or shipped ones by name, of the same description; None starts from
            fresh ones.
    """

    preset: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on.

    Attributes:
        train: ``NAME:PATH`` of the data set. val: the same for validation; None takes `train`.
        train_split, val_split: names of the splits.
        filter: label filter of the training targets.
        windows, lookback: how windows are cut, in training and validation: ``grid`` as live, ``label``, ``recording``
            or ``recording_end`` (`data.window_rule.WindowRule`).
        limit, val_limit: use at most so many recordings.
        options: of the data set.
    """

    train: str = ""
    val: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    filter: str = "none"
    windows: str = "grid"
    lookback: bool = False
    limit: int | None = None
    val_limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.rule

    @property
    def rule(self) -> WindowRule:
        """How windows are cut."""
        return WindowRule(self.windows, self.lookback)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation, drawn once for each recording that enters a lane (or for each random window).

    Attributes:
        flip: probability of a horizontal flip.
        zoom_min, zoom_max: range of the enlargement, log-uniform; below 1 the borders are empty.
        shift: largest shift, as a share of the image's sides.
        polarity_swap: probability that ON and OFF change places.
        drop: largest share of events left out, uniform from 0.
        noise_hz: largest rate of added noise events per pixel, uniform from 0.
        min_box_share: boxes of which less than this share stays inside the image are dropped.
        placing: where the image comes to lie in the network's input: ``none`` where the model puts it, or anywhere,
            squeezed, smaller and flipped by chance (`data.placing.draw_placing`), with boxes in ``whole_pixels``, not
            cut to the image before, as EAS-SNN has them, or ``exact``.
        placing_jitter, placing_scale: of the proportions, and least length of the longer side, as a share of the
            input's.
    """

    flip: float = 0.0
    zoom_min: float = 1.0
    zoom_max: float = 1.0
    shift: float = 0.0
    polarity_swap: float = 0.0
    drop: float = 0.0
    noise_hz: float = 0.0
    min_box_share: float = 0.3
    placing: str = "none"
    placing_jitter: float = 0.3
    placing_scale: float = 0.4

    def __post_init__(self) -> None:
        for name in ("flip", "polarity_swap", "min_box_share"):
            _require(
                0 <= getattr(self, name) <= 1, f"augment.{name}", "a probability or share in 0..1", getattr(self, name)
            )
        for name in ("drop", "shift"):
            _require(0 <= getattr(self, name) < 1, f"augment.{name}", "a share below 1", getattr(self, name))
        _require(
            0.1 <= self.zoom_min <= self.zoom_max <= 10,
            "augment.zoom_min, zoom_max",
            "0.1 <= min <= max <= 10",
            (self.zoom_min, self.zoom_max),
        )
        _require(self.placing in PLACINGS, "augment.placing", " or ".join(PLACINGS), self.placing)
        _require(0 <= self.placing_jitter < 1, "augment.placing_jitter", "a share below 1", self.placing_jitter)
        _require(0.05 <= self.placing_scale <= 1, "augment.placing_scale", "0.05..1", self.placing_scale)
        _require(0 <= self.noise_hz <= 1000, "augment.noise_hz", "0..1000 events per second and pixel", self.noise_hz)

    @property
    def is_off(self) -> bool:
        """Whether it changes nothing."""
        return self.placing == "none" and not self.changes_events

    @property
    def changes_events(self) -> bool:
        """Whether anything but the placing is switched on."""
        own = ("min_box_share", "placing", "placing_jitter", "placing_scale")
        return self != AugmentConfig(**{name: getattr(self, name) for name in own})


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained. The defaults are the published ones (Cordone, PhD thesis, 2022, ch. 5) but for the epochs.

    Attributes:
        mode: ``lanes`` follows one recording in each batch row and carries the membranes; ``windows`` draws labelled
            windows at random and starts each from rest; ``classification`` runs whole samples.
        lanes: batch rows, over all processes together.
        epochs: passes over the set. seed: of weights, order and augmentation.
        update: ``window`` updates after every window in which a row has labels; ``chunk`` once for `chunk_windows`
            windows, with the loss of all their labels.
        grad_windows: the gradient of a labelled window reaches back over at most so many windows before it.
        lr, weight_decay: of the optimizer. betas, eps: of AdamW. clip_norm: of the whole gradient; 0 does not clip.
        optimizer: which one, and the rest of its settings.
        schedule: of the learning rate over `epochs`, after `warmup_epochs` from 0; ``cosine`` and ``linear`` end at
            `min_lr`.
        schedule_by: ``epoch`` changes it once an epoch (published), ``step`` at every update.
        ema: decay of the exponential moving average of weights and batch statistics, 0 for none; it is what is
            validated and saved.
        ema_ramp: updates n over which that decay grows, as ``ema (1 - exp(-n / ema_ramp))`` (YOLOX: 2000); with 0 it
            is ``min(ema, (1 + n) / (10 + n))``.
        amp: autocast precision; membranes stay in float32.
        freeze: patterns of parameter names that do not learn, such as ``*.neuron.w``: the authors' code stops
            training its leaks after the first cut of the gradient.
        augment: of events. images: of images, where the data set holds those.
        save_every_steps: windows between saves of the training state, besides those at the end of each epoch.
        prefetch: batches made ahead by a thread, 0 for none. Images are then decoded in as many threads as there are
            processors, up to 8.
    """

    mode: str = "lanes"
    lanes: int = 32
    epochs: int = 50
    seed: int = 0
    update: str = "window"
    chunk_windows: int = 10
    grad_windows: int = 10
    lr: float = 5e-3
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    clip_norm: float = 1.0
    schedule: str = "cosine"
    schedule_by: str = "epoch"
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    ema: float = 0.0
    ema_ramp: float = 0.0
    amp: str = "off"
    freeze: tuple[str, ...] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    images: ImageChanges = field(default_factory=ImageChanges)
    save_every_steps: int = 500
    prefetch: int = 2

    def __post_init__(self) -> None:
        for name, choices in (("mode", MODES), ("update", UPDATES), ("schedule", SCHEDULES), ("amp", AMP)):
            _require(getattr(self, name) in choices, f"train.{name}", " or ".join(choices), getattr(self, name))
        _require(self.schedule_by in ("epoch", "step"), "train.schedule_by", "epoch or step", self.schedule_by)
        for name in ("lanes", "epochs", "chunk_windows", "save_every_steps"):
            _require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        for name in ("grad_windows", "prefetch", "clip_norm", "weight_decay", "min_lr", "warmup_epochs", "seed"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"train.{name}", "at least 0", value)
        _require(0 < self.lr < math.inf and self.eps > 0, "train.lr, train.eps", "above 0", (self.lr, self.eps))
        _require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "train.betas", "two in [0, 1)", self.betas
        )
        _require(0 <= self.ema < 1, "train.ema", "a decay in [0, 1)", self.ema)
        _require(0 <= self.ema_ramp < math.inf, "train.ema_ramp", "at least 0 updates", self.ema_ramp)
        object.__setattr__(self, "betas", tuple(self.betas))
        object.__setattr__(self, "freeze", tuple(self.freeze))


@dataclass(frozen=True)
class EvalConfig:
    """Validation during training.

    Attributes:
        protocol: name of an evaluation protocol.
        every_epochs: validate after so many epochs (and after the last), 0 never.
        score_threshold: detections at or below it are not kept.
    """

    protocol: str = "gen1"
    every_epochs: int = 1
    score_threshold: float = 0.01

    def __post_init__(self) -> None:
        _require(self.every_epochs >= 0, "eval.every_epochs", "at least 0", self.every_epochs)
        _require(0 <= self.score_threshold < 1, "eval.score_threshold", "in [0, 1)", self.score_threshold)


@dataclass(frozen=True)
class RunConfig:
    """A whole run. `target` holds published figures for comparison; it changes nothing."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    target: dict[str, Any] = field(default_factory=dict)


def _require(fits: bool, name: str, wanted: str, got: object) -> None:
    if not fits:
        raise SpecError(f"{name}: expected {wanted}, got {got}")
