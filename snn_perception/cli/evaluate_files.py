"""What ``evaluate`` writes into its folder, and how it tells of two reports side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from snn_perception.cli.common import print_json, print_table

if TYPE_CHECKING:
    from snn_perception.data.dataset import Dataset
    from snn_perception.evaluation.report import Findings
    from snn_perception.registry import Registry


def write_files(
    arguments: argparse.Namespace, registry: Registry, dataset: Dataset, findings: Findings
) -> dict[str, str]:
    """Write the report and return its files by what they are."""
    from snn_perception.evaluation.detection_files import write_outcome
    from snn_perception.evaluation.pictures import shots_of, write_samples
    from snn_perception.evaluation.report import METRICS, PICTURES, REPORT, make_folder, write_pictures, write_report
    from snn_perception.evaluation.samples import pick_frames

    folder, evaluation = arguments.output, findings.evaluation
    pictures = write_pictures(findings, folder)
    by_name = {recording.name: recording for recording in dataset}
    recordings = [by_name[outcome.name] for outcome in evaluation.outcomes]
    picked = pick_frames(evaluation.outcomes, evaluation.protocol, evaluation.operating_point.score)
    shots = shots_of(picked, recordings, registry, evaluation.outcomes[0].window_us)
    if shots:
        pictures["samples"] = folder / PICTURES / "samples.png"
        title = f"{findings.model.name} on {findings.provenance or findings.dataset} {findings.split}"
        write_samples(
            shots,
            pictures["samples"],
            evaluation.classes,
            title=title,
            min_score=evaluation.operating_point.score,
        )
    write_report(findings, folder, pictures)
    files = {"report": folder / REPORT, "metrics": folder / METRICS, **pictures}
    if arguments.save_detections:
        files["detections"] = folder / "detections"
        make_folder(files["detections"])
        for outcome in evaluation.outcomes:
            write_outcome(files["detections"] / f"{outcome.name}.jsonl", outcome)
    return {name: str(path) for name, path in files.items()}


def print_comparison(arguments: argparse.Namespace) -> None:
    """Compare the two reports of ``--compare`` and print what came of it."""
    from snn_perception.evaluation.comparison import compare
    from snn_perception.evaluation.markdown import figure

    comparison = compare(*arguments.compare)
    if arguments.json:
        print_json(comparison.as_dict())
        return
    if comparison.is_comparable:
        print(f"comparable: both were measured alike (hash {comparison.hashes[0]})")
    else:
        print("NOT comparable:", "; ".join(comparison.differences))
    print_table(
        ("", f"A: {comparison.names[0]}", f"B: {comparison.names[1]}", "B - A"),
        [
            (name, *(figure(v) if v is None or v <= 1 else f"{v:,.0f}" for v in (a, b)), _difference(a, b))
            for name, (a, b) in comparison.figures.items()
        ],
    )


def _difference(a: float | None, b: float | None) -> str:
    if a is None or b is None:
        return "-"
    return f"{b - a:+.3f}" if max(a, b) <= 1 else f"{b - a:+,.0f}"
