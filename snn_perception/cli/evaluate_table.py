"""The lines that ``evaluate`` prints for people, from what it would print as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from snn_perception.evaluation.markdown import amount, engine_told, figure, windows_told


def rows_of(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and values, the most telling first."""
    model, data, card, scores = values["model"], values["data"], values["card"], values["scores"]
    yield "model", model["name"] + (f" ({model['note']})" if model["note"] else "")
    yield "data", f"{data['name']} {data['split']}, {data['recordings']} recordings, {data['seconds']:.1f} s"
    if values["synthetic"]:
        yield "SYNTHETIC", f"{values['synthetic']}: {values['notice']}"
    yield "protocol", f"{card['protocol']['name']}, hash {card['hash']}"
    if windows := windows_told(values["settings"]):
        yield "windows", windows
    if engine := engine_told(values["settings"]):
        yield "engine", engine
    yield from _score_rows(scores)
    point = values["operating_point"]
    yield (
        "best balance",
        f"score {point['score']:.3f}: precision {point['precision']:.3f}, recall {point['recall']:.3f}, "
        f"F1 {point['f1']:.3f}",
    )
    if values["firing"] is not None:
        yield from _cost_rows(values)
    if values["latency"] is not None:
        wall = values["latency"]["wall_ms"]
        parts = ", ".join(f"{stage} {times['p50']:.2f}" for stage, times in wall.items() if stage != "total")
        total = wall["total"]
        yield "latency", f"p50 {total['p50']:.2f} ms ({parts}), p95 {total['p95']:.2f}, p99 {total['p99']:.2f}"
        yield "measured on", f"{values['latency']['machine']}, {values['latency']['threads']} thread(s)"
    for note in values["notes"]:
        yield "note", note
    for kind, path in values["files"].items():
        yield f"{kind} in", path


def _score_rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    stats = scores["stats"]
    yield "AP (0.50:0.95)", figure(stats["AP"])
    yield "AP50, AP75", f"{figure(stats['AP50'])}, {figure(stats['AP75'])}"
    own = scores.get("trapezoid")
    if own is not None:
        yield "AP, AP50 as YOLO", f"{figure(own['AP'])}, {figure(own['AP50'])} (trapezoids, not comparable with COCO's)"
    for name, one in scores["per_class"].items():
        yield f"  {name}", f"AP {figure(one['AP'])}, AP50 {figure(one['AP50'])}, AR {figure(one['AR_100'])}"
    for name in ("moving", "silent"):
        part = scores[name]
        if part is not None:
            yield (
                f"  {name} objects",
                f"AP {figure(part['AP'])}, AP50 {figure(part['AP50'])}, AR {figure(part['AR_100'])} "
                f"({part['ground_truths']:,} boxes)",
            )
    yield "AR 1, 10, 100", ", ".join(figure(stats[name]) for name in ("AR_1", "AR_10", "AR_100"))
    yield (
        "compared",
        f"{scores['images']:,} images, {scores['ground_truths']:,} boxes, {scores['detections']:,} detections",
    )


def _cost_rows(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    firing, operations, energy = values["firing"], values["operations"], values["energy"]
    yield "sparsity", f"{firing['sparsity']:.2%} of the neurons' outputs fire (lower is sparser)"
    for name in ("dead", "saturated"):
        if firing[name]:
            yield f"{name} layers", ", ".join(firing[name])
    yield (
        "a window",
        f"{amount(operations['dense_macs'])} dense MACs, {amount(operations['effective_acs'])} effective ACs, "
        f"{amount(operations['analog_macs'])} analog MACs",
    )
    by_name = {one["name"]: one["microjoules"] for one in energy["variants"]}
    yield (
        "energy",
        f"{by_name['event_ac']:.4g} uJ by ACs, {by_name['event_ac_neurons_memory']:.4g} uJ with neurons and memory "
        f"({energy['label']})",
    )
