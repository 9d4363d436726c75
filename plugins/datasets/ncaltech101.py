"""N-Caltech101 (Orchard et al., Front. Neurosci. 2015): 300 ms of each picture, three saccades, one box per recording.

There is no official split. Lists ``train.txt``, ``val.txt``, ``test.txt`` are used where they are there; otherwise 80 %
of each class are for training and the same other 20 % for val and test.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from snn_perception.api import (
    Dataset,
    DatasetReport,
    EventDataError,
    LabelledRecording,
    LabelRules,
    SensorSize,
    checked_root,
    checked_split,
    choose_recordings,
    header_fault,
    in_turn,
    list_files,
    named_filter,
    read_outline_labels,
)

# The order of EAS-SNN's published checkpoint. BACKGROUND_Google, which has no boxes, is not among them.
_NAMES = """
    scorpion brontosaurus ant emu ceiling_fan hedgehog flamingo euphonium crocodile Motorbikes okapi Faces_easy
    chandelier ibis water_lilly anchor cannon butterfly beaver helicopter grand_piano brain kangaroo flamingo_head
    stegosaurus llama umbrella strawberry cup gerenuk cellphone panda binocular car_side soccer_ball joshua_tree
    sea_horse snoopy dalmatian schooner pigeon mandolin laptop saxophone hawksbill sunflower pyramid camera
    cougar_body ketch revolver lobster bonsai dollar_bill rooster minaret elephant mayfly Leopards headphone
    windsor_chair dolphin platypus pizza octopus watch lamp accordion yin_yang electric_guitar inline_skate
    wheelchair scissors tick menorah airplanes wild_cat garfield dragonfly rhino wrench stop_sign bass ewer chair
    pagoda crayfish starfish cougar_face lotus metronome ferry buddha barrel gramophone crab stapler
    crocodile_head nautilus trilobite
"""
CLASSES = tuple(_NAMES.split())
BACKGROUND = "BACKGROUND_Google"
SIZE = SensorSize(180, 240)
SPLITS = ("train", "val", "test")
TRAIN_SHARE = 0.8


def ncaltech101(
    root: str | Path,
    split: str,
    *,
    limit: int | None = None,
    filter: str = "none",
    skip_faulty: bool = True,
    seed: int = 0,
    label_t_us: int = 300_000,
) -> Dataset:
    """Return a split of N-Caltech101, one recording of each class after the other.

    Args:
        root: folder with ``Caltech101/<class>/image_0001.bin`` and ``Caltech101_annotations/<class>/
            annotation_0001.bin``; lists of splits, if any, lie in it too, one ``<class>/image_0001.bin`` a line.
        limit: at most so many recordings.
        filter: which boxes count, by the name of a preset.
        skip_faulty: leave recordings out whose files are empty or unreadable.
        seed: of the split where there are no lists. An image's place follows from the seed and its name alone.
        label_t_us: time that a recording's box is given; by default the nominal length of a recording.
    """
    root = checked_root(root)
    checked_split(split, SPLITS)
    images = _folder(root, "Caltech101")
    annotations = _folder(root, "Caltech101_annotations")
    looked_for = f"{images} for <class>/image_*.bin, {annotations} for <class>/annotation_*.bin"
    if not images.is_dir():
        report = DatasetReport(looked_for, missing=(f"{images}: no such folder",))
        return Dataset("ncaltech101", split, CLASSES, SIZE, (), report)
    files = [path for path in list_files(images, depth=2) if path.suffix == ".bin" and path.parent != images]
    groups: dict[str, list[Path]] = {name: [] for name in CLASSES}
    for path in files:
        if path.parent.name in groups:
            groups[path.parent.name].append(path)
    others = sorted({path.parent.name for path in files} - set(CLASSES) - {BACKGROUND})
    split_of, notes = _splits(root, split, groups, seed)
    missing = [f"{name}: no recordings" for name, paths in groups.items() if not paths]
    rules = LabelRules(filter=named_filter(filter))
    candidates = []
    for name, path in in_turn({name: [path for path in groups[name] if path in split_of] for name in CLASSES}):
        annotation = annotations / name / path.name.replace("image", "annotation", 1)
        if not annotation.is_file():
            missing.append(f"annotation of {name}/{path.stem}")
            continue
        source = partial(read_outline_labels, annotation, CLASSES.index(name), label_t_us)
        candidates.append(
            LabelledRecording(
                f"{name}/{path.stem}",
                path,
                reader="atis_bin",
                sensor_size=SIZE,
                label_source=source,
                labels_path=annotation,
                rules=rules,
            )
        )
    chosen = choose_recordings(candidates, _faults, limit=limit, skip_faulty=skip_faulty)
    report = DatasetReport(
        looked_for,
        found=len(chosen.recordings),
        missing=tuple(missing),
        faulty=chosen.faulty,
        left_out=chosen.left_out,
        notes=(*notes, *(f"folder {name}: not a class of this set" for name in others)),
    )
    return Dataset("ncaltech101", split, CLASSES, SIZE, chosen.recordings, report)


def _folder(root: Path, name: str) -> Path:
    """Return the folder called `name` in the root or, where the root is one of the two folders, beside it."""
    return root.parent / name if root.name in ("Caltech101", "Caltech101_annotations") else root / name


def _splits(root: Path, split: str, groups: dict[str, list[Path]], seed: int) -> tuple[set[Path], list[str]]:
    """Return the recordings of a split, and how it was told."""
    lists = [name for name in SPLITS if (root / f"{name}.txt").is_file()]
    if split in lists:
        listed = _read_list(root / f"{split}.txt")
        there = {f"{name}/{path.stem}": path for name, paths in groups.items() for path in paths}
        absent = sorted(listed - there.keys())
        notes = [f"split as listed in {split}.txt", *(f"listed, but not there: {name}" for name in absent)]
        return {there[name] for name in listed & there.keys()}, notes
    if lists:
        return set(), [f"no {split}.txt beside {', '.join(f'{name}.txt' for name in lists)}"]
    chosen: set[Path] = set()
    for name, paths in groups.items():
        chosen.update(path for path in paths if (split == "train") == _is_for_training(f"{seed}/{name}/{path.stem}"))
    return chosen, [f"no lists of splits: about 80/20 per class by seed {seed}; val and test are the same"]


def _is_for_training(name: str) -> bool:
    """Return it from the name alone, so that it holds wherever other images are missing."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < TRAIN_SHARE * 2**64


def _read_list(path: Path) -> set[str]:
    """Return the entries of a list as ``<class>/image_0001``, whatever folders stand before and suffix after it."""
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise EventDataError(f"{path}: cannot be read as a list of recordings: {error}") from error
    entries = [line.replace("\\", "/").split("/") for line in lines]
    wrong = next((line for line, parts in zip(lines, entries, strict=True) if len(parts) < 2), None)
    if wrong is not None:
        raise EventDataError(f"{path}: expected lines such as ant/image_0001.bin, got {wrong!r:.80}")
    return {f"{parts[-2]}/{parts[-1].partition('.')[0]}" for parts in entries}


def _faults(recording: LabelledRecording) -> tuple[str, ...]:
    files = (recording.path, recording.labels_path)
    return tuple(fault for path in files if path is not None and (fault := header_fault(path)) is not None)
