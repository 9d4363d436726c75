"""A benchmark for people: rows and a table for the screen, a Markdown page, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_perception.benchmark.rates import ENERGY
from snn_perception.benchmark.rates_page import rates_table, write_rates_picture
from snn_perception.whole_file import whole_file

Values = Mapping[str, Any]
COLUMNS = ("engine", "precision", "CPU ms", "x eager", "x floor", "wall ms", "p95", "p99", "flips", "raw error")


def rows(values: Values) -> list[tuple[str, str]]:
    """Return what stands above the table."""
    machine = values["machine"]
    found = [
        ("model", f"{values['target']}, firing {values['firing_rate']:.1%}"),
        ("measured on", f"{machine['processor']}, {values['threads']} thread(s), load {machine['load']}"),
        ("windows", f"{values['windows']}, engines in turn in one process, state carried as the model does"),
        (
            "floor",
            f"{_floor(values):.2f} ms: {values['flops'] / 1e9:.3f} GFLOP, {values['sgemm_gflops']:.0f} per second",
        ),
        ("energy", _energy(values)),
        ("peak memory", f"{values['peak_memory_mib']:.0f} MiB, all engines together"),
    ]
    return found + [(f"not {name}", reason) for name, reason in values["left_out"].items()]


def table(values: Values, old: Values | None = None) -> tuple[Sequence[str], list[list[str]]]:
    """Return the columns and a line for each engine; with an older result also how the CPU time has changed."""
    before = {_label(one): one for one in old["engines"]} if old else {}
    lines = [_line(one) + ([_change(one, before.get(_label(one)))] if old else []) for one in values["engines"]]
    return (*COLUMNS, *(("CPU, then to now",) if old else ())), lines


def _label(one: Values) -> str:
    """Return an engine's name, with its precision if that is not fp32."""
    return str(one["name"]) + (f" {one['precision']}" if one["precision"] != "fp32" else "")


def _line(one: Values) -> list[str]:
    parity = one["parity"]
    return [
        one["name"],
        one["precision"],
        f"{one['cpu_median_ms']:.2f}",
        f"{one['speedup']:.2f}",
        f"{one['over_floor']:.2f}",
        f"{one['median_ms']:.2f}",
        f"{one['p95_ms']:.2f}",
        f"{one['p99_ms']:.2f}",
        "-" if parity is None else f"{parity['flips']:.1e}",
        "-" if parity is None or not parity["clean"] else f"{parity['raw_error']:.1e}",
    ]


def _change(now: Values, then: Values | None) -> str:
    """Return how the time over the floor has changed: another machine, or a busier one, has another floor."""
    if then is None:
        return "new"
    over = then["cpu_median_ms"] / then["floor_ms"], now["cpu_median_ms"] / now["floor_ms"]
    return f"{over[0]:.2f} to {over[1]:.2f} floors ({over[1] / over[0] - 1:+.0%})"


def _energy(values: Values) -> str:
    """Return the estimate of a window's energy, and whose constants it is made with."""
    energy = values["energy"]
    by = {one["name"]: one["microjoules"] for one in energy["variants"]}
    table = energy["table"]
    return (
        f"{by[ENERGY]:.1f} uJ a window by its spikes, {by['dense_mac']:.1f} uJ as dense multiplications; "
        f"{energy['label']}, {table['ac_pj']:g} pJ an addition and {table['mac_pj']:g} pJ a multiplication with one "
        f"({table['source']})"
    )


def _floor(values: Values) -> float:
    return float(values["engines"][0]["floor_ms"])


def section(values: Values, old: Values | None = None) -> list[str]:
    """Return the Markdown of one model."""
    columns, lines = table(values, old)
    found = [f"## {values['target']}", ""]
    found += [f"* {name}: {text}" for name, text in rows(values)[1:] if name != "measured on"]
    found[2:2] = [f"* firing {values['firing_rate']:.1%}, load {values['machine']['load']}"]
    found += ["", *markdown_table(columns, lines), ""]
    if values["streams"]:
        found += [*_streams(values), ""]
    if values["rates"]:
        found += [_RATES, "", *markdown_table(*rates_table(values["rates"])), ""]
    return found


_RATES = (
    "Whole windows, events to boxes, of scenes with more and more edges. Load is CPU time beside the window's own "
    "length; sustained, the events of such windows that one thread could take in a second. Energy is an estimate for "
    "neuromorphic hardware by spikes, the same whichever engine runs."
)


def _streams(values: Values) -> list[str]:
    sizes = sorted({one["streams"] for one in values["streams"]})
    by = {(one["engine"], one["streams"]): one["cpu_ms_per_stream"] for one in values["streams"]}
    lines = [
        [name, *(f"{by[name, size]:.2f}" for size in sizes), f"{by[name, sizes[-1]] / by[name, sizes[0]]:.2f}"]
        for name in dict.fromkeys(one["engine"] for one in values["streams"])
    ]
    head = [
        "engine",
        *(f"CPU ms each of {size}" for size in sizes),
        f"{sizes[-1]} to {sizes[0]}",
    ]
    return markdown_table(head, lines)


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table; columns after the first are numbers."""
    rule = "|---|" + "---:|" * (len(columns) - 1)
    return ["| " + " | ".join(columns) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]


def write_page(path: Path, values: Values, old: Values | None = None) -> None:
    """Write the page of one model at `path`, and its picture beside it."""
    picture = path.with_suffix(".png")
    write_picture(picture, [values])
    lines = [
        f"# How long a window of {values['target']} takes",
        "",
        "Made by `python -m snn_perception bench`. Engines run in turn in one process on the same windows. CPU time",
        "counts: wall time contains waiting where other work shares the processor. `eager` is the network by plain",
        "operations, the floor its dense arithmetic, norms folded, at the speed of the best matrix product seen. Flips",
        "are membranes that differ from `eager` by more than rounding, each window from `eager`'s own state; the raw",
        "error is of windows without any.",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in values["machine"].items()),
        "",
        *section(values, old),
        f"![CPU time of a window]({picture.name})",
        "",
    ]
    if values["rates"]:
        rates_picture = path.with_name(f"{path.stem}_rates.png")
        write_rates_picture(rates_picture, values["rates"])
        lines += [f"![Time and work over the event rate]({rates_picture.name})", ""]
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines))


def write_picture(path: Path, several: Sequence[Values]) -> None:
    """Draw the CPU time of every engine over the floor, a group for each model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(_label(one) for values in several for one in values["engines"]))
    figure = Figure(figsize=(2.2 + 1.1 * len(several) * max(1, len(names) / 3), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        at, heights = [], []
        for group, values in enumerate(several):
            for one in values["engines"]:
                if _label(one) == name:
                    at.append(group + (k - (len(names) - 1) / 2) * width)
                    heights.append(one["over_floor"])
        bars = axes.bar(at, heights, width * 0.9, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(several)), [values["target"] for values in several], fontsize=8)
    axes.set_ylabel("CPU time of a window / dense fp32 floor")
    axes.legend(fontsize=7, ncols=2, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with whole_file(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, dpi=130, format="png")
