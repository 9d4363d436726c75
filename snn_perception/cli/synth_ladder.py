"""``synth --ladder DIR``: what simple and all-knowing detectors score on a set, and whether that is as it should be."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_perception.cli.common import print_json, print_table, progress_bar, registry_of
from snn_perception.errors import SnnPerceptionError

if TYPE_CHECKING:
    from snn_perception.detector import Detector
    from snn_perception.evaluation.ladder import Ladder
    from snn_perception.registry import Registry

_SUFFIXES = (".json", ".md")
_USUAL_NAMES = ("best", "last")  # of checkpoints in the folder of a run


def print_ladder(arguments: argparse.Namespace) -> None:
    """Measure the ladder of the set in a folder, print it, and write it where asked for.

    Raises:
        SnnPerceptionError: if the folder holds another format, the output cannot be written, a model cannot be used.
    """
    from snn_perception.data.provenance import synthetic_version
    from snn_perception.evaluation.ladder_table import columns_of, ladder_values, rows_of, summary_of

    folder = arguments.ladder
    _check_output(arguments.output)
    dataset = synthetic_version(folder) if folder.is_dir() else None
    if dataset is not None and not dataset.startswith("synthetic-gen1/"):
        raise SnnPerceptionError(
            f"{folder}: the ladder's rungs and limits are those of the GEN1 format, this set is '{dataset}'; "
            "make one with --format gen1"
        )
    values = ladder_values(_measure(arguments, dataset), str(folder), arguments.split, dataset)
    if arguments.output is not None:
        _write(arguments.output, values)
    if arguments.json:
        print_json(values)
        return
    print_table(columns_of(values), rows_of(values))
    print(summary_of(values))
    if dataset is not None:
        print(values["notice"])


def _check_output(path: Path | None) -> None:
    from snn_perception.whole_file import check_writable

    if path is None:
        return
    if path.suffix not in _SUFFIXES:
        raise SnnPerceptionError(f"{path}: a ladder goes to a file that ends in .json or .md; name one with -o")
    check_writable(path)


def _measure(arguments: argparse.Namespace, provenance: str | None) -> Ladder:
    from snn_perception.data.dataset import open_dataset
    from snn_perception.evaluation.ladder import measure_ladder
    from snn_perception.work import make_executor

    registry = registry_of(arguments)
    dataset, train = (open_dataset(f"gen1:{arguments.ladder}", split, registry) for split in (arguments.split, "train"))
    dense = None if arguments.dense is None else _open(arguments.dense, registry)
    models = [(_name_of(path), _open(path, registry)) for path in arguments.model]
    with (
        make_executor(arguments.executor, arguments.workers) as executor,
        progress_bar("ladder", enabled=not arguments.json) as advance,
    ):
        return measure_ladder(
            dataset,
            train,
            registry,
            provenance=provenance,
            dense=dense,
            models=models,
            executor=executor,
            on_progress=lambda done, total: advance(round(done * 1000), total * 1000),
        )


def _open(path: Path, registry: Registry) -> Detector:
    """Return the detector of a checkpoint; a preset's untrained weights would tell nothing."""
    from snn_perception.checkpoint import load_checkpoint
    from snn_perception.zoo import checkpoint_path

    return load_checkpoint(checkpoint_path(str(path)), registry=registry)


def _name_of(path: Path) -> str:
    """Return what the table calls a checkpoint: its file, and its run where the file is called as in every run."""
    return f"{path.absolute().parent.name}/{path.stem}" if path.stem in _USUAL_NAMES else path.stem


def _write(path: Path, values: dict[str, Any]) -> None:
    from snn_perception.evaluation.ladder_table import ladder_markdown
    from snn_perception.whole_file import cannot_write, whole_file

    text = json.dumps(values, indent=1, allow_nan=False) + "\n" if path.suffix == ".json" else ladder_markdown(values)
    try:
        with whole_file(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as error:  # a full disk, for instance
        raise cannot_write(path, error) from error
