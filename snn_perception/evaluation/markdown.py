"""The report of an evaluation in Markdown, made from what ``metrics.json`` holds."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_MOTION = {"moving": "emit events", "silent": "emit none"}
_WINDOWS = {
    "grid": "on a grid, as live",
    "label": "ending at each label time",
    "recording": "one of the whole recording",
    "recording_end": "one at the end of the recording",
}


def report_markdown(
    values: Mapping[str, Any], card: str, pictures: Mapping[str, str], command: Sequence[str] = ()
) -> str:
    """Return the text of ``report.md``.

    Args:
        values: of ``metrics.json``. card: the protocol card as a section.
        pictures: what they show -> link.
    """
    return "\n".join(
        [
            *_head(values, command),
            *_scores(values, pictures),
            *_motion(values),
            *_samples(values, pictures),
            *_cost(values, pictures),
            *_latency(values),
            *_notes(values),
            card.rstrip(),
            "",
        ]
    )


def figure(value: float | None) -> str:
    """Return a score as text; a dash where there is nothing to find."""
    return "-" if value is None or value < 0 else f"{value:.3f}"


def engine_told(settings: Mapping[str, Any]) -> str:
    """Return the engine that ran the network; empty where the detector did itself."""
    engine = str(settings.get("engine", ""))
    return "" if engine == "detector" else engine


def windows_told(settings: Mapping[str, Any]) -> str:
    """Return how windows were cut and why so, from a report's settings; empty where they do not say."""
    kind = settings.get("windows")
    if kind is None:
        return ""
    origin = settings.get("windows_from")
    return _WINDOWS[kind] + (" with look-back" if settings.get("lookback") else "") + (f" ({origin})" if origin else "")


def amount(value: float) -> str:
    """Return a number of operations or bytes as text."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def _bytes(count: float) -> str:
    text = amount(count)
    return f"{text}B" if " " in text else f"{text} B"


def _head(values: Mapping[str, Any], command: Sequence[str]) -> Iterator[str]:
    model, data = values["model"], values["data"]
    yield f"# {model['name']} on {data['name']} {data['split']}"
    yield ""
    if values["notice"]:
        yield f"**{values['synthetic']}. {values['notice']}**"
        yield ""
    if model["note"]:
        yield f"**{model['note']}**"
        yield ""
    yield (
        f"{data['recordings']} recording{'' if data['recordings'] == 1 else 's'}, {data['seconds']:.1f} s, "
        f"{data['events']:,} events, {data['windows']:,} windows, {data['labelled_windows']:,} of them labelled. "
        f"Protocol `{values['card']['protocol']['name']}`, comparable with figures of hash `{values['card']['hash']}`."
    )
    yield ""
    facts = {
        "window": None if model["window_us"] is None else f"{model['window_us'] / 1000:g} ms",
        "state": model["state_policy"],
        "parameters": None if model["parameters"] is None else f"{model['parameters']:,}",
        "model digest": None if model["digest"] is None else f"`{model['digest']}`",
    }
    told = [f"{name} {value}" for name, value in facts.items() if value is not None]
    if told:
        yield f"Model: {', '.join(told)}."
        yield ""
    if windows := windows_told(values["settings"]):
        yield f"Windows: {windows}."
        yield ""
    if engine := engine_told(values["settings"]):
        yield f"Engine: `{engine}`."
        yield ""
    if command:
        yield from ("```", shlex.join(command), "```", "")


def _scores(values: Mapping[str, Any], pictures: Mapping[str, str]) -> Iterator[str]:
    scores, point = values["scores"], values["operating_point"]
    stats = scores["stats"]
    yield from ("## Scores", "")
    yield from _table(
        ("", "AP", "AP50", "AP75", "AR"),
        [
            ("**all**", *(f"**{figure(stats[name])}**" for name in ("AP", "AP50", "AP75", "AR_100"))),
            *(
                (name, *(figure(one[stat]) for stat in ("AP", "AP50", "AP75", "AR_100")))
                for name, one in scores["per_class"].items()
            ),
        ],
    )
    yield from _table(
        ("by size (area)", "AP", "AR"),
        [
            (f"{name} ({bounds})", figure(stats[f"AP_{name}"]), figure(stats[f"AR_{name}"]))
            for name, bounds in (("small", "< 32² px"), ("medium", "to 96² px"), ("large", "> 96² px"))
        ],
    )
    own = scores.get("trapezoid")
    if own is not None:
        yield (
            f"By the YOLO family's own validators (trapezoids under the curve): AP {figure(own['AP'])}, "
            f"AP50 {figure(own['AP50'])}."
        )
        yield ""
    empty = scores["detections_per_empty_frame"]
    counts = values["card"]["protocol"].get("frames") == "before_filter"
    meaning = "count as false ones" if counts else "cost nothing in these scores"
    yield (
        f"{scores['images']:,} images, {scores['ground_truths']:,} boxes to find, {scores['detections']:,} detections. "
        f"AR with 1 and 10 detections per image: {figure(stats['AR_1'])}, {figure(stats['AR_10'])}. "
        + (
            f"{scores['empty_frames']:,} labelled times keep no box; there the detector says "
            f"{empty:.2f} boxes each, which {meaning}."
            if empty is not None
            else "Every labelled time keeps a box."
        )
    )
    yield ""
    yield (
        f"Best balance: score threshold {point['score']:.3f} gives precision {point['precision']:.3f}, recall "
        f"{point['recall']:.3f}, F1 {point['f1']:.3f} at IoU 0.5."
    )
    yield ""
    yield from _picture(pictures, "curves", "precision over recall")
    yield from _picture(pictures, "confusion", "confusion matrix")


def _motion(values: Mapping[str, Any]) -> Iterator[str]:
    scores = values["scores"]
    if scores["moving"] is None:
        return
    yield from ("## Moving and silent objects", "")
    rows = [
        (f"{name} ({_MOTION[name]})", part["ground_truths"], *(figure(part[stat]) for stat in ("AP", "AP50", "AR_100")))
        for name, part in ((name, scores[name]) for name in _MOTION)
    ]
    yield from _table(("objects that are", "boxes", "AP", "AP50", "AR"), rows)
    yield "What a detector remembers shows in the second row: of those objects the sensor sees nothing at the time."
    yield ""


def _samples(values: Mapping[str, Any], pictures: Mapping[str, str]) -> Iterator[str]:
    if "samples" not in pictures:
        return
    yield from ("## Samples", "")
    yield from _picture(pictures, "samples", "frames with events, labels and detections")


def _cost(values: Mapping[str, Any], pictures: Mapping[str, str]) -> Iterator[str]:
    firing, operations, energy = values["firing"], values["operations"], values["energy"]
    if firing is None:
        return
    yield from ("## Spikes, operations, energy", "")
    yield (
        f"Over {firing['windows']:,} windows {firing['sparsity']:.2%} of the neurons' outputs were spikes: what the "
        "literature prints as *sparsity*, though lower is sparser."
    )
    yield ""
    for name, why in (("dead", "never fired"), ("saturated", "fired nearly always")):
        if firing[name]:
            yield f"**{name.capitalize()} layers** ({why}): {', '.join(f'`{layer}`' for layer in firing[name])}."
            yield ""
    yield from _picture(pictures, "firing", "firing rate of each layer")
    yield from _table(
        ("in one window, on the average", ""),
        [
            ("dense MACs", amount(operations["dense_macs"])),
            ("effective ACs (spikes x kernel places inside the map)", amount(operations["effective_acs"])),
            ("MACs of layers with analog input, dense", amount(operations["analog_macs"])),
            ("the same without zero inputs", amount(operations["effective_analog_macs"])),
            ("neuron updates", amount(operations["neuron_updates"])),
            ("state", _bytes(operations["state_bytes"])),
            ("weights", _bytes(operations["weight_bytes"])),
        ],
    )
    yield f"Graph: {operations['graph']}."
    yield ""
    yield from _layers(operations, firing, energy["layers_nanojoules"])
    yield from _energy(energy)


def _layers(operations: Mapping[str, Any], firing: Mapping[str, Any], energy: Mapping[str, Any]) -> Iterator[str]:
    yield from ("<details><summary>Layer by layer</summary>", "")
    head = ("layer", "input", "not zero", "mean", "does", "dense", "effective", "`event_ac`, nJ", "`dense_mac`, nJ")
    rows = [
        (
            f"`{name}`",
            one["input"] + (", the representation" if one["sees_representation"] else ""),
            f"{one['input_rate']:.2%}",
            f"{one['input_mean']:.4f}",
            one["operation"],
            *(amount(one[kind]) for kind in ("dense", "effective")),
            *(f"{energy[name][way]:.4g}" for way in ("event_ac", "dense_mac")),
        )
        for name, one in operations["layers"].items()
    ]
    yield from _table(head, [*rows, _layer_sums(operations, energy)])
    yield (
        "A layer of ACs costs its effective ones, a layer of MACs its dense ones. Spikes of several levels count as "
        "often as they say; the mean of a layer behind them is the spikes of a cell over all binary steps of a machine."
    )
    yield ""
    spikes = [
        (f"`{name}`", f"{one['rate']:.2%}", f"{one['mean']:.4f}", f"{one['outputs']:,}")
        for name, one in firing["layers"].items()
    ]
    yield from _table(("neurons", "firing rate", "mean output", "outputs a window"), spikes)
    yield from ("</details>", "")


def _layer_sums(operations: Mapping[str, Any], energy: Mapping[str, Any]) -> tuple[str, ...]:
    layers = operations["layers"].values()
    counts = (amount(sum(one[kind] for one in layers)) for kind in ("dense", "effective"))
    sums = (f"{sum(one[way] for one in energy.values()):.4g}" for way in ("event_ac", "dense_mac"))
    return ("**all**", "", "", "", "", *counts, *sums)


def _energy(energy: Mapping[str, Any]) -> Iterator[str]:
    table = energy["table"]
    yield (
        f"Energy of one window, **{energy['label']}**, not a measurement ({table['node']}, {table['number_format']}: "
        f"{table['mac_pj']:g} pJ a MAC, {table['ac_pj']:g} pJ an AC, {table['source']}; "
        f"{table['memory_pj_per_byte']:g} pJ a byte, {table['memory_source']}). Quote a figure with its formula only:"
    )
    yield ""
    rows = [(f"`{one['name']}`", one["formula"], f"{one['microjoules']:.4g}") for one in energy["variants"]]
    yield from _table(("bookkeeping", "formula", "µJ"), rows)


def _latency(values: Mapping[str, Any]) -> Iterator[str]:
    latency = values["latency"]
    if latency is None:
        return
    yield from ("## Latency", "")
    yield (
        f"{latency['windows']} windows of one stream, {latency['threads']} thread"
        f"{'' if latency['threads'] == 1 else 's'}, {latency['device']}, {latency['machine']}. "
        "Milliseconds, wall clock (processor time of all threads in brackets)."
    )
    yield ""
    rows = [
        (stage, *(f"{value:.2f} ({latency['cpu_ms'][stage][p]:.2f})" for p, value in times.items()))
        for stage, times in latency["wall_ms"].items()
    ]
    yield from _table(("stage", *next(iter(latency["wall_ms"].values()))), rows)


def _notes(values: Mapping[str, Any]) -> Iterator[str]:
    if values["notes"]:
        yield from ("## Notes", "")
        yield from (f"* {note}" for note in values["notes"])
        yield ""


def _picture(pictures: Mapping[str, str], name: str, what: str) -> Iterator[str]:
    if name in pictures:
        yield from (f"![{what}]({pictures[name]})", "")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(map(str, row)) + " |" for row in rows)
    yield ""
