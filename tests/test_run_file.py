"""Run files: what they may hold, what is refused and where the error points, and the way back."""

import textwrap

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import SnnPerceptionError, SpecError
from snn_perception.training.config import AugmentConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from snn_perception.training.recipes import find_run_file, recipes, summary_of
from snn_perception.training.run_file import (
    differences,
    dump_run,
    load_run,
    run_as_dict,
    run_digest,
    run_from_dict,
    what_counts,
)

RUN = """\
# A run of tests.
model:
  preset: some_model
  options: {width: 32, classes: [car, pedestrian]}
  overrides:
    neuron: {tau: 4}
data:
  train: gen1:some/where
  limit: 20
train:
  lr: 3e-4
  amp: off
  seed: 010
  betas: [0.8, 1e-1]
  freeze: ["*.w"]
  augment:
    flip: .5
    zoom_min: 1
eval:
  # every_epochs: 5
target:
  AP: 0.189
  source: {paper: "table 2"}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), "utf-8")
        return path

    return write


def refusal(path=None, *overrides):
    with pytest.raises(SpecError) as caught:
        load_run(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a file says


def test_a_file_stands_over_the_defaults(write):
    config = load_run(write(RUN))
    assert config.model == ModelConfig(
        "some_model", {"width": 32, "classes": ["car", "pedestrian"]}, {"neuron": {"tau": 4}}
    )
    assert config.data == DataConfig(train="gen1:some/where", limit=20)
    assert config.train == TrainConfig(
        lr=3e-4, amp="off", seed=10, betas=(0.8, 0.1), freeze=("*.w",), augment=AugmentConfig(flip=0.5)
    )
    assert type(config.train.augment.zoom_min) is float and type(config.train.lr) is float
    assert config.eval == RunConfig().eval, "a heading without keys changes nothing"
    assert config.target == {"AP": 0.189, "source": {"paper": "table 2"}}


def test_overrides_stand_over_the_file_and_the_later_over_the_earlier(write):
    config = load_run(
        write(RUN),
        [
            "train.lr=1e-2",
            "train.lr=3E-5",
            "model.options.width=64",
            "model.overrides.head.scale=.5",
            "data.limit=null",
            "train.betas=[0.5, 0.6]",
            "train.freeze=[]",
            "train.amp=off",
            "data.train=gen1:C:/there#1",
            "train.augment.noise_hz=2",
        ],
    )
    assert config.train.lr == 3e-5
    assert config.model.options == {"width": 64, "classes": ["car", "pedestrian"]}
    assert config.model.overrides == {"neuron": {"tau": 4}, "head": {"scale": 0.5}}
    assert config.data.limit is None and config.data.train == "gen1:C:/there#1"
    assert config.train.betas == (0.5, 0.6) and config.train.freeze == ()
    assert config.train.augment == AugmentConfig(flip=0.5, noise_hz=2.0)


def test_without_a_file_the_given_defaults_hold():
    mine = RunConfig(model=ModelConfig("mine", {"width": 8}), train=TrainConfig(epochs=3))
    assert load_run() == RunConfig()
    assert load_run(defaults=mine) == mine
    assert load_run(None, ["train.lanes=4"], mine).train == TrainConfig(epochs=3, lanes=4)


def test_aliases_may_repeat_what_stands_elsewhere(write):
    config = load_run(write("model: {options: &o {a: [1, 2]}, overrides: {head: *o}}"))
    assert config.model.overrides == {"head": {"a": [1, 2]}}


# What is refused, and where the error points


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("train:\n  lr: fast", 2, ["train.lr", "expected a number, got 'fast'"]),
        ("train:\n  epochs: 2.5", 2, ["train.epochs", "expected a whole number, got 2.5"]),
        ("train:\n  seed: true", 2, ["train.seed", "got True"]),
        ("train:\n  lr:\n", 2, ["train.lr", "expected a number, got nothing"]),
        ("model:\n  preset: 16", 2, ["model.preset", "expected text, got 16; put it in quotes"]),
        ("model:\n  options: [a]", 2, ["model.options", "expected keys with values, got a list of 1"]),
        ("train: 3", 1, ["train: expected keys with values, got 3"]),
        ("train:\n  betas: [0.1]", 2, ["train.betas", "expected a list of 2, got 1"]),
        ("train:\n  betas: [0.1, x]", 2, ["train.betas.1", "expected a number, got 'x'"]),
        ("train:\n  freeze: w", 2, ["train.freeze", "expected a list"]),
        ("train:\n\n  learning_rate: 1", 3, ["unknown key 'learning_rate' in 'train'", "keys: mode, lanes"]),
        ("train:\n  epoch: 1", 2, ["did you mean 'epochs'?"]),
        ("modle: {}", 1, ["unknown key 'modle'; did you mean 'model'?; keys: model, data, train, eval, target"]),
        ("train:\n  augment:\n    flop: 1", 3, ["'train.augment'", "did you mean 'flip'?"]),
        ("train:\n  epochs: 0", 2, ["train.epochs: expected at least 1, got 0"]),
        ("train:\n  seed: 3\n  lr: -1", 3, ["train.lr"]),
        ("train:\n  lr: .nan", 2, ["train.lr"]),
        ("train:\n  augment:\n    flip: 3", 3, ["augment.flip: expected a probability"]),
        ("train:\n  amp: no", 2, ["train.amp: expected off or bf16 or fp16, got no"]),
        ("train:\n  lr: 1\n  lr: 2", 3, ["'lr' stands there twice"]),
        ("train:\n  lr: [1", 3, ["not YAML"]),
        ("train:\n\tlr: 1", 2, ["not YAML"]),
        ("target: {}\n---\ntarget: {}", 2, ["not YAML", "another document"]),
        ("target:\n  <<: {a: 1}", 2, ["'<<' (merging) is not supported"]),
        ("target:\n  [a]: 1", 2, ["expected a name before the colon"]),
        ("target:\n  a: !!python/object/apply:os.getcwd []", 2, ["python/object", "is not supported"]),
        ("target:\n  a: !!timestamp 2001-01-01", 2, ["timestamp"]),
        ("target:\n  a: !!int many", 2, ["beyond 64 bits: many"]),
        ("target:\n  a: " + "9" * 19, 2, ["beyond 64 bits"]),
        ("target:\n  a: " + "9" * 9999, 2, ["beyond 64 bits"]),
    ],
)
def test_an_error_names_the_file_the_line_and_the_key(text, line, parts, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: "), message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.lr", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train..lr=3", "expected KEY=VALUE"),
        ("train.lr=[1", "not YAML"),
        ("train.lr=a: b: c", "not YAML"),
        ("train.lr=fast", "train.lr: expected a number"),
        ("train.lr=0", "train.lr"),
        ("train.lr.x=1", "train.lr is 0.005, it has no keys of its own"),
        ("trian.lr=1", "did you mean 'train'?"),
        ("train.lrr=1", "did you mean 'lr'?"),
        ("train=3", "expected keys with values"),
    ],
)
def test_an_override_that_does_not_fit_is_named(override, part):
    message = refusal(None, override)
    assert message.startswith(f"--set {override}: ")
    assert part in message


def test_an_override_takes_the_blame_from_the_line_it_replaces(write):
    path = write("train:\n  epochs: 3\n  lr: 0.1")
    assert refusal(path, "train.lr=-1").startswith("--set train.lr=-1: ")
    assert refusal(path, "train.lanes=4", "train.epochs=0").startswith("--set train.epochs=0: ")


def test_files_that_are_no_run_files_are_refused(tmp_path, write):
    assert refusal(tmp_path / "absent.yaml").startswith(f"{tmp_path / 'absent.yaml'}: cannot be read: No such file")
    assert "cannot be read" in refusal(tmp_path)
    assert "expected keys such as 'model:'" in refusal(write(""))
    assert "expected keys such as 'model:'" in refusal(write("- a\n- b"))
    (tmp_path / "bytes.yaml").write_bytes(b"train: \xff\xfe")
    assert "byte 7 is not UTF-8 text" in refusal(tmp_path / "bytes.yaml")
    (tmp_path / "zero.yaml").write_bytes(b"a: \x00")
    assert "not YAML" in refusal(tmp_path / "zero.yaml")
    (tmp_path / "large.yaml").write_text("# " + "x" * (1 << 20))
    assert "larger than 1 MiB" in refusal(tmp_path / "large.yaml")


def test_a_few_bytes_cannot_stand_for_gigabytes(write):
    laughs = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    laughs += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    assert "stands for more than 10000 values" in refusal(write("\n".join(laughs)))
    assert "stands for more than 10000 values" in refusal(write("target: &a {b: *a}"))
    for opening in ("[", "{a: ", "- "):
        assert "more than 20 levels deep" in refusal(write("target: \n  " + opening * 50_000))


# There and back


def test_a_run_written_out_reads_back_as_it_was(write):
    config = load_run(write(RUN), ["train.eps=1e-8", "model.options.text='3e-4'"])
    text = dump_run(config)
    assert load_run(write(text, "again.yaml")) == config
    assert yaml.safe_load(text) == run_as_dict(config), "other readers of YAML understand it alike"
    assert run_from_dict(run_as_dict(config)) == config


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn")), max_size=20)
    | st.sampled_from(
        ["3e-4", "1e5", "off", "No", "~", "", "010", "0x1f", "1:30", "2001-01-01", "<<", "=", ".inf", "-"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "on", "1e3", "null"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["width", "no", "3e4", "é"]), PLAIN, max_size=4))
def test_any_options_survive_the_way_to_yaml_and_back(tmp_path_factory, options):
    config = RunConfig(model=ModelConfig("some_model", options))
    path = tmp_path_factory.getbasetemp() / "options.yaml"
    path.write_text(dump_run(config), "utf-8")
    again = load_run(path)
    assert again == config
    assert repr(again.model.options) == repr(config.model.options), "1 and 1.0 and True are equal, but not the same"


def test_a_run_from_foreign_values_is_checked():
    with pytest.raises(SpecError, match=r"^last\.safetensors: unknown key 'lrr' in 'train'"):
        run_from_dict({"train": {"lrr": 1}}, "last.safetensors")
    assert run_from_dict({}) == RunConfig()


# What tells runs apart


def test_differences_name_what_changes_the_figures_and_nothing_else():
    run = load_run(None, ["data.train=gen1:here", "model.options.width=16"])
    same = load_run(
        None,
        [
            "data.train=gen1:there",
            "model.options.width=16",
            "train.prefetch=0",
            "train.save_every_steps=9",
            "target.x=1",
        ],
    )
    assert differences(run, same) == [] and run_digest(run) == run_digest(same)
    other = load_run(None, ["data.train=one_mpx:here", "model.options.width=32", "model.options.tbin=2", "train.lr=1"])
    assert differences(run, other) == [
        "model.options.width: 16, 32",
        "data.train: 'gen1', 'one_mpx'",
        "train.lr: 0.005, 1.0",
        "model.options.tbin: nothing, 2",
    ]
    assert run_digest(run) != run_digest(other)


def test_a_setting_that_came_later_leaves_older_runs_as_they_are():
    run = load_run(None, ["data.train=gen1:here", "train.ema=0.99"])
    older = run_as_dict(run)
    del older["train"]["ema_ramp"]
    assert run_digest(run_from_dict(older)) == run_digest(run)
    assert "ema_ramp" not in what_counts(run)["train"]
    ramped = load_run(None, ["data.train=gen1:here", "train.ema=0.99", "train.ema_ramp=2000"])
    assert differences(run, ramped) == ["train.ema_ramp: nothing, 2000.0"] and run_digest(ramped) != run_digest(run)


# Recipes


def test_a_run_file_is_a_path_or_the_name_of_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "model_on_data.yaml").write_text("# What it is for.\nmodel: {preset: m}\n")
    (tmp_path / "bare.yaml").write_text("model: {preset: m}\n")
    monkeypatch.setattr("snn_perception.training.recipes.recipe_folder", lambda: tmp_path)
    assert list(recipes()) == ["bare", "model_on_data"]
    assert [summary_of(path) for path in recipes().values()] == ["", "What it is for."]
    assert find_run_file("model_on_data") == tmp_path / "model_on_data.yaml"
    assert find_run_file(str(tmp_path / "bare.yaml")) == tmp_path / "bare.yaml"
    with pytest.raises(SnnPerceptionError, match=r"no recipe of that name; did you mean 'model_on_data'\?"):
        find_run_file("model_on_dta.yaml")


def test_every_recipe_is_a_run_of_a_registered_preset(registry):
    for path in recipes().values():
        config = load_run(path)
        registry.resolve_options("preset", config.model.preset, config.model.options)
        assert summary_of(path), f"{path.name} must begin with a comment that says what it is for"
