"""What the README shows works as it stands there."""

import re
import subprocess
import sys

import torch

from snn_perception import load_registry
from snn_perception.data.shapes import moving_shapes
from snn_perception.events.dat_writer import write_dat
from snn_perception.types import SensorSize
from tests.paths import ROOT


def test_the_offline_example_runs_without_ros(tmp_path):
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
        if "replay" in block
    ]
    size = SensorSize(240, 304)
    write_dat(tmp_path / "recording.dat", moving_shapes(size, 300_000, seed=1), size)
    no_ros = "import sys; sys.modules['rclpy'] = None\n"
    ended = subprocess.run(
        [sys.executable, "-c", no_ros + code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    ends = re.findall(r"^(\d+) \d+ \[", ended.stdout, re.M)
    assert ends == [str(50_000 * k) for k in range(1, 7)]


def test_every_file_the_readme_points_to_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (ROOT / target).exists(), target


def test_the_plugin_of_the_readme_loads_and_keeps_the_contract(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (code,) = [block for block in blocks if "snn_perception_leaky" in block]
    path = tmp_path / "snn_perception_leaky.py"
    path.write_text(code)
    neuron = load_registry([path]).build("neuron", "leaky", leak=0.5)
    spikes, v = neuron(torch.full((8, 1, 4), 1.5))
    assert 0 < spikes.mean() < 1 and v.shape == (1, 4)
    first, held = neuron(torch.full((3, 1, 4), 1.5))
    rest, _ = neuron(torch.full((5, 1, 4), 1.5), held)
    assert torch.equal(torch.cat([first, rest]), spikes)


def test_the_snippets_of_the_events_page_run_in_turn(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "events.md").read_text(), re.S)
    (reading,) = [block for block in blocks if "events_between" in block]
    (writing,) = [block for block in blocks if "write_bag" in block]
    assert 'open_recording("drive.raw"' in reading and "start_us=5_000_000" in reading
    reading = reading.replace("drive.raw", "shapes.raw").replace("5_", "1_").replace("6_000_000", "1_200_000")
    ended = subprocess.run(
        [sys.executable, "-c", writing + reading + "\nprint('before', len(before_label))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    windows = re.findall(r"^(\d+) (\d+) False$", ended.stdout, re.M)
    assert [int(start) for start, _ in windows] == [1_000_000, 1_050_000, 1_100_000, 1_150_000]
    assert all(int(count) > 0 for _, count in windows)
    assert int(re.findall(r"before (\d+)", ended.stdout)[0]) > 0
    assert (tmp_path / "shapes_bag").is_dir()


def test_every_file_the_pages_point_to_exists():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
