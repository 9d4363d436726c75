"""The command ``evaluate``: its report, its JSON, its errors, and two reports side by side."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.evaluate import main
from snn_perception.cli.replay import main as replay_main
from snn_perception.evaluation.card import ProtocolCard
from snn_perception.evaluation.detection_files import write_outcome
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.evaluation.results import STATS
from snn_perception.evaluation.run import score_outcomes
from snn_perception.runtime.detections_file import read_detections
from tests.dataset_support import GEN1, labels_of, paired
from tests.evaluate_support import NAMES, drive, shapes_tree, tiny_on_gen1
from tests.runtime_support import TINY

PICTURES = ("curves", "confusion", "firing", "samples")


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    """Commands bound the threads of their process; the next test has its own."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a set, a checkpoint and the report of the one on the other."""
    folder = tmp_path_factory.mktemp("evaluate")
    shapes_tree(folder / "set")
    save_checkpoint(folder / "tiny.safetensors", tiny_on_gen1())
    code = command(folder, "-o", folder / "report", "--save-detections", "--workers", 1)
    assert code == 0
    return folder


def command(folder, *arguments, data=None, model="tiny.safetensors"):
    """Return the exit code of ``evaluate`` on the set in a folder."""
    chosen = [] if model is None else [str(folder / model)]
    data = f"gen1:{folder / 'set'}" if data is None else data
    return main(["--plugin", str(TINY), *chosen, "--data", data, *map(str, arguments)])


def told(capsys, *arguments, **options):
    """Return the JSON that the command prints."""
    capsys.readouterr()
    code = command(*arguments, "--json", **options)
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys, *arguments, **options) -> str:
    """Return the one line with which the command refuses."""
    capsys.readouterr()
    code = command(*arguments, **options)
    out, err = capsys.readouterr()
    assert code == 1 and not out, (code, out, err)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


# The report


def test_the_report_is_complete_and_its_links_lead_somewhere(place):
    report = place / "report"
    text = (report / "report.md").read_text("utf-8")
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert sorted(links) == sorted(path.relative_to(report).as_posix() for path in report.glob("pictures/*.png"))
    assert len(links) == len(PICTURES)
    for link in links:
        assert (report / link).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and (report / link).stat().st_size > 5_000
    for heading in ("Scores", "Moving and silent objects", "Samples", "Spikes, operations, energy", "Latency"):
        assert f"\n## {heading}\n" in text
    metrics = json.loads((report / "metrics.json").read_text("utf-8"))
    assert f"`{metrics['card']['hash']}`" in text
    assert re.search(r"^\| weights \| [\d.]+ [kM]?B \|$", text, re.MULTILINE)
    assert "estimate for neuromorphic hardware" in text and metrics["energy"]["variants"][2]["formula"] in text
    layers, energy = metrics["operations"]["layers"], metrics["energy"]["layers_nanojoules"]
    assert list(layers) == list(energy) and len(layers) > 2
    for name, one in layers.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` | {one['input']}"))
        assert f"| {one['operation']} |" in row and f"| {energy[name]['event_ac']:.4g} |" in row
        assert f"| {one['input_rate']:.2%} | {one['input_mean']:.4f} |" in row
    total = next(one["microjoules"] for one in metrics["energy"]["variants"] if one["name"] == "event_ac")
    assert sum(one["event_ac"] for one in energy.values()) == pytest.approx(1e3 * total, rel=1e-12)
    assert f"| {1e3 * total:.4g} |" in next(line for line in text.splitlines() if line.startswith("| **all** |  |"))
    assert "Saturated layers" in text, "the second layer of the tiny network fires nearly always"
    assert "--save-detections" in text, "the command that made it"
    assert not list(report.rglob("*.tmp*")) and not list(report.glob("pictures/.*"))


def test_nothing_is_cut_off_at_the_edges_of_a_plot(place):
    for name in ("precision_recall", "confusion", "firing"):
        grey = np.asarray(Image.open(place / "report" / "pictures" / f"{name}.png").convert("L"))
        inside, edges = grey[6:-6, 6:-6], (grey[:6], grey[-6:], grey[:, :6], grey[:, -6:])
        assert (inside < 100).any() and all((edge > 240).all() for edge in edges), name


def test_json_is_what_the_report_holds_and_says_everything_in_plain_values(place, capsys):
    values = told(capsys, place, "-o", place / "report", "--workers", 1)
    files = values.pop("files")
    metrics = json.loads((place / "report" / "metrics.json").read_text("utf-8"))
    assert values == metrics
    assert set(files) == {"report", "metrics", *PICTURES}
    assert set(values) == {
        *("format", "synthetic", "notice", "model", "data", "card", "scores", "operating_point", "firing"),
        *("operations", "energy", "latency", "settings", "notes"),
    }
    assert values["synthetic"] is None and values["notice"] is None
    assert values["model"]["name"] == "tiny.safetensors" and values["model"]["note"] == ""
    assert values["model"]["classes"] == ["car", "pedestrian"] and values["model"]["state_policy"] == "carry"
    assert values["data"]["recordings"] == 3 and values["data"]["windows"] == 102
    assert values["data"]["labelled_windows"] == 19
    assert tuple(values["scores"]["stats"]) == STATS and values["scores"]["images"] == 13
    assert values["scores"]["moving"]["ground_truths"] + values["scores"]["silent"]["ground_truths"] == 39
    assert values["scores"]["silent"]["ground_truths"] >= 9, "nothing moves for a fifth of the time"
    assert values["firing"]["windows"] == 102 and 0 < values["firing"]["sparsity"] < 1
    assert values["operations"]["effective_acs"] > 0
    assert set(values["latency"]["wall_ms"]["network"]) == {"p50", "p90", "p95", "p99"}
    card = ProtocolCard.from_dict(values["card"])
    assert card.protocol.name == "gen1" and card.recordings == 3 and card.provenance is None
    assert values["settings"] == {
        "limit": None,
        "data_options": {},
        "max_windows": None,
        "windows": "grid",
        "lookback": False,
        "windows_from": "by default",
        "engine": "detector",
        "score_threshold": 0.0,
        "device": "cpu",
        "threads": 1,
    }


def test_a_second_run_takes_up_the_first_and_says_so(place, capsys, caplog):
    capsys.readouterr()
    assert command(place, "-o", place / "report", "--protocol", "none", "--quick", "--workers", 1) == 0
    assert "were done by an earlier run" not in caplog.text, "measured and unmeasured outcomes differ"
    assert command(place, "-o", place / "report", "--protocol", "stvgg", "--quick", "--workers", 1) == 0
    assert "3 of 3 recordings were done by an earlier run" in caplog.text
    assert command(place, "-o", place / "report", "--workers", 1) == 0


def test_the_table_tells_people(place, capsys):
    capsys.readouterr()
    assert command(place, "--limit", 1) == 0
    out = capsys.readouterr().out
    for name in ("AP (0.50:0.95)", "  car", "  silent objects", "AR 1, 10, 100", "sparsity", "latency", "protocol"):
        assert re.search(rf"^{re.escape(name)}: ", out, re.MULTILINE), name
    assert "SYNTHETIC" not in out and "1 recordings" in out


def test_workers_give_what_one_process_gives(place, capsys):
    alone = told(capsys, place, "--executor", "serial")
    two = told(capsys, place, "--workers", 2)
    for values in (alone, two):
        del values["latency"]
    assert two == alone


def test_rows_give_nearly_the_same_scores(place, capsys):
    alone, rows = told(capsys, place, "--quick", "--workers", 1), told(capsys, place, "--quick", "--rows", 3)
    assert rows["scores"]["stats"] == pytest.approx(alone["scores"]["stats"], abs=1e-3)
    assert rows["firing"] is rows["operations"] is rows["energy"] is rows["latency"] is None


def test_synthetic_data_is_named_everywhere(place, tmp_path, capsys):
    shutil.copytree(place / "set", tmp_path / "set")
    (tmp_path / "set" / "manifest.json").write_text('{"generator": "synthetic-gen1/7"}')
    shutil.copy(place / "tiny.safetensors", tmp_path)
    values = told(capsys, tmp_path, "-o", tmp_path / "report", "--quick", "--limit", 1)
    assert values["synthetic"] == values["card"]["provenance"] == "synthetic-gen1/7"
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert text.count("synthetic-gen1/7") >= 2 and "never comparable with figures on GEN1" in text
    assert command(tmp_path, "--quick", "--limit", 1) == 0
    assert "SYNTHETIC: synthetic-gen1/7" in capsys.readouterr().out


def test_an_untrained_preset_is_named_as_such(place, capsys):
    line = refused(capsys, place, "tiny", model=None)
    assert "(square, circle)" in line and "(car, pedestrian) have no name in common" in line
    values = told(capsys, place, "st_vgg_ssd_16", "--quick", "--limit", 1, "--max-windows", 12, model=None)
    assert "untrained weights" in values["model"]["note"]


def test_a_classifier_is_not_scored_by_boxes(place, capsys):
    line = refused(capsys, place, "st_vgg_classifier_16", "--quick", "--limit", 1, model=None)
    assert "boxes need a detector" in line


def test_options_of_the_data_set_reach_it(place, capsys):
    options = ("--data-option", "label_every_us=500000", "--data-option", "filter=none")
    thinned = told(capsys, place, "--quick", "--workers", 1, *options)
    assert thinned["settings"]["data_options"] == {"label_every_us": 500_000, "filter": "none"}
    assert thinned["data"]["labelled_windows"] == 10
    assert "did you mean 'label_every_us'" in refused(capsys, place, "--data-option", "label_every=1")
    assert command(place, "--data-option", "label_every_us") == 2


# Stored detections


def test_saved_detections_score_as_the_run_that_made_them(place, capsys):
    run = told(capsys, place, "--quick", "--limit", 1)
    stored = told(capsys, place, "--detections", place / "report" / "detections" / f"{NAMES[0]}.jsonl", model=None)
    assert stored["scores"] == run["scores"] and stored["card"] == run["card"]
    assert run["scores"]["detections"] > 20
    assert stored["model"]["digest"] is None and stored["firing"] is None


def test_detections_of_replay_score_as_the_model_does(place, tmp_path, capsys):
    recording = place / "set" / "test" / f"{NAMES[1]}_td.dat"
    code = replay_main(
        ["--plugin", str(TINY), str(place / "tiny.safetensors"), str(recording)]
        + ["--detections", str(tmp_path / "d.jsonl")]
    )
    assert code == 0
    stored = told(capsys, place, "--detections", tmp_path / "d.jsonl", "--recording", NAMES[1], model=None)
    saved = told(capsys, place, "--detections", place / "report" / "detections" / f"{NAMES[1]}.jsonl", model=None)
    assert stored["scores"] == saved["scores"] and stored["scores"]["ground_truths"] > 0
    assert len(list(read_detections(tmp_path / "d.jsonl"))) == stored["data"]["windows"]


def test_class_ids_of_a_file_go_by_the_names_given(place, tmp_path, capsys):
    path = tmp_path / f"{NAMES[0]}.jsonl"
    write_outcome(path, drive(0))
    as_it_is = told(capsys, place, "--detections", path, model=None)["scores"]
    assert as_it_is["stats"]["AP50"] > 0.5
    same = score_outcomes([drive(0)], ("car", "pedestrian"), GEN1, named_protocol("gen1")).scores
    assert as_it_is["stats"] == same.stats
    swapped = told(capsys, place, "--detections", path, "--classes", "pedestrian,car", model=None)["scores"]
    assert swapped["stats"]["AP50"] < 0.1
    one = told(capsys, place, "--detections", path, "--classes", "tree,car", model=None)
    assert one["card"]["classes"] == ["car"]
    assert "class ids 0, got 1" in refused(capsys, place, "--detections", path, "--classes", "car", model=None)


def test_a_file_of_an_unknown_recording_or_without_windows_is_refused(place, tmp_path, capsys):
    empty = tmp_path / f"{NAMES[0]}.jsonl"
    empty.write_text("")
    assert "holds no windows" in refused(capsys, place, "--detections", empty, model=None)
    other = tmp_path / "elsewhere.jsonl"
    other.write_text("")
    line = refused(capsys, place, "--detections", other, model=None)
    assert "has no recording 'elsewhere'" in line and NAMES[0] in line and "--recording" in line


# Two reports side by side


def test_equal_conditions_are_comparable(place, capsys):
    capsys.readouterr()
    assert main(["--compare", str(place / "report"), str(place / "report" / "metrics.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("comparable: ") and "+0.000" in out
    assert main(["--compare", str(place / "report"), str(place / "report"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["comparable"] and not values["differences"]
    assert values["figures"]["AP"]["difference"] == 0 and "silent AR_100" in values["figures"]


def test_other_conditions_are_not_and_it_says_which(place, tmp_path, capsys):
    told(capsys, place, "-o", tmp_path / "other", "--quick", "--limit", 2, "--protocol", "toolbox", "--workers", 1)
    assert main(["--compare", str(place / "report"), str(tmp_path / "other")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("NOT comparable: ")
    for words in ("skipped start in us: 500000 against 100000", "smallest side in px", "recordings: 3 against 2"):
        assert words in out


def test_a_report_changed_by_hand_is_refused(place, tmp_path, capsys):
    values = json.loads((place / "report" / "metrics.json").read_text("utf-8"))
    values["card"]["protocol"]["min_side_px"] = 20.0
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    for path, words in (
        (tmp_path / "metrics.json", "changed by hand"),
        (tmp_path / "absent.json", "cannot be read"),
        (place / "report" / "report.md", "expected the metrics.json"),
    ):
        assert main(["--compare", str(place / "report"), str(path)]) == 1
        assert words in capsys.readouterr().err


def test_steps_are_those_of_a_model_that_may_stop_early(place, capsys):
    assert "steps: expected a model that runs several network steps" in refused(capsys, place, "--steps", "1")


# Errors


def test_usage_errors_exit_with_2(place, capsys):
    for arguments in ([], ["model"], ["model", "--data", "gen1:x", "--detections", "f.jsonl"], ["--data", "gen1:x"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: name ")
    assert command(place, "--save-detections") == 2
    assert "needs a folder" in capsys.readouterr().err
    assert command(place, "--score-threshold", "1.5") == 2


def test_a_wrong_split_protocol_model_or_folder_is_one_clear_line(place, tmp_path, capsys):
    assert "nothing to use in split 'val'; looked in" in refused(capsys, place, "--split", "val")
    assert "present are test" in refused(capsys, place, "--split", "val")
    assert "unknown protocol 'gen2'; protocols: gen1" in refused(capsys, place, "--protocol", "gen2")
    assert "no such checkpoint" in refused(capsys, place, model="absent.safetensors")
    assert refused(capsys, place, model="").endswith("tiny.safetensors"), "a folder: the weights in it are named"
    assert "expected the folder of a data set" in refused(capsys, place, data=f"gen1:{tmp_path / 'absent'}")
    (tmp_path / "file").write_text("")
    assert "name another folder" in refused(capsys, place, "-o", tmp_path / "file" / "report")


def test_no_labels_and_damaged_labels_are_one_clear_line(place, tmp_path, capsys):
    paired(tmp_path / "bare" / "test", "17-05-01_0_60", labels=labels_of([]))
    assert "there is nothing to compare" in refused(capsys, place, data=f"gen1:{tmp_path / 'bare'}")
    paired(tmp_path / "cut" / "test", "17-05-01_0_60")
    path = tmp_path / "cut" / "test" / "17-05-01_0_60_bbox.npy"
    rows = np.load(path)
    np.save(path, rows[["ts", "x", "y", "w", "h"]])
    line = refused(capsys, place, data=f"gen1:{tmp_path / 'cut'}")
    assert "nothing to use" in line and "class_id" in line
