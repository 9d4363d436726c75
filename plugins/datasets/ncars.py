"""N-CARS (Sironi et al., CVPR 2018): 100 ms around a car, or around nothing of the kind, as one DAT file each."""

from __future__ import annotations

from pathlib import Path

from snn_perception.api import (
    Dataset,
    DatasetReport,
    LabelledRecording,
    SensorSize,
    checked_root,
    checked_split,
    choose_recordings,
    header_fault,
    in_turn,
    list_files,
    split_folder,
)

CLASSES = ("background", "car")
FOLDERS = {"background": "background", "car": "cars"}
SIZE = SensorSize(100, 120)  # crops are up to so large; the files do not state their size


def ncars(
    root: str | Path,
    split: str,
    *,
    limit: int | None = None,
    skip_faulty: bool = True,
    infer_size: bool = False,
) -> Dataset:
    """Return a split of N-CARS, background and cars in turn.

    Args:
        root: folder with ``n-cars_train`` and ``n-cars_test`` (or train and test), which hold cars and background; or
            one of these itself.
        split: train or test; the set has no other.
        limit: at most so many samples, of both classes.
        skip_faulty: leave samples out whose files are damaged as far as their first bytes tell.
        infer_size: each sample is of the smallest size that holds its events, found by reading it, in place of 120x100.
    """
    root = checked_root(root)
    checked_split(split, ("train", "test"))
    names = (f"n-cars_{split}", f"ncars_{split}", split)
    folder = split_folder(root, split, names=names, inner=("Prophesee_Dataset_n_cars", "n-cars"))
    other = "test" if split == "train" else "train"
    if folder is None and not root.name.endswith(other) and any((root / name).is_dir() for name in FOLDERS.values()):
        folder = root
    looked_for = f"the folders {' and '.join(FOLDERS.values())} with .dat files"
    if folder is None:
        report = DatasetReport(f"{root} for {looked_for}", missing=(f"split '{split}': none of {', '.join(names)}",))
        return Dataset("ncars", split, CLASSES, None, (), report, is_classification=True)
    groups = {name: _files(folder / inner) for name, inner in FOLDERS.items()}
    candidates = [_sample(name, path, infer_size) for name, path in in_turn(groups)]
    chosen = choose_recordings(candidates, _faults, limit=limit, skip_faulty=skip_faulty)
    report = DatasetReport(
        f"{folder} for {looked_for}",
        found=len(chosen.recordings),
        missing=tuple(f"{FOLDERS[name]}: no .dat files" for name, paths in groups.items() if not paths),
        faulty=chosen.faulty,
        left_out=chosen.left_out,
    )
    size = None if infer_size else SIZE
    return Dataset("ncars", split, CLASSES, size, chosen.recordings, report, is_classification=True)


def _files(folder: Path) -> list[Path]:
    return [path for path in list_files(folder) if path.suffix == ".dat"] if folder.is_dir() else []


def _sample(name: str, path: Path, infer_size: bool) -> LabelledRecording:
    return LabelledRecording(
        f"{path.parent.name}/{path.stem}",
        path,
        reader="dat",
        reader_options={} if infer_size else {"size": (SIZE.height, SIZE.width)},
        sensor_size=None if infer_size else SIZE,
        class_id=CLASSES.index(name),
    )


def _faults(recording: LabelledRecording) -> tuple[str, ...]:
    fault = header_fault(recording.path)
    return (fault,) if fault is not None else ()
