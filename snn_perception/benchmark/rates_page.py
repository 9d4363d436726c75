"""Time against events per second, for people: a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_perception.whole_file import whole_file

Values = Mapping[str, Any]
COLUMNS = ("events/s", "engine", "p50 ms", "p95", "CPU ms", "load", "sustained/s", "spikes", "est. uJ")


def rates_table(rates: Sequence[Values]) -> tuple[Sequence[str], list[list[str]]]:
    """Return the columns and a line for each rate and engine."""
    return COLUMNS, [_line(rate, engine) for rate in rates for engine in rate["engines"]]


def _line(rate: Values, engine: Values) -> list[str]:
    return [
        millions(rate["events_per_s"]),
        _label(engine),
        f"{engine['median_ms']:.2f}",
        f"{engine['p95_ms']:.2f}",
        f"{engine['cpu_median_ms']:.2f}",
        f"{engine['load']:.0%}",
        millions(engine["sustained_events_per_s"]),
        f"{rate['spikes']:,.0f}",
        f"{rate['energy_uj']:.1f}",
    ]


def millions(events: float) -> str:
    """Return a number of events in millions."""
    return f"{events / 1e6:.3g} M"


def _label(engine: Values) -> str:
    return str(engine["name"]) + (f" {engine['precision']}" if engine["precision"] != "fp32" else "")


def write_rates_picture(path: Path, rates: Sequence[Values]) -> None:
    """Draw the time of a window over the event rate for every engine, beside spikes and energy."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    times, work = figure.subplots(1, 2)
    events = [rate["events_per_s"] / 1e6 for rate in rates]
    for at, engine in enumerate(rates[0]["engines"]):
        (line,) = times.plot(
            events, [rate["engines"][at]["cpu_median_ms"] for rate in rates], "o-", label=_label(engine)
        )
        wall = [rate["engines"][at]["median_ms"] for rate in rates]
        times.plot(events, wall, ":", color=line.get_color(), linewidth=1)
    times.set_ylabel("ms of a window: CPU (dotted: wall)")
    times.set_ylim(bottom=0)
    times.legend(fontsize=7, frameon=False)
    work.plot(events, [rate["spikes"] / 1e3 for rate in rates], "o-", color="tab:gray")
    work.set_ylabel("thousand spikes in a window")
    work.set_ylim(bottom=0)
    energy = work.twinx()
    energy.plot(events, [rate["energy_uj"] for rate in rates], "s--", color="tab:green")
    energy.set_ylabel("estimated energy, uJ (dashed)")
    energy.set_ylim(bottom=0)
    for axes in (times, work):
        axes.set_xscale("log")
        axes.set_xlabel("million events per second")
    with whole_file(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, dpi=130, format="png")
