"""What SECURITY.md says: the limits are the code's, and nothing opens a connection."""

import ast
import importlib
import re
import subprocess
import sys

import pytest

from snn_perception.checkpoint import save_checkpoint
from snn_perception.data.shapes import MovingShapes
from snn_perception.events.dat_writer import write_dat
from tests.paths import ROOT
from tests.runtime_support import SIZE, TINY, tiny_detector

TEXT = (ROOT / "SECURITY.md").read_text()
LIMITS = re.findall(r"^\| [^|]+ \| `([\w.]+)\.(MAX_\w+)` \| (\d+) \|$", TEXT, re.MULTILINE)

# Modules that talk to other machines, or bring what does.
TALKING = {
    *("aiohttp", "asyncio", "ftplib", "grpc", "http", "httpx", "huggingface_hub", "imaplib", "paramiko", "poplib"),
    *("pycurl", "requests", "smtplib", "socket", "socketserver", "ssl", "telnetlib", "urllib", "urllib3", "webbrowser"),
    *("websocket", "websockets", "wsgiref", "xmlrpc", "zmq", "torch.hub", "torchvision"),
}
# Asked for by name on the command line: several machines that train or evaluate together.
ASKED_FOR = {
    "torch.distributed": {"snn_perception/training/distributed.py", "snn_perception/ranks.py"},
    "ray": {"snn_perception/work/on_ray.py"},
}
SOURCES = sorted(
    path
    for top in ("snn_perception", "plugins", "launch", "examples")
    for path in (ROOT / top).rglob("*.py")
    if "__pycache__" not in path.parts
)


def imported(source: str) -> set[str]:
    """Return the full names of all modules that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return found


def within(names: set[str], modules: set[str]) -> set[str]:
    """Return those names that are one of the modules, or in one."""
    return {name for name in names if any(name == module or name.startswith(f"{module}.") for module in modules)}


@pytest.mark.parametrize("constant", LIMITS, ids=lambda row: ".".join(row[:2]))
def test_the_limits_are_those_of_the_code(constant):
    module, name, value = constant
    assert getattr(importlib.import_module(f"snn_perception.{module}"), name) == int(value)


def test_the_table_of_limits_is_read():
    assert len(LIMITS) >= 20
    assert len(re.findall(r"MAX_\w+`", TEXT)) == len(LIMITS), "a row that the test does not understand"


def test_no_module_opens_connections():
    assert len(SOURCES) > 200
    talking = {str(path.relative_to(ROOT)): within(imported(path.read_text("utf-8")), TALKING) for path in SOURCES}
    assert not {path: names for path, names in talking.items() if names}


@pytest.mark.parametrize("module", ASKED_FOR)
def test_only_the_named_files_bring_what_connects_machines(module):
    users = {str(path.relative_to(ROOT)) for path in SOURCES if within(imported(path.read_text("utf-8")), {module})}
    assert users <= ASKED_FOR[module]


def test_every_way_to_import_is_seen():
    source = "import socket\ndef f():\n    from urllib import request\nimportlib.import_module('http.client')\n"
    assert within(imported(source), TALKING) == {"socket", "urllib", "urllib.request", "http.client"}
    assert not within(imported("import socketry, urllib_x\nfrom .socket import a"), TALKING)


_WATCHED = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        print("seen:", event, args, file=sys.stderr)
        raise SystemExit(9)
sys.addaudithook(watch)
from snn_perception.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def watched(*arguments, code=_WATCHED) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_replay_opens_no_connection(tmp_path):
    write_dat(tmp_path / "a.dat", MovingShapes(SIZE, 50_000, seed=1), SIZE)
    save_checkpoint(tmp_path / "tiny.safetensors", tiny_detector())
    done = watched("replay", "--plugin", TINY, tmp_path / "tiny.safetensors", tmp_path / "a.dat", "--json")
    assert done.returncode == 0 and '"windows"' in done.stdout, done.stderr


def test_a_connection_would_be_seen():
    code = _WATCHED.replace(
        "from snn_perception", "import socket; socket.create_connection(('127.0.0.1', 9))\nfrom snn"
    )
    assert watched("plugins", code=code).returncode == 9
