"""Damaged packets: no decoder may crash, invent pixels, lose count or hold on to memory. See tools/fuzz_packets.py."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from snn_perception.events.evt2 import Evt21Decoder
from snn_perception.events.evt3 import Evt3Decoder
from snn_perception.events.mono import MonoDecoder
from snn_perception.types import Losses, SensorSize
from tests.paths import ROOT
from tools.fuzz_packets import DECODERS, HEADER, Violation, fuzz, line, peak_mib

INPUTS = 21_000  # per decoder; 168 000 in all


@pytest.mark.parametrize("encoding", DECODERS)
def test_damaged_packets(encoding, capsys):
    fuzz(encoding, 500, seed=1)  # compiled, and buffers grown
    before = peak_mib()
    report = fuzz(encoding, INPUTS, seed=0)
    with capsys.disabled():
        print(f"\n{HEADER}\n{line(report)}")
    assert report.inputs >= INPUTS
    assert report.produced_share > 0.4, "many inputs must get past header and first words, or this shows nothing"
    assert report.damaged > report.inputs // 4 and report.refused and report.leaping
    assert peak_mib() - before < 64


class Outside(Evt3Decoder):
    """Does not drop what lies outside the sensor."""

    def decode(self, packet):
        if packet.size is None:
            return super().decode(packet)
        return replace(super().decode(replace(packet, size=SensorSize(2048, 2048))), size=packet.size)


class Unclipped(Evt21Decoder):
    """Lets vectors run past the sensor's edge."""

    def decode(self, packet):
        if packet.size is None:
            return super().decode(packet)
        size = SensorSize(packet.size.height, 16384)
        return replace(super().decode(replace(packet, size=size)), size=packet.size)


class Miscounting(Evt3Decoder):
    """Loses events without a word."""

    def decode(self, packet):
        return replace(super().decode(packet), losses=Losses())


class Crashing(Evt3Decoder):
    def decode(self, packet):
        return super().decode(packet) if len(packet.data) % 2 == 0 else packet.data[1 << 30]


class Hoarding(Evt3Decoder):
    """Keeps far more memory alive than its events take."""

    def decode(self, packet):
        decoded = super().decode(packet)
        return replace(decoded, t=decoded.t.repeat(100)[::100])


class Leaping(MonoDecoder):
    """Does not tell leaps."""

    def decode(self, packet):
        decoded = super().decode(packet)
        return replace(decoded, leaps=decoded.leaps[:0])


@pytest.mark.parametrize("broken", [Outside, Unclipped, Miscounting, Crashing, Hoarding, Leaping])
def test_broken_decoders_are_caught(broken):
    encoding = {Leaping: "mono", Unclipped: "evt21"}.get(broken, "evt3")
    with pytest.raises(Violation, match=f"{encoding}, seed 0, input"):
        fuzz(encoding, 5_000, seed=0, make=broken)


def test_the_same_seed_gives_the_same_inputs():
    first, second = (fuzz("evt3", 300, seed=5) for _ in range(2))
    assert (first.events, first.damaged, first.leaping) == (second.events, second.damaged, second.leaping)
    assert fuzz("evt3", 300, seed=6).events != first.events


def run_tool(*args: str, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "tools/fuzz_packets.py", "--json", *args],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_command():
    result = run_tool("--count", "500", "--seed", "3")
    assert result["inputs"] >= 500 and [d["encoding"] for d in result["decoders"]] == list(DECODERS)


@pytest.mark.slow
def test_damaged_packets_with_every_index_checked(tmp_path):
    """Compiled loops do not check indices, unless told to."""
    result = run_tool("--count", "1000000", "--seed", "9", NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert result["inputs"] >= 1_000_000 and result["peak_mib"] < 1024
