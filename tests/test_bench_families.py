"""The benchmark of the families measures what it says, on small networks; its figures are not judged here."""

import torch

from tools.bench_families import Network, bench, page

SMALL = {"width_factor": 0.125, "network_size": [64, 96]}


def test_every_way_is_measured_and_told():
    threads = torch.get_num_threads()
    try:
        eas = Network("eas_snn_s_full_spike_v2", SMALL, 285)
        found = bench((eas, Network("spikeyolo_s_gen1", SMALL)), repeats=1)
    finally:
        torch.set_num_threads(threads)
    assert all(0.01 < timed.firing < 0.9 for timed in found)
    assert [len(timed.rows) for timed in found] == [6, 3], "one of them may stop after each of three steps"
    assert all(row.wall_s[0] > 0 for timed in found for row in timed.rows)
    text = page(found)
    assert "| eas_snn_s_full_spike_v2, 64x96 | 3 of 3 |" in text and "| 285 |" in text
    assert "spikeyolo_s_gen1, 64x96" in text and "| - | - |" in text
