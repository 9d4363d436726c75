"""`doctor`: every check passes where all is well, and fails where it should; the report holds what was found."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from snn_perception import zoo
from snn_perception.cli import doctor as command
from snn_perception.doctor import learning, machine, model, node, software
from snn_perception.doctor.expected import (
    Tolerance,
    agreement,
    expect,
    file_sha256,
    read_expected,
    write_expected,
)
from snn_perception.doctor.finding import Bench, Finding, Skip, examine
from snn_perception.doctor.report import make_report, passed, report_digest
from snn_perception.errors import SnnPerceptionError
from snn_perception.runtime.labelled_drive import CHECK_DRIVE, labelled_drive
from snn_perception.synth import sizes
from snn_perception.types import Detections
from tests.doctor_support import PRESET, distribution, woken_checkpoint
from tests.paths import ROOT


@pytest.fixture(scope="module")
def road(tmp_path_factory, registry):
    return labelled_drive(
        tmp_path_factory.mktemp("road") / "drive", replace(CHECK_DRIVE, duration_us=700_000), registry
    )


@pytest.fixture
def bench(tmp_path, registry, road):
    return Bench(tmp_path, registry=registry, drive=road)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, road, registry):
    """A folder of shipped weights: one model, its card, and what it gives on the drive."""
    folder = tmp_path_factory.mktemp("weights")
    path = woken_checkpoint(folder / "good.safetensors", road.drive.events, registry)
    (folder / "good.md").write_text("# good\n")
    seen = Bench(tmp_path_factory.mktemp("seen"), str(path), registry=registry, drive=road)
    assert model.offline(seen).status == "ok"
    model.write_release(seen, folder / "good.expected.json")
    return folder


@pytest.fixture
def shipped(weights, tmp_path, monkeypatch, bench):
    """A bench with the shipped weights, in a copy that a test may damage."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in weights.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(zoo, "FOLDER", folder)
    bench.model = "good"
    return bench


# ------------------------------------------------------------------------------------------------------- the machinery


def test_a_check_that_breaks_down_has_failed_and_the_others_go_on(tmp_path):
    def crashes(bench):
        return {}["key"]

    def refuses(bench):
        raise SnnPerceptionError("no\n  such thing")

    def needs(bench):
        bench.need("drive")

    seen = []
    checks = {"crashes": crashes, "refuses": refuses, "needs": needs, "fine": lambda bench: Finding("ok", "yes")}
    found = list(examine(checks, Bench(tmp_path), seen.append))
    assert seen == [one.check for one in found] == list(checks)
    assert [(one.status, one.told) for one in found] == [
        ("failed", "KeyError: 'key'"),
        ("failed", "no such thing"),
        ("skipped", "the small drive could not be made"),
        ("ok", "yes"),
    ]


def test_the_report_holds_everything_and_its_digest_tells_changes():
    found = [
        Finding("ok", "fine", facts={"a": 1}, check="one", seconds=0.5),
        Finding("warning", "so", check="two"),
        Finding("skipped", "no", check="three"),
    ]
    report = make_report(found, full=False)
    assert report["passed"] and report["counts"] == {"ok": 1, "warning": 1, "failed": 0, "skipped": 1}
    assert report["checks"][0] == {
        "status": "ok",
        "told": "fine",
        "remedy": "",
        "facts": {"a": 1},
        "check": "one",
        "seconds": 0.5,
    }
    again = json.loads(json.dumps(report))
    assert report_digest(again) == again["sha256"]
    again["checks"][1]["status"] = "ok"
    assert report_digest(again) != again["sha256"]
    assert not passed([*found, Finding("failed", "")])


# ------------------------------------------------------------------------------------------------------------ software


@pytest.mark.parametrize(
    "check", [software.python, software.packages, software.torch_build, software.spikingjelly, software.plugins]
)
def test_this_environment_is_in_order(check, tmp_path):
    found = check(Bench(tmp_path))
    assert found.status == "ok" and not found.remedy, found.told


@pytest.mark.parametrize(("version", "status"), [((3, 9, 1), "failed"), ((3, 14, 0), "warning")])
def test_another_python_is_told(version, status, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", version)
    assert software.python(Bench(tmp_path)).status == status


def test_packages_that_are_missing_or_too_old_are_named(tmp_path, monkeypatch):
    distribution(tmp_path, "wanting", requires=("numpy>=99", "no-such-package", 'left-out; extra == "video"', "pluggy"))
    monkeypatch.syspath_prepend(tmp_path)
    found = software.packages(Bench(tmp_path), "wanting")
    assert found.status == "failed" and found.remedy
    assert "(expected >=99)" in found.told and "no-such-package is missing" in found.told
    assert "left-out" not in found.told and "pluggy" not in found.told
    assert software.packages(Bench(tmp_path), "not_installed_at_all").status == "failed"


BROKEN = "raise RuntimeError('no such library')\n"
HOLLOW = """
from snn_perception.api import Component, hookimpl
@hookimpl
def snn_neurons():
    return [Component("hollow", "no_such_module:Hollow")]
"""


@pytest.mark.parametrize(("source", "told"), [(BROKEN, "no such library"), (HOLLOW, "no_such_module")])
def test_a_plugin_that_does_not_load_is_named(source, told, tmp_path, monkeypatch):
    distribution(tmp_path, "broken_plugin", plugin=source)
    monkeypatch.syspath_prepend(tmp_path)
    found = software.plugins(Bench(tmp_path))
    assert found.status == "failed" and "broken_plugin" in found.told and told in found.told
    assert "--no-plugin" in found.remedy
    assert software.plugins(Bench(tmp_path, blocked=["broken_plugin"])).status == "ok"


def test_a_gpu_that_torch_cannot_use_is_told(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(software, "_driver", lambda: "")
    assert software.gpu(Bench(tmp_path)).status == "ok"
    monkeypatch.setattr(software, "_driver", lambda: "550.54, NVIDIA L4")
    found = software.gpu(Bench(tmp_path))
    assert found.status == "warning" and "550.54, NVIDIA L4" in found.told and found.remedy


@pytest.mark.gpu
def test_a_gpu_is_described_and_counts_right(tmp_path):
    found = software.gpu(Bench(tmp_path))
    assert found.status == "ok" and found.facts["driver"] and found.facts["devices"]


# ------------------------------------------------------------------------------------------------------------- machine


def test_kernels_compile_and_are_kept(bench):
    found = machine.kernels(bench)
    assert found.status == "ok" and found.facts["events"] > 1000, found.told
    assert Path(found.facts["cache"]).is_dir()


def test_a_cache_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("")
    code = f"""
from pathlib import Path
from snn_perception.doctor import machine
from snn_perception.doctor.finding import Bench
print(machine.kernels(Bench(Path({str(tmp_path)!r}))).status)"""
    for asked, status in ((tmp_path / "file" / "cache", "failed"), (tmp_path / "cache", "ok")):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(asked)}
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=250
        )
        assert child.stdout.split()[-1:] == [status], child.stderr


def test_what_is_wrong_with_a_cache(tmp_path):
    (tmp_path / "file").write_text("")
    assert machine.cache_trouble(tmp_path, None) is None
    assert machine.cache_trouble(tmp_path / "below", str(tmp_path)) is None
    for folder, asked, status in (
        (None, None, "warning"),
        (tmp_path, str(tmp_path / "elsewhere"), "failed"),
        (None, str(tmp_path), "failed"),
        (tmp_path / "file" / "cache", None, "failed"),
    ):
        trouble = machine.cache_trouble(folder, asked)
        assert trouble is not None and trouble[0] == status and "NUMBA_CACHE_DIR" in trouble[2]


def test_a_disk_that_is_too_small_is_told(bench):
    assert machine.disk(bench, good=1, least=1).status == "ok"
    assert machine.disk(bench, good=1 << 60, least=1).status == "warning"
    found = machine.disk(bench, good=1 << 60, least=1 << 60)
    assert found.status == "failed" and found.remedy and "GB free" in found.told


# ------------------------------------------------------------------------------------------------ weights and the drive


def test_whole_weights_pass(shipped):
    found = model.weights(shipped)
    assert found.status == "ok" and [one["name"] for one in found.facts["shipped"]] == ["good"], found.told


def test_a_version_without_weights_is_told(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "nothing")
    assert model.weights(bench).status == "warning"
    with pytest.raises(Skip, match="--model"):
        model.offline(bench)


def test_damaged_weights_fail(shipped):
    path = zoo.shipped_path("good")
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    found = model.weights(shipped)
    assert found.status == "failed" and "is damaged" in found.told and found.remedy


def test_weights_other_than_those_released_fail(shipped, registry, road):
    """Whole, but trained again, say."""
    from snn_perception.checkpoint import load_checkpoint, save_checkpoint

    detector = load_checkpoint(zoo.shipped_path("good"), registry=registry)
    next(detector.parameters()).data.mul_(1.5)
    save_checkpoint(zoo.shipped_path("good"), detector)
    found = model.weights(shipped)
    assert found.status == "failed" and "not what its expected results were made with" in found.told


@pytest.mark.parametrize(
    ("path", "told"), [(zoo.card_path, "no model card"), (zoo.expected_path, "no expected results")]
)
def test_weights_without_their_papers_are_told(shipped, path, told):
    path("good").unlink()
    found = model.weights(shipped)
    assert found.status == "warning" and told in found.told


def test_the_drive_is_made(bench, road, registry):
    found = model.drive(Bench(bench.folder, registry=registry))
    assert found.status == "ok" and found.facts["events"] > 10_000 and found.facts["generator"] == road.generator


def test_a_preset_runs_untrained(bench):
    bench.model = PRESET
    found = model.offline(bench)
    assert found.status == "ok" and found.told.endswith("(untrained)")
    assert found.facts["detections"] == 5 * found.facts["windows"]
    with pytest.raises(Skip, match="no expected results"):
        model.released(bench)


def altered(shipped, change):
    """Change the windows or fields of the expected results, and return what is then found."""
    path = zoo.expected_path("good")
    write_expected(path, change(read_expected(path)))
    assert model.offline(shipped).status == "ok"
    return model.released(shipped)


def moved(expected, *, box_px=0.0, score=0.0):
    windows = {
        end_us: Detections(found.xyxy + np.float32(box_px), found.score - np.float32(score), found.class_id, end_us)
        for end_us, found in expected.windows.items()
    }
    return replace(expected, windows=windows)


def test_the_same_detections_are_as_released(shipped):
    found = altered(shipped, lambda expected: expected)
    assert found.status == "ok" and found.facts["share"] == 1.0 and found.facts["expected"] > 20, found.told
    assert found.facts["box_px"] <= 0.001 and found.facts["same_drive"]


@pytest.mark.parametrize("change", [{"box_px": 1.0}, {"score": 0.02}])
def test_a_small_difference_is_tolerated_and_told(shipped, change):
    found = altered(shipped, lambda expected: moved(expected, **change))
    assert found.status == "ok"
    assert max(found.facts["box_px"], 50 * found.facts["score"]) > 0.5


@pytest.mark.parametrize("change", [{"box_px": 9.0}, {"score": 0.3}])
def test_other_detections_than_released_fail(shipped, change):
    found = altered(shipped, lambda expected: moved(expected, **change))
    assert found.status == "failed" and found.facts["share"] < 0.9 and found.remedy


def test_expected_results_without_detections_prove_nothing(shipped):
    empty = Detections.empty()
    found = altered(shipped, lambda one: replace(one, windows=dict.fromkeys(one.windows, empty)))
    assert found.status == "failed"


def test_another_drive_excuses_other_detections(shipped):
    found = altered(shipped, lambda expected: moved(replace(expected, drive_sha256="0" * 64), box_px=9.0))
    assert found.status == "warning" and "otherwise" in found.told
    with pytest.raises(Skip, match="another/1"):
        altered(shipped, lambda expected: replace(expected, generator="another/1"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_expected_results_that_are_none_are_refused(shipped, text):
    zoo.expected_path("good").write_text(text)
    with pytest.raises(SnnPerceptionError, match=r"good\.expected\.json"):
        read_expected(zoo.expected_path("good"))
    assert model.weights(shipped).status == "failed"


def test_expected_results_come_back_as_they_were(shipped, tmp_path):
    assert model.offline(shipped).status == "ok"
    subject = shipped.need("subject")
    expected = expect(subject.checkpoint, shipped.need("drive"), shipped.need("seen"), Tolerance(share=0.8))
    write_expected(tmp_path / "e.json", expected)
    back = read_expected(tmp_path / "e.json")
    assert (back.weights_sha256, back.tolerance) == (file_sha256(subject.checkpoint), Tolerance(share=0.8))
    found = agreement(back, shipped.need("seen"))
    assert found.share == 1.0 and found.box_px < 0.001 and found.score < 0.0001 and found.expected == found.seen > 20


# ----------------------------------------------------------------------------------------------------------- ROS, train


@pytest.mark.parametrize("check", [node.ros, node.dds])
def test_without_ros_its_part_is_skipped_with_the_reason(check, bench, monkeypatch):
    monkeypatch.setattr(node.importlib.util, "find_spec", lambda name: None)
    (found,) = examine({"it": check}, bench)
    assert found.status == "skipped" and "ROS 2 is not installed" in found.told


@pytest.fixture
def shorter(monkeypatch):
    monkeypatch.setitem(sizes.SIZES, "tiny", replace(sizes.SIZES["tiny"], duration_us=1_200_000))


def test_a_model_that_learned_too_little_fails(bench, shorter):
    bench.model = PRESET
    steps = []
    found = learning.learning(bench, epochs=1, on_step=lambda done, total: steps.append((done, total)))
    assert found.status == "failed" and found.facts["updates"] > 1 and "expected" in found.told
    assert steps[-1] == (found.facts["steps"], found.facts["steps"])


def test_the_model_to_train_is_that_of_the_weights(shipped, registry, tmp_path):
    assert learning._model(shipped).preset == PRESET
    from snn_perception.checkpoint import load_checkpoint, save_checkpoint

    save_checkpoint(tmp_path / "silent.safetensors", load_checkpoint(zoo.shipped_path("good"), registry=registry))
    shipped.model = str(tmp_path / "silent.safetensors")
    with pytest.raises(Skip, match="--model"):
        learning._model(shipped)


@pytest.mark.slow
def test_a_model_learns(bench):
    bench.model = PRESET
    found = learning.learning(bench)
    assert found.status == "ok", found.told


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def quick(monkeypatch, road, tmp_path):
    """The command with the drive of these tests, and without ROS."""
    monkeypatch.setattr(node.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("snn_perception.runtime.labelled_drive.CHECK_DRIVE", road.drive.plan)
    monkeypatch.chdir(tmp_path)


def test_the_command_prints_a_table_and_writes_the_report(shipped, quick, capsys, tmp_path):
    assert command.main(["-o", "report.json"]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report_digest(report) == report["sha256"] and report["sha256"][:16] in out
    assert [check["check"] for check in report["checks"] if check["status"] == "skipped"] == ["ROS 2", "DDS", "node"]
    assert {check["check"]: check["status"] for check in report["checks"]}["as released"] == "ok"
    assert "in order: " in out and "NOT" not in out


def test_the_command_fails_with_a_check(shipped, quick, capsys):
    zoo.shipped_path("good").write_bytes(b"nothing")
    assert command.main(["--json"]) == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    status = {check["check"]: check["status"] for check in report["checks"]}
    assert not report["passed"] and status["weights"] == status["model"] == "failed"
    assert status["as released"] == "skipped" and status["kernels"] == "ok"


def test_the_maintainers_option_writes_what_is_expected(shipped, quick, capsys, tmp_path):
    assert command.main(["--write-expected", "new.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "good" and told["detections"] > 20
    before, after = (json.loads(path.read_text()) for path in (zoo.expected_path("good"), tmp_path / "new.json"))
    assert before == after
    assert command.main(["--write-expected", "no/such/folder.json"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_the_tool_that_ships_weights(shipped, quick, registry, tmp_path, capsys):
    """They come out with their expected results, and without the folders of the machine that trained them."""
    from snn_perception.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint

    spec = importlib.util.spec_from_file_location("ship_weights", ROOT / "tools" / "ship_weights.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    trained = load_checkpoint(zoo.shipped_path("good"), registry=registry)
    record = {"config": {"data": {"train": "gen1:/data/set"}, "model": {"checkpoint": "/runs/a.safetensors"}}}
    save_checkpoint(tmp_path / "best.safetensors", trained, run=record)
    assert tool.ship(tmp_path / "best.safetensors", "new", "synthetic-gen1/1") == zoo.shipped_path("new")
    run = read_checkpoint(zoo.shipped_path("new")).run
    assert run["config"] == {"data": {"train": "gen1:set"}, "model": {"checkpoint": "a.safetensors"}}
    assert run["data"] == {"data_set": "synthetic-gen1/1"}
    shipped.model = "new"
    assert model.offline(shipped).status == model.released(shipped).status == "ok"
    tool.MOST_BYTES = 1000
    with pytest.raises(SystemExit, match="bytes, at most 1,000"):
        tool.ship(tmp_path / "best.safetensors", "large", None)
    assert "large" not in zoo.shipped()


def test_a_report_that_cannot_be_written_is_refused_at_once(quick, capsys):
    assert command.main(["-o", "no/such/report.json"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
