"""The linters of ROS's packages, as `colcon test` runs them, and the same checks by ruff where there is no ROS.

Ours are the rules of pyproject.toml: lines of 120, Google's docstrings. ament_copyright has no test: files here carry
no notice of their own, LICENSE and NOTICE hold for all of them.
"""

import importlib
import importlib.util
import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

LINTED = ("snn_perception", "plugins", "launch", "setup.py")
# Not asked for: docstrings of the obvious (D102 to D107), of every argument (D417), and where a summary ends (D205,
# D402, D415: first lines here say what comes back, and may take two lines or name a call).
NOT_ASKED = ("D102", "D103", "D105", "D107", "D205", "D209", "D301", "D402", "D415", "D417")
AMENT = {
    "ament_flake8": ["--config", str(ROOT / "tests" / "ament_flake8.ini"), *LINTED],
    "ament_pep257": [*LINTED, "--convention", "google", "--add-ignore", *NOT_ASKED],
}
RUFF = {
    "ament_flake8": ["--select", "E,W,F", "--config", "line-length = 120"],
    "ament_pep257": [
        *("--select", "D", "--ignore", ",".join(NOT_ASKED)),
        *("--config", 'lint.pydocstyle.convention = "google"'),
    ],
}


@pytest.mark.linter
@pytest.mark.parametrize("linter", AMENT)
def test_ament(linter, monkeypatch):
    if importlib.util.find_spec(linter) is None:
        pytest.skip(
            f"{linter} is not installed (it is in no wheel): apt install ros-$ROS_DISTRO-{linter.replace('_', '-')}"
        )
    monkeypatch.chdir(ROOT)
    main = importlib.import_module(f"{linter}.main").main
    assert main(argv=AMENT[linter]) == 0


def ruff(*arguments: str, source: str | None = None) -> subprocess.CompletedProcess:
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed; requirements/dev.txt names it")
    files = ["-"] if source is not None else list(LINTED)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", *arguments, *files]
    return subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True)


@pytest.mark.linter
@pytest.mark.parametrize("linter", RUFF)
def test_ruff_checks_the_same(linter):
    done = ruff(*RUFF[linter])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("linter", "source", "code"),
    [
        ("ament_flake8", "import os\n", "F401"),
        ("ament_flake8", f"x = '{'a' * 120}'\n", "E501"),
        ("ament_pep257", "def f():\n    return 1\n", "D100"),
        ("ament_pep257", '"""A module."""\n\n\nclass A:\n    """  Padded."""\n', "D210"),
    ],
)
def test_what_they_look_for_is_found(linter, source, code):
    done = ruff(*RUFF[linter], source=source)
    assert done.returncode == 1 and code in done.stdout


@pytest.mark.parametrize("linter", AMENT)
def test_package_xml_names_the_linter(linter):
    assert f"<test_depend>{linter}</test_depend>" in (ROOT / "package.xml").read_text()


def test_colcon_runs_pytest():
    """Without an extra `test` that names pytest, `colcon test` says that all is well and runs nothing."""
    found = re.search(r'"test": \[(.*?)\]', (ROOT / "setup.py").read_text())
    assert found and '"pytest"' in found[1]
    assert "<test_depend>python3-pytest</test_depend>" in (ROOT / "package.xml").read_text()
