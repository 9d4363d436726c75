"""The command `bench`: its figures are there, hang together, and come from a network that fires."""

import json

import pytest

from snn_perception.benchmark.rates_page import millions
from snn_perception.cli.bench import main

SMALL = ["st_vgg_ssd_16", "--size", "96x64", "--windows", "10", "--no-pin"]


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNN_PERCEPTION_CACHE", str(folder / "cache"))
        told = []
        patch.setattr("snn_perception.cli.bench.print_json", told.append)
        assert main([*SMALL, "--engines", "eager,detector", "--streams", "--json", "-o", str(folder / "page.md")]) == 0
    return told[0] | {"folder": folder}


def test_the_figures_are_those_of_the_contract(values):
    assert values["windows"] == 10 and values["threads"] == 1 and 0 < values["firing_rate"] < 1
    assert {"processor", "load", "date"} <= values["machine"].keys()
    names = ("name", "precision", "median_ms", "p95_ms", "cpu_median_ms", "floor_ms")
    for one in values["engines"]:
        assert one.keys() >= set(names) and one["precision"] == "fp32"
        assert 0 < one["floor_ms"] < one["cpu_median_ms"] and one["median_ms"] <= one["p95_ms"]
        assert one["floor_ms"] == pytest.approx(values["flops"] / values["sgemm_gflops"] / 1e6)
    assert [one["name"] for one in values["engines"]] == ["eager", "detector"]
    assert values["engines"][0]["parity"] is None and values["engines"][1]["parity"]["flips"] == 0
    assert {one["streams"] for one in values["streams"]} == {1, 2, 4, 8}


def test_the_page_has_a_picture_and_tells_what_changed(values, capsys, monkeypatch):
    folder = values["folder"]
    assert "| eager | fp32 |" in (folder / "page.md").read_text() and (folder / "page.png").stat().st_size > 1000
    old = folder / "old.json"
    old.write_text(json.dumps({name: value for name, value in values.items() if name != "folder"}))
    monkeypatch.setenv("SNN_PERCEPTION_CACHE", str(folder / "cache"))
    assert main([*SMALL, "--engines", "eager", "--against", str(old)]) == 0
    assert "floors (" in capsys.readouterr().out
    assert main([*SMALL, "--against", str(folder / "page.md")]) == 1
    assert "bench --json" in capsys.readouterr().err


def test_energy_is_told_with_its_source(values):
    energy = {one["name"]: one["microjoules"] for one in values["energy"]["variants"]}
    assert 0 < energy["event_ac"] < energy["dense_mac"] and "Horowitz" in values["energy"]["table"]["source"]
    page = (values["folder"] / "page.md").read_text()
    assert f"{energy['event_ac']:.1f} uJ a window by its spikes" in page and "estimate for neuromorphic" in page


def test_more_events_are_more_spikes_and_the_page_draws_them(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("snn_perception.cli.bench.print_json", told.append)
    arguments = ["--engines", "detector", "--rates", "0.02,0.2,1", "--json", "-o", str(tmp_path / "page.md")]
    assert main([*SMALL, *arguments]) == 0
    rates = told[0]["rates"]
    assert [one["events_per_s"] for one in rates] == pytest.approx([2e4, 2e5, 1e6], rel=0.1)
    assert rates[0]["spikes"] < rates[1]["spikes"] < rates[2]["spikes"]
    assert rates[0]["energy_uj"] < rates[1]["energy_uj"] < rates[2]["energy_uj"]
    for rate in rates:
        (engine,) = rate["engines"]
        assert engine["name"] == "detector" and 0 < engine["median_ms"] <= engine["p95_ms"]
        assert engine["load"] == pytest.approx(engine["cpu_median_ms"] / 50)
        per_window = rate["events_per_s"] * 0.05
        assert engine["sustained_events_per_s"] == pytest.approx(per_window / engine["cpu_median_ms"] * 1e3)
    page = (tmp_path / "page.md").read_text()
    assert f"| {millions(rates[2]['events_per_s'])} | detector |" in page and "(page_rates.png)" in page
    assert (tmp_path / "page_rates.png").stat().st_size > 1000


@pytest.mark.parametrize("rates", ["0", "1,-1", "fast", "1000"])
def test_rates_that_are_none_are_refused(rates, capsys):
    assert main([*SMALL, f"--rates={rates}"]) == 2
    assert "argument --rates: " in capsys.readouterr().err


def test_unknown_engines_and_targets_are_one_line(capsys):
    assert main([*SMALL, "--engines", "warp"]) == 1
    assert "expected one of eager" in capsys.readouterr().err
    assert main(["nothing_of_that_name"]) == 1
