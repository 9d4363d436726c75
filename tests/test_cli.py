"""What all commands share, the list of commands, and `plugins`."""

import importlib
import json
import logging
import os
import re
import subprocess
import sys

import pytest

import snn_perception
from snn_perception.__main__ import main as front
from snn_perception.cli import COMMANDS, NODES, common
from snn_perception.cli import plugins as plugins_command
from snn_perception.discovery import PLUGINS_VARIABLE
from snn_perception.errors import EventDataError
from snn_perception.registry import KINDS
from snn_perception.spec import ModelSpec
from tests.paths import ROOT

PLUGINS = ROOT / "tests" / "plugins"


def run(function, *argv: str) -> int:
    return common.run(function, common.make_parser("try", "A command for tests."), list(argv))


def raises(error):
    def function(arguments):
        raise error

    return function


# ---- run


def test_done_returns_0_or_what_the_command_says(capsys):
    assert run(lambda arguments: None) == 0
    assert run(lambda arguments: 3) == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [EventDataError("a.dat: expected this,\n   got that"), OSError(28, "No space left")])
def test_errors_are_one_line_without_traceback(capsys, error):
    assert run(raises(error)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "got that" in err or "No space left" in err


def test_verbose_adds_the_traceback(capsys):
    assert run(raises(EventDataError("told")), "-v") == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.rstrip().endswith("error: told")


def test_bugs_are_not_disguised():
    with pytest.raises(ZeroDivisionError):
        run(lambda arguments: 1 // 0)


def test_interrupt_and_usage(capsys):
    assert run(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")

    def kept(arguments):
        arguments.resumable = True
        raise KeyboardInterrupt

    assert run(kept) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert run(lambda arguments: None, "--no-such-option") == 2
    assert "--no-such-option" in capsys.readouterr().err
    assert run(lambda arguments: None, "--help") == 0
    assert "--json" in capsys.readouterr().out
    assert run(lambda arguments: None, "--threads", "0") == 2
    assert run(lambda arguments: None, "--js") == 2  # an abbreviation today may be ambiguous tomorrow


def test_log_goes_to_stderr_by_verbosity(capsys):
    logger = logging.getLogger("snn_perception.somewhere")

    def function(arguments):
        logger.debug("deep")
        logger.info("more")
        logger.warning("heed")

    expected = {(): ["heed"], ("-v",): ["more", "heed"], ("-vv",): ["deep", "more", "heed"]}
    for options, told in expected.items():
        assert run(function, *options) == 0
        out, err = capsys.readouterr()
        assert (out, [line.rpartition(" ")[2] for line in err.splitlines()]) == ("", told)


def test_threads_reach_torch(monkeypatch):
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    before = torch.get_num_threads()
    seen = []
    try:
        run(lambda arguments: seen.append((torch.get_num_threads(), os.environ["OMP_NUM_THREADS"])), "--threads", "2")
    finally:
        torch.set_num_threads(before)
    assert seen == [(2, "2")]


def test_json_refuses_what_is_no_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        common.print_json({"rate": float("nan")})


def test_tables_show_text_as_it_is(capsys):
    common.print_rows([("path", "[bold]/a[/b].dat :smile:")])
    common.print_table(("name", "value"), [("x" * 300, "[red]")])
    out = capsys.readouterr().out
    assert "[bold]/a[/b].dat :smile:" in out
    assert "x" * 300 in out  # not folded where there is no terminal
    assert "[red]" in out


def test_a_pipe_gets_plain_lines(capsys):
    common.print_rows([("name", "value"), ("plot", "first\nsecond  "), ("none", "")])
    common.print_table(("kind", "name"), [("a", "x" * 20), ("longer", "")])
    assert capsys.readouterr().out == (
        "name: value\nplot: first\n      second\nnone:\n" + "kind    name\n" + f"a       {'x' * 20}\n" + "longer\n"
    )
    assert common.output_columns() == 100


def test_a_terminal_gets_tables_as_wide_as_it_is(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    common.print_rows([("path", "[bold]/a[/b].dat"), ("long", "x" * 50)])
    common.print_table(("name",), [("[red]",)])
    out = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)  # without bold
    assert "[bold]/a[/b].dat" in out
    assert "[red]" in out
    assert out.count("x") == 50
    assert max(map(len, out.splitlines())) == 40
    assert common.output_columns() == 40


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    with common.progress_bar("reading") as advance:
        advance(1, 2)
    assert capsys.readouterr() == ("", "")  # short work says nothing
    monkeypatch.setattr(common, "PROGRESS_LINES_S", 0.0)
    with common.progress_bar("reading") as advance:
        advance(0, 0)
        advance(1, 2)
    assert capsys.readouterr() == ("", "reading  50%  0:00:00 left\n")
    with common.progress_bar("reading", enabled=False) as advance:
        advance(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_closed_pipe_ends_quietly():
    """The reader goes away before anything is written."""
    code = (
        "import sys\n"
        "from snn_perception.cli import common\n"
        "def function(arguments):\n"
        "    sys.stdin.readline()\n"
        "    print('x' * 1_000_000)\n"
        "sys.exit(common.run(function, common.make_parser('try', ''), []))\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as process:
        process.stdout.close()
        process.stdin.write(b"go\n")
        process.stdin.close()
        err = process.stderr.read()
        assert (process.wait(60), err) == (common.EXIT_BROKEN_PIPE, b"")


# ---- the front


def test_front_lists_the_commands(capsys):
    assert front(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert front([]) == 2
    assert "usage" in capsys.readouterr().err


def test_front_tells_the_version(capsys):
    assert front(["--version"]) == 0
    assert capsys.readouterr().out == f"snn_perception {snn_perception.__version__}\n"


def test_front_refuses_unknown_commands(capsys):
    assert front(["insepct"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "unknown command 'insepct'" in err


def test_front_hands_on_arguments_and_exit_code(capsys, tmp_path):
    assert front(["inspect", str(tmp_path / "missing.dat")]) == 1
    assert "missing.dat" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main_and_helps(name, capsys):
    assert importlib.import_module(COMMANDS[name][0]).main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m snn_perception {name} ")
    for option in ("--json", "--plugin", "--no-plugin", "--threads", "--verbose"):
        assert option in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_nothing_heavy(name):
    """Torch alone takes seconds to load."""
    code = (
        "import sys\nfrom snn_perception.__main__ import main\n"
        f"main([{name!r}, '--help'])\n"
        "print(sorted({'torch', 'numba', 'rich', 'numpy', 'rosbags'} & sys.modules.keys()), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stderr == "[]\n"


@pytest.mark.parametrize("name", NODES)
def test_the_nodes_help_too(name):
    pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")
    command = [sys.executable, "-m", "snn_perception", name, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"usage: {name} --ros-args -p ")


def test_every_command_is_a_console_script_too():
    scripts = (ROOT / "setup.py").read_text()
    assert all(f'"{name}": "{module}"' in scripts for name, (module, _) in {**COMMANDS, **NODES}.items())


# ---- plugins


def plugins(*argv: str) -> int:
    return plugins_command.main(list(argv))


def test_plugins_lists_every_component_with_its_options(capsys, registry):
    assert plugins("--json") == 0
    listed = json.loads(capsys.readouterr().out)
    wanted = {(kind, name) for kind in KINDS for name in registry.names(kind)}
    assert {(c["kind"], c["name"]) for c in listed["components"]} == wanted
    assert all(c["error"] is None and c["summary"] and c["version"] >= 1 for c in listed["components"])
    assert {plugin["id"] for plugin in listed["plugins"]} >= {"core", "neurons"}
    lif = next(c for c in listed["components"] if (c["kind"], c["name"]) == ("neuron", "lif"))
    assert (lif["plugin"], lif["options"]["tau"]) == ("neurons", {"required": False, "default": 2.0})


def test_plugins_of_one_kind(capsys):
    assert plugins("event_decoder", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {c["kind"] for c in listed["components"]} == {"event_decoder"}
    assert {c["name"] for c in listed["components"]} >= {"evt3", "mono"}
    assert plugins("event_decoder") == 0
    table = capsys.readouterr().out
    assert "EventPacket" in table and "shipped weights" not in table


def test_one_component(capsys):
    assert plugins("neuron:plif", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["name"], told["options"]["surrogate"]["default"]) == ("neuron", "plif", "sigmoid")
    assert plugins("neuron:plif") == 0
    out = capsys.readouterr().out
    assert "surrogate" in out
    assert "'sigmoid'" in out


def test_plugins_as_a_table(capsys):
    assert plugins() == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("voxel_cube", "rosbag2", "topic=None", "snn_perception_plugins.neurons"))


def test_local_plugins_and_blocked_ones(capsys, monkeypatch):
    monkeypatch.delenv(PLUGINS_VARIABLE, raising=False)
    assert plugins("--json", "--plugin", str(PLUGINS / "tiny.py"), "--no-plugin", "neurons") == 0
    listed = json.loads(capsys.readouterr().out)
    assert "tiny" in {c["plugin"] for c in listed["components"]}
    assert "neurons" not in {c["plugin"] for c in listed["components"]}
    blocked = next(plugin for plugin in listed["plugins"] if plugin["id"] == "neurons")
    assert blocked["error"] == "blocked"


def test_a_component_that_cannot_be_loaded_is_listed_with_the_reason(tmp_path, capsys):
    (tmp_path / "half.py").write_text(
        "from snn_perception.api import Component, hookimpl\n"
        "def needs(*, width, gain=float('inf'), kind=object): ...\n"
        "@hookimpl\ndef snn_neurons():\n"
        "    return [Component('lost', 'no_such_module:Neuron'), Component('odd', needs)]\n"
    )
    options = ("--plugin", str(tmp_path / "half.py"), "--no-plugin", "neurons")
    assert plugins("neuron", "--json", *options) == 0
    listed = {c["name"]: c for c in json.loads(capsys.readouterr().out)["components"]}
    assert "no_such_module" in listed["lost"]["error"]
    assert listed["odd"]["options"]["width"] == {"required": True, "default": None}
    assert listed["odd"]["options"]["gain"]["default"] == "inf"
    assert plugins("neuron", *options) == 0
    assert "cannot be loaded: ModuleNotFoundError" in capsys.readouterr().out
    assert plugins("neuron:lost", *options) == 0
    assert "no_such_module" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("no_such", "unknown preset 'no_such'"),
        ("no_such", "shipped weights: st_vgg_ssd_16_synth"),
        ("neuron:no_such", "unknown neuron"),
        ("head:none_such", "unknown head"),
    ],
)
def test_unknown_names(capsys, what, told):
    assert plugins(what) == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_a_preset_is_built_and_counted(capsys):
    assert plugins("st_vgg_ssd_16", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"spec", "parameters", "state_elements", "dense_operations"}
    # Published: 642k parameters, 124.73M operations per window; 482,944 neurons.
    assert (told["parameters"], told["state_elements"]) == (642_351, 482_944)
    assert round(told["dense_operations"] / 1e6, 2) == 124.73
    assert ModelSpec.from_json(json.dumps(told["spec"])).backbone.name == "st_vgg"


def test_a_preset_for_people(capsys):
    assert plugins("st_vgg_ssd_16", "-v") == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("642,351", "482,944 per stream", "304x240", "backbone.stages.0.neuron"))
