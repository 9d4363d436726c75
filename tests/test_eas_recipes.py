"""Recipes of EAS-SNN: every row of the authors' settings, and the page that lists them."""

import re

import pytest

from snn_perception.detector import Detector
from snn_perception.evaluation.protocol import named_protocol
from snn_perception.training.model import make_spec
from snn_perception.training.recipes import recipes, summary_of
from snn_perception.training.run_file import load_run
from tests.paths import ROOT

# recipe -> batch, learning rate per sample, epochs, jitter of the proportions, protocol, precision, parameters
PUBLISHED = {
    "eas_snn_s_use_spike_gen1": (64, 0.000015625, 30, 0.3, "gen1", "off", 8_938_167),
    "eas_snn_s_full_spike_gen1": (58, 0.00001724, 30, 0.3, "gen1", "off", 8_938_191),
    "eas_snn_s_full_spike_v2_gen1": (54, 0.00001851, 30, 0.3, "gen1", "off", 8_938_206),
    "eas_snn_m_full_spike_gen1": (58, 0.00001724, 30, 0.3, "gen1", "off", 25_280_903),
    "eas_snn_m_1mpx": (108, 0.0000092592593, 30, 0.3, "one_mpx_half", "fp16", 25_281_450),
    "eas_snn_m_ncaltech": (32, 0.000009375, 60, 0.1, "none", "off", 25_337_190),
}


def test_every_published_row_has_its_recipe():
    ours = {"eas_snn_synthetic", "eas_snn_synthetic_reset"}  # for the synthetic drives: no row of the authors'
    assert {name for name in recipes() if name.startswith("eas_snn_")} == PUBLISHED.keys() | ours


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_settings_are_the_published_ones(name):
    batch, rate, epochs, jitter, protocol, amp, parameters = PUBLISHED[name]
    run = load_run(recipes()[name])
    train = run.train
    assert (train.mode, train.lanes, train.epochs, train.seed, train.amp) == ("windows", batch, epochs, 80, amp)
    assert train.lr == pytest.approx(rate * batch, rel=1e-8)
    assert (train.optimizer.name, train.weight_decay, train.betas, train.clip_norm) == ("adamw", 0, (0.9, 0.999), 0)
    assert (train.schedule, train.warmup_epochs, train.ema, train.ema_ramp) == ("constant", 0, 0.9998, 2000)
    augment = train.augment
    assert (augment.placing, augment.placing_jitter, augment.placing_scale) == ("whole_pixels", jitter, 0.4)
    assert not augment.changes_events
    assert (run.eval.protocol, run.eval.every_epochs, run.eval.score_threshold) == (protocol, 10, 0.001)
    assert named_protocol(protocol) and run.target["parameters"] == parameters
    if name.endswith("gen1"):
        assert (run.data.windows, run.data.lookback, run.data.options) == ("label", True, {"skip_label_free": True})
    elif name.endswith("ncaltech"):
        assert run.data.windows == "recording" and not run.data.options


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_model_is_the_published_one(name, registry):
    spec = make_spec(load_run(recipes()[name]).model, registry)
    assert sum(p.numel() for p in Detector(spec, registry).parameters()) == PUBLISHED[name][-1]
    assert spec.state_policy == "per_window"
    representation, backbone, head = spec.representation.options, spec.backbone.options, spec.head.options
    assert (representation["network_size"], representation["steps"], backbone["steps"]) == ([640, 640], 4, 3)
    is_ncaltech = name.endswith("ncaltech")
    assert (backbone["ksize"], backbone["sampler_depth"]) == ((7, 1) if is_ncaltech else (5, 2))
    assert backbone["sampler"] == "arsnn" and backbone["spike_attach"] and backbone["write_zero"]
    assert (spec.neuron.options["surrogate"], spec.neuron.options["alpha"]) == ("atan", 1.5 if is_ncaltech else 2.0)
    assert (head["nms_threshold"], head["score_threshold"], head["l1"]) == (0.65, 0.001, True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_command_names_itself_and_pages_list_it(name, registry):
    command = recipes()[name].read_text().splitlines()[1]
    data_set = re.search(r"--data (\w+):PATH", command)[1]
    assert f"recipes/{name}.yaml " in command and command.endswith(f"-o runs/{name}")
    assert data_set in registry.names("dataset") and summary_of(recipes()[name])
    for page in ("recipes/README.md", "docs/eas_snn.md"):
        assert f"`{name}`" in (ROOT / page).read_text(), page


def test_every_option_of_the_authors_has_its_row():
    """The names of section "Options" are those of their command line; each row says what is there instead."""
    text = (ROOT / "docs" / "eas_snn.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    named = {option for row in rows for option in re.findall(r"`([^`]+)`", row[0])}
    assert named >= {
        *("-n e-yolox-s", "-d", "-b", "-expn", "-c", "--conf", "--nms", "--tsize", "--eval_proh", "--fp16", "--test"),
        *("max_epoch", "eval_interval", "no_aug_epochs", "seed", "data_num_workers", "basic_lr_per_img", "scheduler"),
        *("data_name", "data_dir", "num_classes", "embedding", "embedding_ksize", "embedding_depth", "Tm", "Tl", "Ts"),
        *("T", "window", "thresh", "reset", "readout", "spike_attach", "write_zero", "use_spike", "spike_fn", "alpha"),
        *("aggregation", "measure", "emb_lr", "norm", "abs", "split", "speed_aug"),
    }
    assert all(len(row) == 2 and row[1].strip() for row in rows)


def test_keys_that_the_page_names_are_there(registry):
    text = (ROOT / "docs" / "eas_snn.md").read_text()
    overrides = re.findall(r"--set '?([a-z_.]+=[^`'\s]+)", text)
    assert len(overrides) >= 12
    for override in overrides:
        run = load_run(recipes()["eas_snn_m_ncaltech"], [override])
        make_spec(run.model, registry)
