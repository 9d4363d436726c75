"""The benchmark of the event path measures what it says, on a small scale; its figures are not judged here."""

from snn_perception.types import SensorSize
from tools.bench_events import bench, page
from tools.bench_readers import count, edges, scattered
from tools.bench_support import Run, measure

SIZE = SensorSize(240, 304)


def test_every_section_is_measured_and_told():
    sections = bench(events=20_000, repeats=1)
    assert {"DAT", "Other files", "Tensors of 304x240, 20,000 events"} <= sections.keys()
    rows = [row for section in sections.values() for row in section]
    assert all(row.events > 0 and min(row.cpu_s) >= 0 and row.as_dict()["wall_best_mev_s"] > 0 for row in rows)
    text = page(sections, 20_000)
    assert all(f"| {row.name} |" in text for row in rows)
    assert "floor: copy the columns, whole" in text and "np.add.at, int32, increment 1" in text


def test_rows_are_measured_in_turn():
    order = []
    runs = [Run(name, 1, lambda name=name: order.append(name)) for name in "ab"]
    rows = measure(runs, repeats=3)
    assert "".join(order) == "ab" * 4, "once to warm up, then in turn"
    assert [len(row.wall_s) for row in rows] == [3, 3]


def test_streams_are_in_order_and_of_the_length_asked_for():
    for events in (list(scattered(70_000, SIZE)), list(edges(72_000, SIZE))):
        assert sum(map(len, events)) in range(69_000, 72_001)
        for part in events:
            part.validate()


def test_counting_reads_everything(tmp_path):
    from snn_perception.events.dat import DatRecording
    from snn_perception.events.dat_writer import write_dat

    write_dat(tmp_path / "a.dat", scattered(1_000, SIZE), SIZE)
    assert count(DatRecording(tmp_path / "a.dat")) == 1_000
