"""Long runs: they are as long as they say, lose nothing, and tell what grows."""

import json
from dataclasses import replace
from itertools import pairwise
from mmap import mmap

import numpy as np
import pytest

from snn_perception import DetectionPipeline, build_preset
from snn_perception.cli.soak import main
from snn_perception.runtime.soak import LOOP_US, Look, SoakReport, awake, soak
from snn_perception.testing import FiringMeter, spiking_layers
from snn_perception.types import EventArray, EventWindow, SensorSize

SIZE = SensorSize(32, 48)


@pytest.fixture(scope="module")
def pipeline(registry):
    detector = build_preset("st_vgg_ssd_16", registry=registry, height=SIZE.height, width=SIZE.width)
    return DetectionPipeline(awake(detector, registry, 4))


def test_a_run_over_the_turn_of_the_clock_loses_nothing(pipeline, registry):
    told = []
    report = soak(
        pipeline,
        registry,
        streams=2,
        duration_s=20.0,
        looks=8,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert LOOP_US < 20e6, "the clock of the packets turns over on the way"
    assert (len(report.looks), told[-1]) == (8, (400, 400))
    last = report.looks[-1]
    assert (last.sensor_s, last.windows, report.losses) == (20.0, 800, 0)
    assert last.detections > 800 and report.silent_windows < 40
    assert [look.windows for look in report.looks] == list(range(100, 900, 100))
    assert (last.yards, report.looks[0].yards) == (108, 13) and 0 < last.yard_cpu_s < last.cpu_s
    assert not [fault for fault in report.faults() if "CPU" not in fault], "time is that of a shared machine"


def test_the_network_of_a_soak_fires_everywhere(pipeline):
    detector = pipeline.detector
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 50_000, 3000))
    x, y = rng.integers(0, SIZE.width, 3000), rng.integers(0, SIZE.height, 3000)
    events = EventArray(x.astype(np.uint16), y.astype(np.uint16), rng.integers(0, 2, 3000).astype(np.uint8), t, SIZE)
    window = detector.represent(EventWindow(events, 0, 50_000))
    with FiringMeter(spiking_layers(detector, window)) as meter:
        detector.infer(window)
    assert min(meter.rates().values()) > 0


def test_looks_may_be_as_close_as_four_windows(pipeline, registry):
    report = soak(pipeline, registry, streams=1, duration_s=2.0, looks=10)
    assert [look.windows for look in report.looks] == list(range(4, 44, 4)) and report.drift > -1.0
    assert all(b.yards > a.yards for a, b in pairwise(report.looks))


def test_what_grows_is_told(pipeline, registry, monkeypatch):
    kept = []
    step = pipeline.step

    def leaking(window, stream, **options):
        page = mmap(-1, 1 << 20)  # memory of its own: the allocator may hand out what is resident already
        page.write(b"x" * (1 << 20))
        kept.append(page)
        return step(window, stream, **options)

    monkeypatch.setattr(pipeline, "step", leaking)
    report = soak(pipeline, registry, streams=1, duration_s=8.0, looks=8)
    assert report.growth_mib > 50
    assert any("resident memory grew by" in fault for fault in report.faults())


def looks(count=40, **last):
    """Return looks of a run in which nothing changes but what `last` says, evenly up to the end."""
    steady = Look(0.0, 0, 0, 400.0, 3, 10, 0.0, 0.0)
    found = []
    for k in range(1, count + 1):
        moved = {name: getattr(steady, name) + (end - getattr(steady, name)) * k / count for name, end in last.items()}
        moved = {name: int(value) if name in ("threads", "files") else value for name, value in moved.items()}
        at = {"sensor_s": 60.0 * k, "windows": 1000 * k, "detections": 5000 * k, "cpu_s": 2.0 * k}
        at |= {"yards": 125 * k, "yard_cpu_s": 0.5 * k}
        found.append(replace(steady, **at | moved))
    return tuple(found)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"resident_mib": 403.0}, ""),
        ({"resident_mib": 440.0}, "resident memory grew by"),
        ({"threads": 4.0}, "threads grew from 3 to 4"),
        ({"files": 30.0}, "files grew from"),
    ],
)
def test_limits(changed, words):
    faults = SoakReport(4, looks(**changed), 0, 0).faults()
    assert (words == "" and not faults) or any(words in fault for fault in faults)


def test_slower_windows_silence_and_losses_are_faults():
    slower = tuple(replace(look, cpu_s=look.cpu_s * (1 + 0.005 * k)) for k, look in enumerate(looks()))
    assert any("CPU time per window changed by +" in fault for fault in SoakReport(4, slower, 0, 0).faults())
    tired = tuple(replace(look, yard_cpu_s=look.yard_cpu_s * (1 + 0.005 * k)) for k, look in enumerate(slower))
    tired_machine = SoakReport(4, tired, 0, 0)
    assert not tired_machine.faults() and tired_machine.clock_drift > 0.05, "all else took longer as well"
    assert any("without detections" in fault for fault in SoakReport(4, looks(), 30_000, 0).faults())
    assert any("3 packets or events were lost" in fault for fault in SoakReport(4, looks(), 0, 3).faults())


def test_the_command_writes_what_it_saw(tmp_path, capsys):
    small = ["st_vgg_ssd_16", "--size", "48x32", "--streams", "1"]
    code = main([*small, "--hours", "0.003", "--looks", "5", "-o", str(tmp_path / "looks.json"), "--json"])
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "looks.json").read_text())
    assert code == (1 if told["faults"] else 0) and told["windows"] == 215 and told["losses"] == 0
    assert len(written["looks"]) == 5 and written["windows"] == 215
    assert main([*small, "--hours", "0"]) == 2
    assert main(["st_vgg_ssd_16_synth", "--size", "48x32"]) == 1
    assert "--size and --window-ms are for presets" in capsys.readouterr().err


def test_windows_and_packets_may_be_longer_and_an_engine_may_run_them(tmp_path, capsys):
    long = ["--window-ms", "500", "--packet-ms", "100", "--engine", "onnxruntime"]
    command = ["st_vgg_ssd_16", "--size", "48x32", "--streams", "2", "--hours", "0.01", "--looks", "4", "--json"]
    main([*command, *long])
    told = json.loads(capsys.readouterr().out)
    assert (told["windows"], told["losses"], told["engine"]) == (144, 0, "onnxruntime")
    assert told["detections"] > 144 and told["window_ms"] == 500


def test_a_run_too_short_to_be_looked_at_is_refused(pipeline, registry):
    with pytest.raises(ValueError, match="too few for 40 looks"):
        soak(pipeline, registry, streams=1, duration_s=1.0)
