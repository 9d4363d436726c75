"""Components by name: building, options as signatures, and what is said when something does not fit."""

import importlib
import re
import sys

import pytest

from snn_perception.errors import PluginError, SpecError
from snn_perception.registry import HOST_ARGUMENTS, KINDS, Component, PluginInfo, Registered, Registry


class Backbone:
    def __init__(self, in_channels, neuron, *, width=32, stages=4):
        if width < 1:
            raise ValueError(f"width must be positive, got {width}")
        self.given = (in_channels, neuron, width, stages)


class Neuron:
    def __init__(self, *, tau: float = 2.0, name: str | None = None):
        self.tau, self.name = tau, name


class Stranger:
    """Another plugin's neuron of the same name."""


def open_options(*, node="LIFNode", **rest):
    return node, rest


def needs_options(*, path, scale=1):
    return path, scale


def loose(release=0.8):
    return release


def registry(*more: Registered, plugins=()) -> Registry:
    entries = [
        Registered("backbone", "st_vgg", Component("st_vgg", Backbone, "a backbone", version=2)),
        Registered("neuron", "neurons", Component("plif", Neuron)),
        Registered("neuron", "neurons", Component("lif", Neuron)),
        Registered("neuron", "neurons", Component("open", open_options)),
        Registered("neuron", "neurons", Component("needs", needs_options)),
        Registered("neuron", "neurons", Component("loose", loose)),
        *more,
    ]
    return Registry(entries, list(plugins))


def test_building_passes_context_and_options():
    built = registry().build("backbone", "st_vgg", 2, "neuron", width=8)
    assert built.given == (2, "neuron", 8, 4)
    assert registry().build("neuron", "open", tau=3.0) == ("LIFNode", {"tau": 3.0})


def test_a_factory_makes_a_new_one_each_time():
    make = registry().factory("neuron", "plif", tau=3.0)
    assert make() is not make() and make().tau == 3.0
    assert registry().factory("backbone", "st_vgg", stages=1)(2, None).given == (2, None, 32, 1)


def test_a_factory_checks_its_options_at_once():
    with pytest.raises(PluginError, match="unexpected keyword argument 'taw'"):
        registry().factory("neuron", "plif", taw=3.0)
    with pytest.raises(PluginError, match="unexpected keyword argument 'widht'"):
        registry().factory("backbone", "st_vgg", widht=3.0)


def test_options_are_resolved_with_their_defaults():
    assert registry().resolve_options("backbone", "st_vgg", {"width": 8}) == {"width": 8, "stages": 4}
    assert registry().resolve_options("neuron", "open", {"tau": 3.0}) == {"node": "LIFNode", "tau": 3.0}
    assert registry().find("backbone", "st_vgg").component.options() == {"width": 32, "stages": 4}


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        (
            "backbone",
            "st_vgg",
            {"widht": 8},
            "backbone 'st_vgg' (plugin 'st_vgg'): got an unexpected keyword argument 'widht'; "
            "options: (in_channels, neuron, *, width=32, stages=4); did you mean 'width'?",
        ),
        (
            "backbone",
            "st_vgg",
            {"neuron": "lif"},
            "backbone 'st_vgg' (plugin 'st_vgg'): multiple values for argument 'neuron'; "
            "options: (in_channels, neuron, *, width=32, stages=4); did you mean 'neuron'?",
        ),
        (
            "neuron",
            "plif",
            {"quux": 1},
            "neuron 'plif' (plugin 'neurons'): got an unexpected keyword argument 'quux'; "
            "options: (*, tau=2.0, name=None)",
        ),
        (
            "neuron",
            "needs",
            {},
            "neuron 'needs' (plugin 'neurons'): missing a required argument: 'path'; options: (*, path, scale=1)",
        ),
        (
            "neuron",
            "loose",
            {"release": 0.5},
            "neuron 'loose' (plugin 'neurons'): 'release' is no option, since it is not keyword-only; "
            "options: (release=0.8)",
        ),
    ],
)
def test_a_wrong_option_shows_the_signature(kind, name, options, message):
    with pytest.raises(PluginError) as caught:
        registry().resolve_options(kind, name, options)
    expected = message.removesuffix("; did you mean 'neuron'?")
    assert str(caught.value).startswith(expected)
    assert "did you mean 'width'" in str(caught.value) or "widht" not in options


def test_a_factory_that_does_not_take_the_hosts_arguments():
    odd = Registered("backbone", "odd", Component("odd", lambda channels, *, width=1: width))
    message = r"backbone 'odd' \(plugin 'odd'\): too many positional arguments; options: \(channels, \*, width=1\); "
    with pytest.raises(PluginError, match=message + r"the host passes \(in_channels, neuron\) by position"):
        registry(odd).build("backbone", "odd", 2, None)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("neuron", "plfi", "unknown neuron 'plfi'; did you mean 'plif'"),
        ("neuron", "quux", "unknown neuron 'quux'; known: lif, loose, needs, open, plif"),
        ("head", "ssd", "unknown head 'ssd'; known: none"),
        ("neuron", "other:plif", "unknown neuron 'other:plif'"),
        ("neurons", "plif", "unknown kind of component 'neurons'; kinds: neuron, backbone, head"),
    ],
)
def test_unknown_names_show_what_is_close(kind, name, message):
    with pytest.raises(PluginError, match=re.escape(message)):
        registry().find(kind, name)


def test_an_unknown_name_tells_which_plugins_are_not_in_use():
    broken = PluginInfo("resnet", "/there/resnet.py", "ImportError: no module")
    with pytest.raises(PluginError, match=r"plugins that are not in use: 'resnet' \(ImportError: no module\)"):
        registry(plugins=[broken, PluginInfo("fine", "here")]).find("backbone", "resnet")


def test_a_clash_names_both_plugins_and_a_prefix_picks_one():
    clash = registry(Registered("neuron", "stranger", Component("plif", Stranger)))
    with pytest.raises(
        PluginError,
        match="neuron 'plif' is offered by the plugins 'neurons' and 'stranger'; "
        "name one: 'neurons:plif' or 'stranger:plif'",
    ):
        clash.build("neuron", "plif")
    assert isinstance(clash.build("neuron", "neurons:plif"), Neuron)
    assert isinstance(clash.build("neuron", "stranger:plif"), Stranger)
    assert {"neurons:plif", "stranger:plif"} <= set(clash.names("neuron")) and "plif" not in clash.names("neuron")
    assert clash.build("neuron", "neurons:lif").tau == 2.0, "a prefix is welcome without a clash too"
    assert [str(entry) for entry in clash.entries("neuron")][-2:] == [
        "neuron 'plif' (plugin 'neurons')",
        "neuron 'plif' (plugin 'stranger')",
    ]


def test_what_a_factory_refuses_is_one_error():
    with pytest.raises(
        PluginError, match=r"backbone 'st_vgg' \(plugin 'st_vgg'\): width must be positive, got 0"
    ) as info:
        registry().build("backbone", "st_vgg", 2, None, width=0)
    assert isinstance(info.value.__cause__, ValueError)


def test_errors_of_this_package_pass_unchanged():
    def refuses():
        raise SpecError("not like this")

    with pytest.raises(SpecError, match=r"^not like this$"):
        registry(Registered("preset", "mine", Component("bad", refuses))).build("preset", "bad")


def test_a_factory_by_name_is_imported_when_used(tmp_path, monkeypatch):
    (tmp_path / "heavy_module_of_a_test.py").write_text("def make(*, size=1):\n    return size\n")
    monkeypatch.syspath_prepend(tmp_path)
    lazy = registry(Registered("neuron", "lazy", Component("lazy", "heavy_module_of_a_test:make")))
    assert "heavy_module_of_a_test" not in sys.modules
    assert lazy.build("neuron", "lazy", size=4) == 4
    assert sys.modules.pop("heavy_module_of_a_test")


@pytest.mark.parametrize("factory", ["no_such_module_anywhere:make", "json:no_such_function", "this_module_fails:make"])
def test_a_factory_that_cannot_be_imported(factory, tmp_path, monkeypatch):
    (tmp_path / "this_module_fails.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    lazy = registry(Registered("neuron", "lazy", Component("lazy", factory)))
    with pytest.raises(PluginError, match=r"neuron 'lazy' \(plugin 'lazy'\): cannot be loaded: \w+Error: "):
        lazy.build("neuron", "lazy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("LIF", Neuron), "component name 'LIF': use lower case letters, digits and underscores"),
        (("1lif", Neuron), "component name '1lif'"),
        (("lif\n", Neuron), r"component name 'lif\\n'"),
        (("", Neuron), "component name ''"),
        ((Neuron, "lif"), "component name <class"),
        (("lif", None), "component 'lif': factory must be callable or 'module:attribute', got None"),
        (("lif", "module"), "component 'lif': factory must be callable or 'module:attribute', got 'module'"),
        (("lif", Neuron, "", 0), "component 'lif': version must be a whole number from 1, got 0"),
        (("lif", Neuron, "", "2"), "component 'lif': version must be a whole number from 1, got '2'"),
    ],
)
def test_components_are_checked(arguments, message):
    with pytest.raises(PluginError, match=message):
        Component(*arguments)


def test_every_kind_says_what_the_host_passes():
    assert set(KINDS) == set(HOST_ARGUMENTS)
