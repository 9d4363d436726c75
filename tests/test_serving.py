"""Streams served by a model: swaps, loaded states, and journals that are repeated number for number."""

from dataclasses import replace

import pytest
import torch

from snn_perception import DetectionPipeline
from snn_perception.checkpoint import save_checkpoint
from snn_perception.cli.replay import main as replay_command
from snn_perception.data.shapes import moving_shapes
from snn_perception.detector import Detector
from snn_perception.errors import EventDataError, SnnPerceptionError, SpecError
from snn_perception.events.dat_writer import write_dat
from snn_perception.events.recording import open_recording
from snn_perception.events.window_source import WindowSource
from snn_perception.events.windower import Windower
from snn_perception.images.recording import ImageSource, open_images
from snn_perception.runtime.detections_file import read_detections
from snn_perception.runtime.journal import Entry, JournalWriter, read_journal
from snn_perception.runtime.rates import FasterRate, Part, stream_name
from snn_perception.runtime.repeat import Sources, repeat
from snn_perception.runtime.serving import Serving
from snn_perception.runtime.stream import CarriedGaps, StreamState
from snn_perception.spec import ComponentRef
from snn_perception.state import from_leaves, named_leaves, outline
from snn_perception.testing import wake
from snn_perception.types import SensorSize
from tests.image_support import drive, image_bag, small_detector

SIZE = SensorSize(64, 96)
WINDOW_US = 50_000
CAMERAS = ("left", "right")
TINY_EAS = {"width_factor": 0.125, "height": SIZE.height, "width": SIZE.width, "network_size": None}


def windows(seed, count=24):
    windower = Windower(WINDOW_US, SIZE, t_start_us=0)
    pieces = moving_shapes(SIZE, count * WINDOW_US, seed=seed)
    return [*(window for piece in pieces for window in windower.push(piece)), *windower.flush()][:count]


STREAMS = {"left": windows(3), "right": windows(4)}


def pipeline(registry, seed=0, **options) -> DetectionPipeline:
    """Return a small model that fires in every layer and carries its membranes."""
    spec = registry.build("preset", "st_vgg_ssd_16", height=SIZE.height, width=SIZE.width)
    head = replace(spec.head, options={**spec.head.options, "score_threshold": 0.0})
    torch.manual_seed(seed)
    detector = Detector(replace(spec, head=head, **options), registry).eval()
    inputs = [detector.represent(window) for window in STREAMS["left"][:3]]
    assert min(wake(detector, inputs).values()) > 0
    return DetectionPipeline(detector, max_detections=20)


@pytest.fixture(scope="module")
def models(registry):
    return {"first": pipeline(registry), "second": pipeline(registry, seed=1)}


def fresh_detector(registry) -> Detector:
    return Detector(registry.build("preset", "st_vgg_ssd_16", height=SIZE.height, width=SIZE.width), registry)


def fresh(model: DetectionPipeline) -> DetectionPipeline:
    """Return a pipeline of the same weights with settings of its own."""
    return DetectionPipeline(model.detector, max_detections=20)


def alone(model, stream, count):
    """Return what a model sees in the first windows of a stream when nothing happens to it."""
    state, found = StreamState(), []
    for window in stream[:count]:
        one, state = model.step(window, state)
        found.append(one)
    return found


def test_a_new_model_takes_over_warm_and_no_window_is_missed(models):
    serving = Serving(fresh(models["first"]))
    seen = {camera: [] for camera in CAMERAS}
    for k in range(20):
        if k == 5:
            serving.swap(fresh(models["second"]), 8 * WINDOW_US, "second")
        for camera in CAMERAS:
            window = STREAMS[camera][k]
            seen[camera].append(serving.window(camera, window))
            assert serving.follow(camera, window) is None
    old, new = ({camera: alone(fresh(models[name]), STREAMS[camera], 20) for camera in CAMERAS} for name in models)
    for camera in CAMERAS:
        assert min(map(len, seen[camera])) > 0
        assert seen[camera][:13] == old[camera][:13], "eight windows of both streams, and it is the new one's turn"
        after = DetectionPipeline(models["second"].detector, max_detections=20)
        state = StreamState()
        for k in range(5, 20):  # the new model's membranes began with the first window that it saw
            found, state = after.step(STREAMS[camera][k], state)
            if k >= 13:
                assert seen[camera][k] == found
        assert seen[camera][13] != old[camera][13]
        assert len(seen[camera]) == len(new[camera])
    assert {stream.windows for stream in serving.streams.values()} == {20}, "counts go on"
    assert not serving.is_swapping


def test_a_camera_that_falls_silent_does_not_hold_a_new_model_up(models):
    serving = Serving(fresh(models["first"]))
    serving.swap(fresh(models["second"]), 4 * WINDOW_US, "second")
    serving.window("right", STREAMS["right"][0])
    serving.follow("right", STREAMS["right"][0])
    taken = 0
    while serving.is_swapping and taken < 20:
        serving.window("left", STREAMS["left"][taken])
        serving.follow("left", STREAMS["left"][taken])
        taken += 1
    assert 5 < taken < 20, "it was waited for, and then not"
    assert serving.pipeline.detector is models["second"].detector


def test_a_model_that_fails_while_it_warms_up_does_no_harm(models):
    serving, broken = Serving(fresh(models["first"])), fresh(models["second"])
    calls = []

    def advance(window, stream):
        calls.append(window)
        if len(calls) == 3:
            raise RuntimeError("no memory left")
        return StreamState(windows=len(calls))

    broken.advance = advance
    serving.swap(broken, 10 * WINDOW_US, "broken")
    errors, seen = [], []
    for window in STREAMS["left"][:8]:
        seen.append(serving.window("left", window))
        errors.append(serving.follow("left", window))
    assert [str(error) for error in errors if error] == ["no memory left"] and errors[2] is not None
    assert seen == alone(fresh(models["first"]), STREAMS["left"], 8) and not serving.is_swapping


def test_a_model_without_state_takes_over_at_once(models, registry):
    serving = Serving(fresh(models["first"]))
    serving.swap(pipeline(registry, seed=2, state_policy="per_window"), 10**9, "third")
    serving.window("left", STREAMS["left"][0])
    serving.follow("left", STREAMS["left"][0])
    assert serving.pipeline.spec.state_policy == "per_window"


def test_a_model_of_other_windows_is_refused(models, registry):
    spec = models["first"].spec
    other = Detector(replace(spec, window_us=40_000, stride_us=40_000), registry)
    with pytest.raises(SpecError, match="running one's window_us, expected 50000 us, got 40000 us"):
        Serving(fresh(models["first"])).swap(DetectionPipeline(other), 0, "other")


def test_settings_hold_for_the_model_that_takes_over(models):
    serving = Serving(fresh(models["first"]))
    serving.set("max_detections", 3)
    serving.swap(fresh(models["second"]), 2 * WINDOW_US, "second")
    serving.set("score_threshold", 0.001)
    for window in STREAMS["left"][:4]:
        assert len(serving.window("left", window)) <= 3
        serving.follow("left", window)
    assert serving.pipeline.detector is models["second"].detector
    assert (serving.pipeline.max_detections, serving.pipeline.score_threshold) == (3, 0.001)


def test_a_loaded_state_goes_on_whatever_the_time(models):
    serving = Serving(fresh(models["first"]))
    expected = alone(fresh(models["first"]), STREAMS["left"], 12)
    for window in STREAMS["left"][:6]:
        serving.window("left", window)
    saved = serving.streams["left"]
    other = Serving(fresh(models["first"]))
    for window in STREAMS["right"][:3]:
        other.window("left", window)
    other.load("left", saved)
    assert [other.window("left", window) for window in STREAMS["left"][6:12]] == expected[6:]
    assert other.streams["left"].windows == 9 and other.streams["left"].resets == 0


# Journals


def live(models, journal):
    """Return what a run with everything in it gives: drops, changes, a reset, a load, a swap, a failed window."""
    serving = Serving(fresh(models["first"]), journal)
    serving.begin(checkpoint="first")
    published, saved = [], {}
    step = serving.pipeline.step
    for k in range(24):
        for camera in CAMERAS:
            if (k, camera) in {(4, "left"), (5, "left"), (9, "right")}:
                continue  # dropped under load
            if (k, camera) == (7, "left"):
                serving.set("max_detections", 5)
            if (k, camera) == (8, "right"):
                saved["kept"] = serving.streams["right"]
            if (k, camera) == (11, "right"):
                serving.load("right", saved["kept"], "kept")
            if (k, camera) == (12, "left"):
                serving.reset("left")
            if (k, camera) == (13, "left"):
                serving.swap(fresh(models["second"]), 4 * WINDOW_US, "second")
            if (k, camera) == (10, "left"):
                serving.pipeline.step = _broken
                with pytest.raises(RuntimeError):
                    serving.window(camera, STREAMS[camera][k])
                serving.pipeline.step = step
                continue
            published.append((camera, serving.window(camera, STREAMS[camera][k])))
            serving.follow(camera, STREAMS[camera][k])
    return published, saved, serving


def _broken(*_, **__):
    raise RuntimeError("planted")


def sources(models, saved, streams=STREAMS):
    return Sources(streams, lambda name: fresh(models[name]), lambda file, spec: saved[file])


def test_a_journal_is_repeated_number_for_number(models, tmp_path):
    writer = JournalWriter(tmp_path / "run.jsonl")
    published, saved, serving = live(models, writer.write)
    writer.close()
    entries = list(read_journal(tmp_path / "run.jsonl"))
    assert {entry.kind for entry in entries} == {
        "journal",
        "window",
        "set",
        "reset",
        "load",
        "shadow",
        "swap",
        "failed",
    }
    assert serving.pipeline.detector is models["second"].detector
    again = [(one.camera, one.detections) for one in repeat(entries, fresh(models["first"]), sources(models, saved))]
    assert again == published and sum(len(found) for _, found in published) > 100
    undisturbed = [found for camera, found in published if camera == "left"]
    assert undisturbed != alone(fresh(models["first"]), STREAMS["left"], len(undisturbed)), "the decisions count"


def jumping(seed, count=8):
    """Return windows of a sensor whose time begins anew: [0, 8) and, after the jump, other ones at the same times."""
    again = windows(seed + 10, count)
    return [*windows(seed, count), replace(again[0], after_gap=True), *again[1:]]


@pytest.mark.parametrize("dropped", [(8,), (3, 4, 5, 6, 7, 8), tuple(range(2, 13))])
def test_a_gap_of_which_the_first_window_was_dropped_is_repeated(models, dropped):
    entries, stream, told = [], jumping(3), CarriedGaps()
    serving = Serving(fresh(models["first"]), entries.append)
    serving.begin()
    published = []
    for k, window in enumerate(stream):
        if k in dropped:
            told.leave_out("left", window)
        else:
            published.append(serving.window("left", told.tell("left", window)))
    assert serving.streams["left"].resets == 1
    afresh = alone(fresh(models["first"]), stream[max(dropped) + 1 :], 20)
    assert published[-len(afresh) :] == afresh and min(map(len, published)) > 0, "nothing from before the gap counts"
    again = repeat(entries, fresh(models["first"]), Sources({"left": stream}, {}.get, {}.get))
    assert [one.detections for one in again] == published


def test_a_swap_that_failed_live_is_not_made_when_repeated(models):
    """Without memory left on the vehicle, say: at the desk the model would take over."""
    entries, published = [], []
    serving, new = Serving(fresh(models["first"]), entries.append), fresh(models["second"])
    serving.begin()
    advance, seen = new.advance, []

    def failing(window, stream):
        seen.append(window)
        if len(seen) == 2:
            raise RuntimeError("no memory left")
        return advance(window, stream)

    new.advance = failing
    serving.swap(new, 2 * WINDOW_US, "second")
    for window in STREAMS["left"][:6]:
        published.append(serving.window("left", window))
        serving.follow("left", window)
    assert entries[4] == Entry("swap", "", {"model": "second", "failed": True})
    again = repeat(entries, fresh(models["first"]), sources(models, {}))
    assert [one.detections for one in again] == published == alone(fresh(models["first"]), STREAMS["left"], 6)


def test_a_swap_that_is_called_off_is_repeated(models):
    entries, published = [], []
    serving = Serving(fresh(models["first"]), entries.append)
    serving.begin()
    serving.give_up()
    for k, window in enumerate(STREAMS["left"][:6]):
        if k == 1:
            serving.swap(fresh(models["second"]), 3 * WINDOW_US, "second")
        if k == 3:
            serving.give_up()
        published.append(serving.window("left", window))
        serving.follow("left", window)
    assert not serving.is_swapping and [entry.kind for entry in entries].count("swap") == 1
    again = repeat(entries, fresh(models["first"]), sources(models, {}))
    assert [one.detections for one in again] == published == alone(fresh(models["first"]), STREAMS["left"], 6)


def test_a_setting_that_the_coming_model_refuses_keeps_it_from_coming(models):
    entries = []
    serving = Serving(fresh(models["first"]), entries.append)
    serving.begin()
    coming = fresh(models["second"])
    coming.require_leak = _broken
    serving.swap(coming, 2 * WINDOW_US, "second")
    error = serving.set("gap_policy", "leak")
    assert isinstance(error, RuntimeError) and not serving.is_swapping and serving.pipeline.gap_policy == "leak"
    for window in STREAMS["left"][:4]:
        serving.window("left", window)
        assert serving.follow("left", window) is None
    again = repeat(entries, fresh(models["first"]), sources(models, {}))
    assert [one.detections for one in again] == alone(fresh(models["first"]), STREAMS["left"], 4)


def test_what_does_not_fit_the_journal_is_told(models, tmp_path):
    entries = []
    _, saved, _ = live(models, entries.append)

    def fault(kind=SnnPerceptionError, given=entries, model="first", **changed):
        with pytest.raises(kind) as caught:
            list(repeat(given, fresh(models[model]), replace(sources(models, saved), **changed)))
        return str(caught.value)

    assert "no recording was given for this camera" in fault(windows={"left": STREAMS["left"]})
    assert "is not in the recording" in fault(windows={**STREAMS, "right": STREAMS["right"][:5]})
    fewer = STREAMS["left"][2]
    fewer = replace(fewer, events=fewer.events[:-1])
    assert "packets were lost" in fault(windows={**STREAMS, "left": [*STREAMS["left"][:2], fewer]})
    wrong = [replace(entries[0], values={**entries[0].values, "spec": "abc"}), *entries[1:]]
    assert "of another model: expected spec abc" in fault(EventDataError, given=wrong)
    assert "expected a journal of format 1" in fault(EventDataError, given=entries[1:])
    slow = [replace(e, values={**e.values, "warm_us": 10**9}) if e.kind == "shadow" else e for e in entries]
    assert "took over here in the live run and does not now" in fault(given=slow)
    assert list(repeat([], fresh(models["first"]), sources(models, saved))) == []


def anytime_detector(registry, seed=0) -> Detector:
    """Return a model that may stop early, carries its membranes, and fires in every layer."""
    spec = registry.build("preset", "eas_snn_s_full_spike_v2", window_us=WINDOW_US, state_policy="carry", **TINY_EAS)
    head = replace(spec.head, options={**spec.head.options, "score_threshold": 0.0})
    torch.manual_seed(seed)
    detector = Detector(replace(spec, head=head), registry).eval()
    assert min(wake(detector, [detector.represent(window) for window in STREAMS["left"][:3]]).values()) > 0
    return detector


def test_steps_taken_under_a_deadline_are_repeated(registry):
    detector = anytime_detector(registry)
    entries = []
    serving = Serving(DetectionPipeline(detector), entries.append)
    serving.begin()
    published = []
    for k, window in enumerate(STREAMS["left"][:9]):
        if k % 3 == 0:
            serving.set("deadline_ms", (60_000.0, 0.001, 0.0)[k // 3])
        published.append(serving.window("left", window))
    assert [found.steps for found in published] == [3, 3, 3, 1, 1, 1, None, None, None]
    again = repeat(entries, DetectionPipeline(detector), Sources(STREAMS, {}.get, {}.get))
    assert [one.detections for one in again] == published and min(map(len, published)) > 0


def test_a_model_that_takes_over_under_a_deadline_is_repeated(registry):
    """How many steps it had the time for while it warmed up depends on the machine, and would show in its membranes."""
    detectors = {name: anytime_detector(registry, seed) for seed, name in enumerate(("first", "second"))}
    entries, published = [], []
    serving = Serving(DetectionPipeline(detectors["first"], deadline_ms=0.001), entries.append)
    serving.begin()
    for k, window in enumerate(STREAMS["left"][:10]):
        if k == 2:
            serving.swap(DetectionPipeline(detectors["second"]), 3 * WINDOW_US, "second")
        published.append(serving.window("left", window))
        serving.follow("left", window)
    assert serving.pipeline.detector is detectors["second"] and {found.steps for found in published} == {1}
    given = Sources(STREAMS, lambda name: DetectionPipeline(detectors[name]), {}.get)
    again = repeat(entries, DetectionPipeline(detectors["first"]), given)
    assert [one.detections for one in again] == published and min(map(len, published)) > 0


def test_a_journal_cut_off_by_a_kill_is_read_up_to_there(models, tmp_path):
    path = tmp_path / "run.jsonl"
    writer = JournalWriter(path)
    Serving(fresh(models["first"]), writer.write).begin()
    writer.write(Entry("window", "left", {"t_us": [0, 5]}))
    assert len(list(read_journal(path))) == 2, "each line is out at once"
    writer.close()
    path.write_text(path.read_text()[:-4])
    assert [entry.kind for entry in read_journal(path)] == ["journal"]
    with pytest.raises(SnnPerceptionError, match="is there already"):
        JournalWriter(path)


def test_what_is_no_journal_is_told_with_its_line(tmp_path):
    path = tmp_path / "j.jsonl"
    head = '{"journal":"","format":1,"spec":"","score_threshold":0,"max_detections":1,"geometry":"","max_gap_us":1}\n'
    for text, words in (
        ("{}\n", "line 1: expected one decision as JSON"),
        ("[1]\n", "line 1: expected one decision"),
        (head + "nonsense\n", "line 2: expected one decision"),
        (head + '{"dance":""}\n', "line 2: expected one of journal, window"),
        (head + '{"window":3}\n', "line 2: expected one of"),
        ('{"journal":"","format":1}\n', "line 1: 'journal' without spec, score_threshold"),
        (head + '{"window":"","t_us":[0]}\n', r"line 2: expected t_us: \[begin, end\]"),
        (head + '{"load":""}\n', "line 2: 'load' without file"),
        (head + head, "line 2: expected a journal's head once"),
        ('{"window":"","t_us":[0,1]}\n', "line 1: expected a journal's head"),
        ("[" * 5000 + "\n", "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(EventDataError, match=words):
            list(read_journal(path))
    with pytest.raises(EventDataError, match="cannot be read as a journal"):
        list(read_journal(tmp_path / "absent"))
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(EventDataError, match="cannot be read as a journal"):
        list(read_journal(path))


def run_of(path, model, windows, **facts):
    """Return what a model sees in windows of a recording, with the journal of that."""
    rate = FasterRate(WINDOW_US, facts["rate_times"], "phase_banks") if "rate_times" in facts else None
    writer = JournalWriter(path)
    serving = Serving(DetectionPipeline(model), writer.write)
    serving.begin(rate_mode="phase_banks", **facts)
    published = []
    for k, window in enumerate(windows):
        part = rate.part(window) if rate else Part(window)
        name = stream_name("", part.phase)
        if k == 2:
            serving.catch_up(name, part.window)
        else:
            published.append(serving.window(name, part.window))
    writer.close()
    return published


def repeated(tmp_path, model, recording, *options):
    """Return what the command computes from a journal."""
    save_checkpoint(tmp_path / "model.safetensors", model)
    files = [str(tmp_path / name) for name in ("model.safetensors", recording, "run.jsonl", "again.jsonl")]
    assert replay_command([*files[:2], "--journal", files[2], "--detections", files[3], *options]) == 0
    return [line.detections for line in read_detections(files[3])]


def test_the_command_repeats_a_run_of_several_phases(models, registry, tmp_path, capsys):
    write_dat(tmp_path / "drive.dat", list(moving_shapes(SIZE, 400_000, seed=3)), SIZE)
    recording = open_recording(tmp_path / "drive.dat", registry)
    source = WindowSource(recording, registry, WINDOW_US, stride_us=WINDOW_US // 2, max_gap_us=1_000_000)
    model = models["first"].detector
    published = run_of(tmp_path / "run.jsonl", model, source, rate_times=2)
    assert repeated(tmp_path, model, "drive.dat") == published and min(map(len, published)) > 0
    arguments = [str(tmp_path / "model.safetensors"), str(tmp_path / "drive.dat"), "--journal"]
    assert replay_command([*arguments, str(tmp_path / "run.jsonl"), "-o", str(tmp_path / "out.mcap")]) == 1
    assert "--output does not go with --journal" in capsys.readouterr().err


def test_the_command_repeats_a_run_on_images(registry, tmp_path):
    image_bag(tmp_path / "drive.db3", drive(4, [(90, 160, "rgb8", 0)]))
    model = small_detector(registry)
    source = ImageSource(open_images(tmp_path / "drive.db3"), model.spec.window_us)
    published = run_of(tmp_path / "run.jsonl", model, source, input_type="image")
    assert repeated(tmp_path, model, "drive.db3") == published and min(map(len, published)) > 0


# Overload and gaps


def test_windows_that_are_caught_up_with_leave_the_same_state(models):
    asked, hurried = Serving(fresh(models["first"])), Serving(fresh(models["first"]))
    for k, window in enumerate(STREAMS["left"][:12]):
        asked.window("left", window)
        if k in (0, 3, 4, 5, 9):
            hurried.catch_up("left", window)
        else:
            hurried.window("left", window)
    assert replace(hurried.streams["left"], model=None) == replace(asked.streams["left"], model=None)
    torch.testing.assert_close(hurried.streams["left"].model, asked.streams["left"].model, rtol=0, atol=0)
    assert any(leaf.any() for _, leaf in named_leaves(hurried.streams["left"].model))


def test_catching_up_does_not_run_a_head_without_membranes(models):
    model = fresh(models["first"])
    _, stream = model.step(STREAMS["left"][0], StreamState())
    calls = []
    handle = model.detector.head.register_forward_hook(lambda *_: calls.append(1))
    try:
        model.advance(STREAMS["left"][1], stream)
        assert not calls
        model.step(STREAMS["left"][1], stream)
        assert calls
    finally:
        handle.remove()


def test_a_head_with_membranes_is_run_when_catching_up(registry):
    spec = registry.build("preset", "eas_snn_s_full_spike_v2", window_us=WINDOW_US, state_policy="carry", **TINY_EAS)
    torch.manual_seed(0)
    detector = Detector(spec, registry).eval()
    assert min(wake(detector, [detector.represent(window) for window in STREAMS["left"][:3]]).values()) > 0
    model, one, two = DetectionPipeline(detector), StreamState(), StreamState()
    for window in STREAMS["left"][:4]:
        _, one = model.step(window, one)
        two = model.advance(window, two)
    torch.testing.assert_close(one.model, two.model, rtol=0, atol=0)
    assert any(leaf.any() for _, leaf in named_leaves(one.model["head"]))


def after_a_gap(models, policy, missing=3):
    """Return the state before a gap, and that after the window behind it."""
    model = DetectionPipeline(models["first"].detector, gap_policy=policy)
    stream = StreamState()
    for window in STREAMS["left"][:5]:
        _, stream = model.step(window, stream)
    _, after = model.step(STREAMS["left"][5 + missing], stream)
    return stream, after


def test_what_a_gap_does_to_membranes(models):
    before, held = after_a_gap(models, "hold")
    _, leaked = after_a_gap(models, "leak")
    _, rested = after_a_gap(models, "reset")
    assert (held.gaps, leaked.gaps, rested.gaps) == (1, 1, 1) and (held.resets, rested.resets) == (0, 1)
    model, window = fresh(models["first"]), STREAMS["left"][8]
    for after, state in ((held, before.model), (rested, None)):
        _, expected = model.step(window, StreamState(model=state))
        torch.testing.assert_close(after.model, expected.model, rtol=0, atol=0)
    kept = {}  # by hand: each layer's own leak over three windows of one step
    for name, module in model.detector.backbone.named_modules():
        if hasattr(module, "leak"):
            kept[name] = float((1 - torch.sigmoid(module.w.detach())) ** 3)
    leaves = [leaf * keep for leaf, keep in zip(dict(named_leaves(before.model)).values(), kept.values(), strict=True)]
    by_hand = from_leaves(outline(before.model), dict(zip(dict(named_leaves(before.model)), leaves, strict=True)))
    _, expected = model.step(window, StreamState(model=by_hand))
    torch.testing.assert_close(leaked.model, expected.model)
    assert any(
        not torch.equal(one, two)
        for (_, one), (_, two) in zip(named_leaves(leaked.model), named_leaves(held.model), strict=True)
    )


@pytest.mark.parametrize("neuron", ["plif", "lif", "if", "ilif"])
def test_a_leak_is_what_steps_without_input_leave(neuron, registry):
    module = registry.build("neuron", neuron).double()
    v = torch.linspace(0.01, 0.2, 7, dtype=torch.float64)[None]  # too little to fire
    _, after = module(torch.zeros(3, 1, 7, dtype=torch.float64), v)
    torch.testing.assert_close(module.leak(v, 3), after)


def test_a_neuron_that_does_not_say_how_it_leaks_is_refused(registry):
    spec = registry.build("preset", "st_vgg_ssd_16", height=SIZE.height, width=SIZE.width)
    spec = replace(spec, neuron=ComponentRef("spikingjelly", {"node": "LIFNode"}))
    with pytest.raises(SpecError, match=r"no neuron takes the membrane 'backbone\.0\.v' as it is; use gap_policy hold"):
        DetectionPipeline(Detector(spec, registry), gap_policy="leak")
    plain = fresh_detector(registry)
    next(module for module in plain.modules() if hasattr(module, "leak")).leak = None
    with pytest.raises(SpecError, match="neuron 'plif' .* does not say how it leaks"):
        DetectionPipeline(plain, gap_policy="leak")
    DetectionPipeline(plain, gap_policy="hold")


def test_a_journal_repeats_what_was_caught_up_and_leaked(models):
    entries, published = [], []
    serving = Serving(DetectionPipeline(models["first"].detector, max_detections=20, gap_policy="leak"), entries.append)
    serving.begin()
    for k, window in enumerate(STREAMS["left"][:16]):
        if k in (4, 5):
            continue
        if k in (7, 8, 9):
            serving.catch_up("left", window)
        else:
            published.append(serving.window("left", window))
        if k == 10:
            serving.set("gap_policy", "reset")
    again = repeat(entries, fresh(models["first"]), sources(models, {}))
    assert [one.detections for one in again] == published
