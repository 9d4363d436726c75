"""ModelSpec: what is refused, and JSON both ways, hostile text included."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snn_perception.errors import SpecError
from snn_perception.spec import ComponentRef, ModelSpec
from snn_perception.types import SensorSize

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3),
    max_leaves=5,
)
refs = st.builds(ComponentRef, names, st.dictionaries(names, values, max_size=3), st.integers(0, 99))
specs = st.builds(
    ModelSpec,
    representation=refs,
    neuron=refs,
    backbone=refs,
    head=refs,
    classes=st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True).map(tuple),
    window_us=st.integers(1, 10**7),
    sensor_size=st.builds(SensorSize, st.integers(1, 2000), st.integers(1, 2000)),
    state_policy=st.sampled_from(["carry", "per_window"]),
)


def spec(**changes) -> ModelSpec:
    part = ComponentRef("part")
    given = {
        "representation": part,
        "neuron": part,
        "backbone": part,
        "head": part,
        "classes": ("car", "pedestrian"),
        "window_us": 50_000,
        "sensor_size": SensorSize(240, 304),
    }
    return ModelSpec(**(given | changes))


def as_json(**changes) -> str:
    return json.dumps(json.loads(spec().to_json()) | changes)


@given(specs)
def test_json_gives_the_spec_back(given_spec):
    text = given_spec.to_json()
    assert "\n" not in text
    back = ModelSpec.from_json(text)
    assert back == given_spec and back.to_json() == text and back.hash() == given_spec.hash()


def test_the_hash_changes_with_every_field():
    hashes = [
        spec(**change).hash()
        for change in (
            {},
            {"neuron": ComponentRef("other")},
            {"neuron": ComponentRef("part", {"tau": 2.0})},
            {"neuron": ComponentRef("part", {"tau": 2.5})},
            {"neuron": ComponentRef("part", version=1)},
            {"head": ComponentRef("other")},
            {"classes": ("pedestrian", "car")},
            {"window_us": 50_001},
            {"sensor_size": SensorSize(304, 240)},
            {"state_policy": "per_window"},
            {"state_policy": "per_window", "stride_us": 10_000},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert all(len(digest) == 16 for digest in hashes)


def test_the_stride_is_the_window_unless_told():
    assert spec().stride_us == 50_000
    assert spec(state_policy="per_window", stride_us=10_000).stride_us == 10_000
    assert dataclasses.replace(spec(), window_us=10_000, stride_us=0).stride_us == 10_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, r"classes: expected distinct names, at least one, got \(\)"),
        ({"classes": ("car", "car")}, "classes: expected distinct names"),
        ({"classes": (1,)}, "classes: expected distinct names"),
        ({"classes": "car"}, "classes: expected distinct names, at least one, got 'car'"),
        ({"window_us": 0}, "window_us: expected positive microseconds, got 0"),
        ({"window_us": 0.5}, "window_us: expected positive microseconds, got 0.5"),
        ({"window_us": True}, "window_us: expected positive microseconds, got True"),
        ({"stride_us": -1}, "stride_us: expected positive microseconds, got -1"),
        ({"stride_us": 10_000}, "stride_us: a model that carries state needs 50000, as window_us, got 10000"),
        ({"state_policy": "reset"}, "state_policy: expected 'carry' or 'per_window', got 'reset'"),
        ({"sensor_size": (240, 304)}, r"sensor_size: expected a SensorSize, got \(240, 304\)"),
        ({"head": "ssd"}, "head: expected a component, got 'ssd'"),
    ],
)
def test_values_are_checked(change, message):
    with pytest.raises(SpecError, match=message):
        spec(**change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7,), "component name: expected text, got 7"),
        (("lif", [1]), r"options of 'lif': expected an object of named values, got \[1\]"),
        (("lif", {1: 2}), "options of 'lif': expected an object of named values"),
        (("lif", {}, -1), "version of 'lif': expected a count, got -1"),
        (("lif", {}, "1"), "version of 'lif': expected a count, got '1'"),
    ],
)
def test_components_are_checked(arguments, message):
    with pytest.raises(SpecError, match=message):
        ComponentRef(*arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes"])
def test_options_without_a_json_form_are_refused(value):
    with pytest.raises(SpecError, match="options must be finite numbers, texts or lists of these"):
        spec(neuron=ComponentRef("part", {"tau": value})).to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON, got ''"),
        ("{", "expected JSON, got '{'"),
        ("[" * 100_000, "expected JSON"),
        ("9" * 5000, "model spec: expected"),
        ("[]", "expected a JSON object, got list"),
        ("null", "expected a JSON object, got NoneType"),
        ("{}", "expected format 1, got None; a newer version may read it"),
        (as_json(format=2), "expected format 1, got 2"),
        (as_json(extra=1), r"unknown keys \['extra'\], missing keys \[\]"),
        ('{"format": 1}', r"missing keys \['backbone', 'classes'"),
        (as_json(classes="car"), "classes: expected a list, got 'car'"),
        (as_json(classes=[1, 2]), "classes: expected distinct names"),
        (as_json(window_us="50"), "window_us: expected positive microseconds, got '50'"),
        (as_json(window_us=1e300), "window_us: expected positive microseconds"),
        (as_json(head=None), "head: expected a JSON object, got NoneType"),
        (as_json(head={"name": "ssd"}), r"head: unknown keys \[\], missing keys \['options', 'version'\]"),
        (as_json(head={"name": "ssd", "options": 1, "version": 1}), "options of 'ssd': expected an object"),
        (as_json(sensor_size={"height": 240}), r"sensor_size: unknown keys \[\], missing keys \['width'\]"),
        (as_json(sensor_size={"height": 240, "width": 0}), r"width must be 1\.\.16384 px, got 0"),
        (as_json(sensor_size={"height": 240, "width": 10**30}), r"width must be 1\.\.16384 px"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(SpecError, match=message):
        ModelSpec.from_json(text)


@given(st.text(max_size=40) | values.map(json.dumps))
def test_no_text_gives_another_error(text):
    with pytest.raises(SpecError):
        ModelSpec.from_json(text)


@given(st.sampled_from(sorted(json.loads(spec().to_json()))), values)
def test_no_value_of_a_key_gives_another_error(key, value):
    try:
        read = ModelSpec.from_json(as_json(**{key: value}))
    except SpecError:
        return
    assert ModelSpec.from_json(read.to_json()) == read
