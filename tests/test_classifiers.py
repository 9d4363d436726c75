"""Classification networks: published sizes, the head, samples of several windows, the authors' checkpoints."""

import numpy as np
import pytest
import torch
from snn_perception_plugins.no_reset import classifier
from snn_perception_plugins.no_reset.classifier import Classifier

from snn_perception import DetectionPipeline, EventArray, build_preset
from snn_perception.checkpoint import load_weights
from snn_perception.cost import cost_of
from snn_perception.detector import Detector
from snn_perception.errors import CheckpointError, SpecError
from snn_perception.runtime.stream import StreamState
from snn_perception.testing import FiringMeter, sparse_input, spiking_layers, wake
from snn_perception.types import EventWindow, FeatureInfo, SensorSize, Targets
from tests.golden_support.kinds import kind_of
from tests.golden_support.vectors import Vector, event_counts, filled_state
from tests.no_reset_reference import PlainNetwork, shapes_of, write_vector
from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "golden" / "st_vgg_rescat" / "32-ST-VGG.json"
SIZE = SensorSize(64, 64)
WINDOWS = 5
# Published: parameters of all layers, of all but the last; millions of multiply-accumulates with 2 and 4 channels.
PUBLISHED = {
    "st_vgg_classifier_16": (125_740, 125_484, 5.88, 6.01),
    "st_vgg_classifier_32": (500_300, 499_788, 23.27, 23.53),
    "st_vgg_classifier_64": (1_995_916, 1_994_892, 92.54, 93.06),
    "rescat_classifier_16": (216_783, 216_399, 7.65, 7.78),
    "rescat_classifier_32": (863_119, 862_351, 30.33, 30.59),
    "rescat_classifier_64": (3_444_495, 3_442_959, 120.78, 121.31),
}


def classes_of(*class_ids: int | None) -> list[Targets | None]:
    box = np.array([[0, 0, 64, 64]], np.float32)
    return [None if k is None else Targets(box, np.array([k], np.int64)) for k in class_ids]


class TestPublishedNetworks:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_parameters_and_operations(self, registry, name):
        total, without_last, two, four = PUBLISHED[name]
        detector = build_preset(name, registry=registry)
        assert cost_of(detector).parameters == total
        assert sum(p.numel() for p in detector.backbone.parameters()) == without_last
        assert cost_of(detector).macs / 1e6 == pytest.approx(two, abs=0.0065)
        assert cost_of(build_preset(name, registry=registry, tbin=2)).macs / 1e6 == pytest.approx(four, abs=0.0065)

    @pytest.mark.parametrize("name", ["st_vgg_classifier_16", "rescat_classifier_16"])
    def test_preset_states_input_windows_and_classes(self, registry, name):
        spec = registry.build("preset", name)
        assert (spec.sensor_size, spec.window_us, spec.state_policy) == (SIZE, 20_000, "carry")
        assert spec.classes == ("background", "car") and spec.head.name == "classifier"
        gen1 = registry.build("preset", name, classes=["car", "pedestrian"], tbin=2)
        assert gen1.classes == ("car", "pedestrian") and Detector(gen1, registry).representation.channels == 4

    @pytest.mark.parametrize(
        ("data_set", "preset"), [("ncars", "rescat_classifier_16"), ("gen1_classification", "rescat_ssd_16")]
    )
    def test_named_classes_are_those_of_the_data_set(self, registry, data_set, preset, tmp_path):
        assert (
            registry.build("preset", preset).classes == registry.build("dataset", data_set, tmp_path, "train").classes
        )


class TestHead:
    @pytest.fixture
    def head(self):
        torch.manual_seed(0)
        return Classifier(FeatureInfo((3, 5), (8, 16)), 4, lambda: None).double().eval()

    def maps(self, steps=2, rows=3):
        return [sparse_input(steps, rows, 3, 8, 8), sparse_input(steps, rows, 5, 4, 4, seed=1)]

    def test_logits_are_the_last_map_through_a_linear_layer_summed_over_positions_and_steps(self, head):
        maps = self.maps()
        raw, state = head(maps)
        norm, kernel = head.layer.norm, head.layer.conv.weight[:, :, 0, 0]
        seen = (maps[1] - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + norm.eps).sqrt()
        torch.testing.assert_close(raw, seen.sum(dim=(0, 3, 4)) @ kernel.T)
        assert state is None and raw.shape == (3, 4)

    def test_loss_is_the_mean_cross_entropy_of_the_labelled_rows(self, head):
        raw = torch.tensor([[2.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 5.0, 0]], dtype=torch.float64)
        got = head.loss(raw, classes_of(0, None, 3), SIZE)
        expected = torch.nn.functional.cross_entropy(raw[[0, 2]], torch.tensor([0, 3]))
        assert got.keys() == {"class"}
        torch.testing.assert_close(got["class"], expected)

    def test_without_labels_the_loss_and_its_gradient_are_nothing(self, head):
        raw = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
        loss = head.loss(raw, [None, Targets(np.empty((0, 4), np.float32), np.empty(0, np.int64))], SIZE)["class"]
        loss.backward()
        assert loss == 0 and not raw.grad.any()

    def test_of_several_boxes_the_largest_gives_the_class(self, head):
        boxes = np.array([[0, 0, 10, 10], [0, 0, 30, 30], [5, 5, 9, 9]], np.float32)
        raw = torch.randn(1, 4, dtype=torch.float64)
        several = head.loss(raw, [Targets(boxes, np.array([0, 2, 1], np.int64))], SIZE)
        assert several["class"] == head.loss(raw, classes_of(2), SIZE)["class"]

    @pytest.mark.parametrize("class_id", [-1, 4])
    def test_a_class_it_does_not_have_is_refused(self, head, class_id):
        with pytest.raises(ValueError, match=rf"class_id in 0\.\.3, got {class_id}"):
            head.loss(torch.zeros(1, 4), classes_of(class_id), SIZE)

    def test_decode_gives_the_likeliest_class_over_the_whole_input(self, head):
        raw = torch.tensor([[0.0, 3, 0, 0], [9, 0, 0, 0]])
        first, second = head.decode(raw, SensorSize(48, 80))
        assert first.xyxy.tolist() == [[0, 0, 80, 48]] and first.class_id.tolist() == [1]
        assert first.score[0] == pytest.approx(np.exp(3) / (np.exp(3) + 3))
        assert second.class_id.tolist() == [0] and second.score[0] == pytest.approx(1, abs=1e-3)

    def test_rows_are_counted_over_all_processes(self, head, monkeypatch):
        """So that the losses of two processes add up to that of one with all rows."""
        raw, wanted = torch.randn(4, 4, dtype=torch.float64), classes_of(0, 1, None, 3)
        whole = head.loss(raw, wanted, SIZE)["class"]
        monkeypatch.setattr(classifier, "sum_over_ranks", lambda own: torch.full_like(own, 3))
        parts = [head.loss(raw[rows], wanted[rows], SIZE)["class"] for rows in (slice(0, 2), slice(2, 4))]
        torch.testing.assert_close(sum(parts), whole)

    def test_half_precision_logits_are_trained_and_decoded_in_full(self, head):
        raw = torch.tensor([[90.0, 91.0, 0, 0]], dtype=torch.bfloat16)
        assert head.loss(raw, classes_of(1), SIZE)["class"].dtype == torch.float32
        assert head.decode(raw, SIZE)[0].class_id.tolist() == [1]

    def test_no_classes_are_refused(self):
        with pytest.raises(ValueError, match="at least one class"):
            Classifier(FeatureInfo((3,), (8,)), 0, lambda: None)


@pytest.mark.parametrize("name", ["st_vgg_classifier_16", "rescat_classifier_16"])
class TestSamples:
    """A sample is five windows with the membranes carried; its logits are the sum of theirs."""

    def firing(self, registry, name, rows=3):
        detector = build_preset(name, registry=registry).double()
        x = sparse_input(WINDOWS, rows, 2, SIZE.height, SIZE.width)
        wake(detector.backbone, x, windows=WINDOWS)
        return detector, x

    @torch.no_grad()
    def test_the_sum_over_windows_equals_the_steps_of_one_call(self, registry, name):
        detector, x = self.firing(registry, name)
        state, total, forgetful = None, torch.zeros(3, 2), torch.zeros(3, 2)
        with FiringMeter(spiking_layers(detector.backbone, x[:1])) as meter:
            for window in x:
                raw, state = detector(window[None], state)
                total = total + raw
                forgetful = forgetful + detector(window[None])[0]
        assert all(0.01 <= rate <= 0.60 for rate in meter.rates().values()), meter.rates()
        torch.testing.assert_close(total, detector(x)[0])
        assert not torch.allclose(total, forgetful), "the membranes make no difference"

    def test_loss_of_the_summed_logits_reaches_the_first_window_and_every_parameter(self, registry, name):
        detector, x = self.firing(registry, name)
        detector.train()
        for module in detector.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        x, state, total = x.requires_grad_(), None, 0.0
        for window in x:
            raw, state = detector(window[None], state)
            total = total + raw
        detector.head.loss(total, classes_of(0, 1, 1), SIZE)["class"].backward()
        assert all(p.grad is not None and p.grad.any() for p in detector.parameters())
        assert all(x.grad[k].any() for k in range(WINDOWS))

    def test_it_learns_to_tell_two_kinds_of_samples(self, registry, name):
        """Events above the middle against events below it, eight samples at a time."""
        detector = build_preset(name, registry=registry, height=32, width=32).train()
        optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3, weight_decay=1e-2)
        size, wanted = SensorSize(32, 32), [0, 1] * 4
        for step in range(25):
            total = self.logits(detector, wanted, seed=step)
            loss = detector.head.loss(total, classes_of(*wanted), size)["class"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            unseen = self.logits(detector.eval(), wanted, seed=1000)
        found = [one.class_id[0] for one in detector.head.decode(unseen, size)]
        assert found == wanted, (loss, unseen)

    @staticmethod
    def logits(detector, wanted, seed):
        x = sparse_input(2, len(wanted), 2, 32, 32, density=0.3, seed=seed, dtype=torch.float32)
        for row, kind in enumerate(wanted):
            x[:, row, :, 16 * (1 - kind) : 16 * (2 - kind)] = 0
        state, total = None, 0.0
        for window in x:
            raw, state = detector(window[None], state)
            total = total + raw
        return total

    def test_as_a_stream_it_gives_one_detection_over_the_whole_sensor(self, registry, name):
        pipeline = DetectionPipeline(build_preset(name, registry=registry))
        sensor = SensorSize(100, 120)
        rng, state = np.random.default_rng(0), StreamState()
        for k in range(2):
            t = np.sort(rng.integers(20_000 * k, 20_000 * (k + 1), 5000))
            x, y, p = (rng.integers(0, high, 5000) for high in (120, 100, 2))
            events = EventArray(x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), t, sensor)
            found, state = pipeline.step(EventWindow(events, 20_000 * k, 20_000 * (k + 1)), state)
            assert found.xyxy.tolist() == [[0, 0, 120, 100]] and 0.5 <= found.score[0] <= 1


class TestImporter:
    @pytest.fixture(scope="class")
    def importer(self, registry):
        return registry.build("checkpoint_importer", "no_reset_classifier")

    @pytest.fixture
    def state(self):
        return filled_state(Vector(GOLDEN))

    @pytest.mark.parametrize("prefix", ["", "model.", "backbone.model.", "module.model."])
    def test_it_gives_the_published_preset_under_any_prefix(self, importer, registry, state, prefix):
        spec, weights, report = importer({prefix + name: value for name, value in state.items()}, {})
        detector = Detector(spec, registry)
        load_weights(detector, weights, "test")
        assert detector.spec == build_preset("st_vgg_classifier_32", registry=registry).spec
        assert report.importer == "no_reset_classifier" and report.matched == len(state)
        assert {"strides", "window_us", "classes", "sensor_size", "neuron", "state_policy"} <= report.defaults.keys()
        assert "N-CARS" in report.defaults["classes"] and "20000" in report.defaults["window_us"]

    def test_stored_options_decide_over_defaults(self, importer, state):
        cfg = [32, 64, 64, "64s2", 64, "128s2", 128, 128]  # as the authors' code leaves it
        spec, _, report = importer(state, {"hyper_parameters": {"args": {"cfg": cfg, "sample_size": 100_000, "T": 4}}})
        assert spec.window_us == 25_000 and spec.backbone.options["layers"] is None
        assert not {"strides", "window_us"} & report.defaults.keys() and any("128s2" in note for note in report.notes)

    @pytest.mark.parametrize("options", [{"sample_size": 100_000}, {"sample_size": 100_000, "T": 3}, {"T": 0}])
    def test_window_lengths_that_do_not_come_out_are_the_published_one(self, importer, state, options):
        spec, _, report = importer(state, {"hyper_parameters": {"args": options}})
        assert spec.window_us == 20_000 and "window_us" in report.defaults

    def made_up(self, cfg, **shape):
        kinds = {"num_batches_tracked": torch.int64}
        shapes = shapes_of(cfg, **shape).items()
        return {name: torch.zeros(size, dtype=kinds.get(name.rpartition(".")[2])) for name, size in shapes}

    @pytest.mark.parametrize("cfg", [[16, 32, 32, 64, 64], [8, 12, 20, 28], [4, 6, 8]])
    def test_rescat_of_other_widths_channels_and_classes(self, importer, registry, cfg):
        spec, weights, report = importer(self.made_up(cfg, channels=4, classes=5), {})
        detector = Detector(spec, registry)
        load_weights(detector, weights, "test")
        assert spec.backbone.name == "rescat" and spec.classes == tuple(f"class_{i}" for i in range(5))
        assert spec.representation.options == {"tbin": 2, "layout": "collided"}
        assert any("share a channel" in note for note in report.notes) and "numbered" in report.defaults["classes"]

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ({"classifier.conv_classif.weight": None}, "missing 'classifier.conv_classif.weight'"),
            ({"features.2.0.conv2.weight": None}, "unexpected 'features.2.0"),
            ({"features.2.0.norm_trans.bias": None}, r"missing 'features.2.0.norm_trans.bias'"),
            ({"features.2.0.act1.w": torch.zeros(1)}, r"expected shape \[\], got \[1\]"),
            ({"features.2.0.conv2.weight": torch.zeros(63, 48, 3, 3)}, "even width"),
            ({"features.0.1.weight": torch.zeros(16, 3, 4, 4)}, r"expected shape \[3\], got \[2\]"),
            ({"features.0.3.conv.weight": torch.zeros(5)}, "expected a kernel"),
            ({"features.0.1.bias": torch.zeros(16)}, "folded into the convolutions"),
            ({"features.0.0.weight": torch.zeros(16, 2, 4, 4)}, "folded into the convolutions"),
            ({"more": torch.zeros(16)}, "unexpected 'more'"),
        ],
        ids=range(10),
    )
    def test_what_is_damaged_is_named(self, importer, damage, message):
        state = self.made_up([16, 32, 32, 64, 64]) | damage
        with pytest.raises(CheckpointError, match=f"importer 'no_reset_classifier': .*{message}"):
            importer({name: value for name, value in state.items() if value is not None}, {})

    def test_more_channels_than_time_bins_can_have_are_refused(self, importer):
        with pytest.raises(CheckpointError, match="2 input channels for each time bin, got 3"):
            importer(self.made_up([16, 32, 32, 64, 64], channels=3), {})

    @pytest.mark.parametrize("cfg", [[16, 32, 32, 64], [16, 32, 32, 64, "64"], "16", [10**5000] * 5, [[1]] * 5])
    def test_a_stored_layer_list_that_does_not_fit_is_refused(self, importer, cfg):
        with pytest.raises(CheckpointError, match="option 'cfg'") as refusal:
            importer(self.made_up([16, 32, 32, 64, 64]), {"hyper_parameters": {"args": {"cfg": cfg}}})
        assert len(str(refusal.value)) < 500

    def test_strides_of_another_vgg_need_its_layer_list(self, importer, registry):
        cfg = [8, "16s2", 16, "24s2"]
        state = self.made_up(cfg)
        with pytest.raises(CheckpointError, match=r"strides are not in the file .* its 4 stages are not"):
            importer(state, {})
        spec, weights, _ = importer(state, {"hyper_parameters": {"args": {"cfg": cfg}}})
        detector = Detector(spec, registry)
        load_weights(detector, weights, "test")
        assert detector.backbone.features.strides == (8, 16)

    def test_detectors_and_classifiers_do_not_claim_each_other(self, importer, registry, state):
        detectors = registry.build("checkpoint_importer", "no_reset_ssd")
        detector = filled_state(Vector(GOLDEN.with_name("ResCat-SNN-16+SSD.json")))
        assert detectors(state, {}) is None and importer(detector, {}) is None
        assert importer(state, {}) is not None and detectors(detector, {}) is not None
        assert importer({}, {}) is None and importer({"classifier.weight": torch.zeros(2, 2)}, {}) is None


@pytest.mark.parametrize(
    ("cfg", "channels", "classes"),
    [
        ([16, 32, 32, 64, 64], 4, 2),
        ([64, 128, 128, 256, 256], 2, 2),
        ([16, 32, 32, "32s2", 32, "64s2", 64, "64s2"], 4, 3),
    ],
    ids=["rescat 4 channels", "rescat wide", "st_vgg 4 channels"],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_classifier_equals_the_plain_numpy_one_through_the_importer(
    tmp_path, registry, cfg, channels, classes, prefix
):
    path = tmp_path / "made_up" / "whatever.json"
    rates = write_vector(path, cfg, [1, channels, 64, 64], prefix=prefix, classes=classes)
    assert all(rate.min() > 0.01 and rate.max() < 0.6 for rate in rates.values()), rates
    vector = Vector(path)
    assert kind_of(vector).name == "classifier"
    kind_of(vector).check(vector, registry)
    assert not vector.unaccounted()


def test_the_plain_numpy_network_is_the_authors():
    vector = Vector(GOLDEN)
    state = {name: value.numpy() for name, value in filled_state(vector).items()}
    network = PlainNetwork(state, vector.json["cfg"])
    for k in range(vector.json["windows"]):
        logits = network.logits(event_counts(k, vector.json["input_shape"])[0].numpy())
        vector.compare(f"w{k}_logits", logits)


def test_a_wrong_number_in_a_vector_is_found(tmp_path, registry):
    path = tmp_path / "made_up" / "whatever.json"
    write_vector(path, [16, 32, 32, 64, 64], [1, 4, 64, 64])
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = dict(stored)
    arrays["w2_logits"] = arrays["w2_logits"] + 1e-7
    np.savez(path.with_suffix(".npz"), **arrays)
    with pytest.raises(AssertionError, match="w2_logits"):
        kind_of(Vector(path)).check(Vector(path), registry)


def test_a_preset_without_classes_is_refused(registry):
    with pytest.raises(SpecError, match="classes: expected distinct names"):
        build_preset("rescat_classifier_16", registry=registry, classes=[])
