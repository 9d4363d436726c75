"""Spiking networks trained without membrane resets between windows (Cordone, PhD thesis, 2022, ch. 5).

stages      what both backbones are made of, and the extra levels
st_vgg      ST-VGG
rescat      ResCat-SNN
classifier  the head of the classification networks
presets     the published networks
layout      names and shapes of the authors' tensors, and ours
networks    what a checkpoint's shapes and options tell of its network
importer    the authors' checkpoints, detectors and classifiers
"""

from functools import partial

from snn_perception.api import Component, hookimpl

from .classifier import Classifier
from .importer import no_reset_classifier, no_reset_ssd
from .presets import BACKBONES, WIDTHS, classifier_preset, detector_preset
from .rescat import ResCat
from .st_vgg import STVGG


@hookimpl
def snn_backbones() -> list[Component]:
    return [
        Component("st_vgg", STVGG, "thin spiking VGG, norm before convolution, strides 8 to 256"),
        Component("rescat", ResCat, "residual blocks that concatenate, so that spikes stay binary, strides 8 to 256"),
    ]


@hookimpl
def snn_heads() -> list[Component]:
    return [Component("classifier", Classifier, "one class for the whole input, from the last feature map")]


@hookimpl
def snn_presets() -> list[Component]:
    presets = []
    for backbone, title in BACKBONES.items():
        for width in WIDTHS:
            name = title.format(width)
            detector = partial(detector_preset, backbone, width)
            presets.append(Component(f"{backbone}_ssd_{width}", detector, f"{name}+SSD on GEN1, 50 ms windows"))
            classifier = partial(classifier_preset, backbone, width)
            summary = f"{name} on N-CARS or GEN1 crops of 64x64, five 20 ms windows"
            presets.append(Component(f"{backbone}_classifier_{width}", classifier, summary))
    return presets


@hookimpl
def snn_checkpoint_importers() -> list[Component]:
    source = "loiccordone/no-reset-object-detection-with-snn"
    return [
        Component("no_reset_ssd", no_reset_ssd, f"ST-VGG and ResCat-SNN detectors of {source}"),
        Component("no_reset_classifier", no_reset_classifier, f"ST-VGG and ResCat-SNN classifiers of {source}"),
    ]
