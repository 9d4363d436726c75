"""The confined reader gives back what torch.save wrote, bit for bit, and refuses the rest without doing anything."""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from snn_perception.errors import CheckpointError
from snn_perception.foreign import ForeignCheckpoint, read_foreign
from snn_perception.foreign.limits import MAX_HINT_VALUES
from tests import foreign_corpus as corpus

TESTS = Path(__file__).parent
ROOT = TESTS.parent

FORMATS = {
    "zip": {},
    "stream": {"_use_new_zipfile_serialization": False},
    "protocol_4": {"pickle_protocol": 4},
    "protocol_5": {"pickle_protocol": 5},
}
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.fixture(params=FORMATS)
def save(request, tmp_path):
    """A function that writes an object as one of torch's formats and reads it back."""

    def save_and_read(value: object, **options) -> ForeignCheckpoint:
        path = tmp_path / "weights.ckpt"
        torch.save(value, path, **FORMATS[request.param])
        return read_foreign(path, **options)

    return save_and_read


def assert_same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.is_contiguous()
    raw, wanted = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (found, expected))
    assert torch.equal(raw, wanted)


class TestGoodFiles:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype_bit_for_bit(self, save, dtype):
        raw = torch.arange(48, dtype=torch.uint8).reshape(1, 48)  # bytes of finite numbers in every type
        values = raw.remainder(2).bool() if dtype == torch.bool else raw.view(dtype)
        state = {"a": values, "empty": torch.empty(3, 0, dtype=dtype)}
        tensors = save(state).tensors
        assert list(tensors) == list(state)
        for name, tensor in state.items():
            assert_same_bits(tensors[name], tensor)

    def test_views_strides_and_shared_storages(self, save):
        base = torch.arange(60.0).reshape(3, 4, 5)
        state = {
            "whole": base,
            "again": base,
            "row": base[1],
            "permuted": base.permute(2, 0, 1),
            "stepped": base[::2, 1:, ::3],
            "scalar": base[2, 3, 4],
            "expanded": torch.tensor([1.0, 2.0]).expand(50, 2),
            "transposed": torch.arange(6.0).reshape(2, 3).t(),
            "part": torch.arange(100)[3:5],
            "none": torch.empty(0),
        }
        tensors = save(state).tensors
        for name, tensor in state.items():
            assert_same_bits(tensors[name], tensor)
        blocks = [t.untyped_storage() for t in tensors.values() if t.numel()]
        assert len({block.data_ptr() for block in blocks}) == len(blocks), "two tensors share memory"
        assert all(len(t.untyped_storage()) == t.numel() * t.element_size() for t in tensors.values())

    def test_parameters_and_tensors_with_attributes(self, save):
        plain, marked = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2))
        marked.note = "kept by torch beside the data"
        tensors = save({"plain": plain, "marked": marked}).tensors
        assert_same_bits(tensors["plain"], plain.detach())
        assert_same_bits(tensors["marked"], marked.detach())
        assert not tensors["plain"].requires_grad

    def test_lightning_checkpoint(self, save):
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.rand(1, 2, 8, 8)).sum().backward()
        optimizer.step()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        args = argparse.Namespace(model="vgg-16", cfg=[[16, 2], [32, 3]], lr=1e-3, path=Path("/data/gen1"), b=None)
        file = save(
            {
                "epoch": 7,
                "global_step": 1234,
                "pytorch-lightning_version": "1.4.4",
                "state_dict": model.state_dict(),
                "callbacks": {Lightning: {"best_model_score": torch.tensor(0.3)}, "EarlyStopping{'mode': 'min'}": {}},
                "optimizer_states": [optimizer.state_dict()],
                "lr_schedulers": [scheduler.state_dict()],
                "hparams_name": "kwargs",
                "hyper_parameters": {"args": args, "sizes": torch.Size([240, 304])},
            }
        )
        for name, tensor in model.state_dict().items():
            assert_same_bits(file.tensors[name], tensor)
        assert file.hints == {
            "epoch": 7,
            "global_step": 1234,
            "pytorch-lightning_version": "1.4.4",
            "hparams_name": "kwargs",
            "hyper_parameters": {
                "args": {"model": "vgg-16", "cfg": [[16, 2], [32, 3]], "lr": 1e-3, "path": "/data/gen1", "b": None},
                "sizes": [240, 304],
            },
            "state_from": "state_dict",
            "skipped": ["callbacks", "optimizer_states", "lr_schedulers"],
        }

    def test_plain_values_become_hints(self, save):
        grid = np.arange(6, dtype=">i2").reshape(2, 3)
        values = {  # as saved, as read
            "start_epoch": (3, 3),
            "curr_ap": (None, None),
            "best_ap": (np.float64(0.25), 0.25),
            "half": (np.float16(1.5), 1.5),
            "fitness": (float("inf"), float("inf")),
            "seed": (2**100, 2**100),
            "raw": (b"\x00\xff", b"\x00\xff"),
            "seen": ({3, 1}, [1, 3]),
            "frozen": (frozenset("a"), ["a"]),
            "counts": (Counter("aab"), {"a": 2, "b": 1}),
            "groups": (defaultdict(list, {"x": [1]}), {"x": [1]}),
            "order": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
            "names": ({0: "car", 1: "person"}, {0: "car", 1: "person"}),
            "nested": ([(1, (2.5,))], [[1, [2.5]]]),
            "device": (torch.device("cuda", 1), "cuda:1"),
            "dtype": (torch.float16, "torch.float16"),
            "path": (Path("/data/gen1"), "/data/gen1"),
            "anchors": (grid, grid.tolist()),
            "columns": (np.asfortranarray(grid), grid.tolist()),
            "stride": ([torch.tensor([8.0, 16.0])], [[8.0, 16.0]]),
        }
        dropped = {"wide": [1, torch.zeros(5000), 2], "table": {"x": np.zeros(5000)}}
        file = save({"model": {"w": torch.ones(2)}, **{key: saved for key, (saved, _) in values.items()}, **dropped})
        assert file.hints == {
            **{key: read for key, (_, read) in values.items()},
            "wide": [1, None, 2],
            "table": {},
            "state_from": "model",
            "skipped": ["wide.1", "table.x"],
        }

    @pytest.mark.parametrize("key", ["state_dict", "ema", "model", "model_state_dict"])
    def test_where_the_state_is_found(self, save, key):
        optimizer = {"state": {0: {"momentum": torch.ones(3)}}}
        file = save({"optimizer": optimizer, key: {"w": torch.ones(2), "version": 3}, "epoch": 1})
        assert list(file.tensors) == ["w"]
        assert file.hints == {"epoch": 1, "state_from": key, "skipped": [f"{key}.version", "optimizer"]}

    def test_bare_mapping_and_preference(self, save):
        bare = save(OrderedDict(a=torch.ones(2), epoch=3))
        assert list(bare.tensors) == ["a"]
        assert bare.hints == {"epoch": 3, "state_from": "mapping", "skipped": []}
        averaged = save({"model": {"w": torch.zeros(2)}, "ema": {"w": torch.ones(2)}})
        assert averaged.hints["state_from"] == "ema"
        assert averaged.tensors["w"].sum() == 2
        stripped = save({"model": {"w": torch.zeros(2)}, "ema": None})
        assert stripped.hints["state_from"] == "model"

    def test_pickled_module_by_inert_records(self, save):
        layers = OrderedDict(a=nn.Conv2d(2, 3, 1), norm=nn.BatchNorm2d(3, eps=1e-3), b=nn.Sequential(nn.ReLU()))
        model = nn.Sequential(layers)
        model.register_buffer("transient", torch.ones(2), persistent=False)
        model.b.add_module("shared", model.norm)
        model.names = {0: "car"}
        model.stride = torch.tensor([8.0, 16.0])
        model.hook = Lightning
        with pytest.raises(CheckpointError, match=r"refuses global 'torch\.nn\.modules\.container\.Sequential'"):
            save({"epoch": -1, "ema": None, "model": model})
        file = save(
            {"epoch": -1, "ema": None, "model": model},
            inert=lambda name: name.startswith("torch.nn.modules."),
        )
        assert list(file.tensors) == list(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert_same_bits(file.tensors[name], tensor)
        modules = file.hints["modules"]
        assert modules[""]["class"] == "torch.nn.modules.container.Sequential"
        assert modules[""]["names"] == {0: "car"}
        assert modules[""]["stride"] == [8.0, 16.0]
        assert modules["norm"]["eps"] == modules["b.shared"]["eps"] == 1e-3
        assert file.hints["state_from"] == "model"
        bare = save(model.norm, inert=frozenset({"torch.nn.modules.batchnorm.BatchNorm2d"}))
        assert bare.hints["state_from"] == "module"
        assert list(bare.tensors) == list(model.norm.state_dict())

    def test_standard_library_is_never_inert(self, tmp_path):
        path = tmp_path / "weights.pt"
        path.write_bytes(corpus.zipped(corpus.checkpoint(corpus.call("os", "system", corpus.text("true")))))
        with pytest.raises(CheckpointError, match=r"'os\.system'"):
            read_foreign(path, inert=lambda name: True)

    def test_big_endian_archive(self, tmp_path):
        values = {
            "f": torch.tensor([[1.5, -2.0]]),
            "c": torch.tensor([1 + 2j]),
            "h": torch.tensor([3], dtype=torch.int16),
            "b": torch.tensor([True, False]),
        }
        path = tmp_path / "weights.pt"
        torch.save(values, path)
        path.write_bytes(corpus.big_endian(path.read_bytes(), widths=[4, 4, 2, 1]))
        for name, tensor in read_foreign(path).tensors.items():
            assert_same_bits(tensor, values[name])

    def test_storage_views_of_the_oldest_streams(self, tmp_path):
        view = corpus.several(corpus.text("v"), corpus.number(1), corpus.number(2))
        weight = corpus.tensor(size=corpus.sizes(2), stride=corpus.sizes(1))
        path = tmp_path / "weights.pt"
        path.write_bytes(corpus.streamed(corpus.checkpoint(weight=weight), view=view))
        assert read_foreign(path).tensors["w"].tolist() == [-2.0, 3.5]

    def test_stream_of_python_2(self, tmp_path):
        pairs = b"](](" + b"U\x01w" + corpus.tensor() + b"ee"
        stream = b"\x80\x02" + corpus.call("collections", "OrderedDict", pairs) + b"."
        path = tmp_path / "weights.pt"
        path.write_bytes(corpus.streamed(stream))
        assert read_foreign(path).tensors["w"].tolist() == [[1.0, -2.0], [3.5, 0.25]]

    def test_archive_without_checksums(self, tmp_path):
        path = tmp_path / "weights.pt"
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({"w": torch.ones(3)}, path)
        finally:
            torch.serialization.set_crc32_options(before)
        assert read_foreign(path).tensors["w"].sum() == 3

    def test_repacked_archive(self, tmp_path):
        path = tmp_path / "weights.pt"
        torch.save({"w": torch.ones(3)}, path)
        path.write_bytes(corpus.packed([("any folder/", b""), *corpus.entries_of(path.read_bytes(), "any folder")]))
        assert read_foreign(str(path)).tensors["w"].sum() == 3

    def test_archive_with_64_bit_fields(self, tmp_path, monkeypatch):
        monkeypatch.setattr("zipfile.ZIP64_LIMIT", 100)
        path = tmp_path / "weights.pt"
        path.write_bytes(corpus.zipped(corpus.checkpoint()))
        assert b"PK\x06\x06" in path.read_bytes(), "not written in 64 bits"
        assert read_foreign(path).tensors["w"].tolist() == [[1.0, -2.0], [3.5, 0.25]]

    @pytest.mark.parametrize(
        "written, read",
        [
            (b"I5000000000\n", 5_000_000_000),  # Python 2, for integers over 32 bits
            (b"L-7L\n", -7),
            (b"U\x03a\xffb", b"a\xffb"),
            (corpus.call("pathlib", "WindowsPath", corpus.text("C:\\"), corpus.text("data")), "C:\\data"),
            (corpus.call("collections", "deque", b"]", b"K\x05") + b"K\x01aK\x02a", [1, 2]),
            (corpus.call("torch.torch_version", "TorchVersion", corpus.text("2.1.0")), "2.1.0"),
            (
                corpus.name("numpy", "dtype") + corpus.text("f4") + b"\x89\x88\x87R(K\x03" + corpus.text("<") + b"tb",
                "float32",
            ),
            (corpus.name("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81K\x01K\x02s", {1: 2}),
            (
                corpus.name("argparse", "Namespace") + b")\x81}" + corpus.text("__class__") + b"K\x01sb",
                {"__class__": 1},
            ),
            (b"(0N", None),
            (b"N(NN1", None),
        ],
    )
    def test_values_that_other_writers_leave(self, tmp_path, written, read):
        path = tmp_path / "weights.pt"
        path.write_bytes(corpus.zipped(corpus.checkpoint(written)))
        assert read_foreign(path).hints["extra"] == read

    def test_safetensors(self, tmp_path):
        state = {"a": torch.randn(3, 2), "b": torch.arange(4), "h": torch.randn(2).bfloat16(), "e": torch.empty(0, 2)}
        path = tmp_path / "weights.bin"
        save_file(state, path, metadata={"format": "pt"})
        file = read_foreign(path)
        for name, tensor in state.items():
            assert_same_bits(file.tensors[name], tensor)
        assert file.hints == {"metadata": {"format": "pt"}, "state_from": "safetensors", "skipped": []}

    def test_symlink_is_followed(self, tmp_path):
        torch.save({"w": torch.ones(1)}, tmp_path / "weights.pt")
        (tmp_path / "link").symlink_to("weights.pt")
        assert read_foreign(tmp_path / "link").path == tmp_path / "link"

    def test_speed_is_that_of_memory(self, save):
        state = {f"layer{i}.weight": torch.randn(256, 1024) for i in range(100)}
        begin = time.perf_counter()
        save(state)  # writing included
        assert time.perf_counter() - begin < 10.0, "100 MB should take a fraction of a second, not a loop over numbers"


class Lightning:
    """Stands for a callback's class, which Lightning uses as a key."""


Lightning.__module__, Lightning.__qualname__ = "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"


@pytest.fixture(autouse=True)
def lightning_package(monkeypatch):
    """Let pickle find the class by the name under which it is written."""
    module = type(sys)("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = Lightning
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else type(sys)(name))


class TestRefusals:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_weights_that_are_not_finite(self, save, dtype, value):
        variance = torch.ones(100, dtype=dtype)
        variance[77] = value
        with pytest.raises(CheckpointError, match=r"1 NaN or infinite among \d+ values of tensor 'norm.running_var'"):
            save({"fine": torch.ones(3), "norm.running_var": variance})

    def test_optimizer_state_may_be_infinite(self, save):
        assert save({"model": {"w": torch.ones(1)}, "optimizer": {"v": torch.tensor([float("inf")])}}).tensors

    def test_message_says_where_what_and_what_next(self, tmp_path):
        path = tmp_path / "weights.ckpt"
        path.write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.")
        with pytest.raises(CheckpointError) as caught:
            read_foreign(path)
        assert str(caught.value) == (
            f"{path}: refuses global 'os.system' (pickle opcode GLOBAL at byte 2): only tensors and plain values are "
            "read; export the file with torch.save(model.state_dict(), path) where it was made and try again"
        )

    @pytest.mark.parametrize(
        "value", [[torch.ones(2)], torch.ones(2), {"net": {"w": torch.ones(2)}}, {}, 3, {1: torch.ones(1)}], ids=repr
    )
    def test_no_state_to_be_found(self, save, value):
        with pytest.raises(CheckpointError, match="holds no weights: expected a mapping of names to tensors"):
            save(value)

    def test_no_regular_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "dangling").symlink_to("nowhere")
        for name, words in {
            ".": "is a folder",
            "pipe": "is a pipe or device",
            "/dev/zero": "is a pipe or device",
            "missing": "No such file",
            "dangling": "No such file",
            "a\0b": "zero character",
        }.items():
            with pytest.raises(CheckpointError, match=words):
                read_foreign(tmp_path / name)

    def test_module_records_that_unfold(self, tmp_path):
        path = tmp_path / "weights.pt"
        for stream in corpus.bad_modules():
            path.write_bytes(corpus.zipped(stream))
            begin = time.perf_counter()
            with pytest.raises(CheckpointError):
                read_foreign(path, inert=lambda name: name.startswith("torch.nn."))
            assert time.perf_counter() - begin < 2.0

    def test_hints_have_a_limit_on_their_number(self, save):
        with pytest.raises(CheckpointError, match="unfolds to over"):
            save({"model": {"w": torch.ones(1)}, "log": list(range(MAX_HINT_VALUES + 1))})


def watched(folder: Path, files: list[Path], mode: str = "read") -> list[dict]:
    """Return what a watched child made of each file (see foreign_corpus.py)."""
    good = {f"good_{name}": folder / f"good_{name}" for name in whole_files()}
    for path, raw in zip(good.values(), whole_files().values(), strict=True):
        path.write_bytes(raw)
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"warm_up": [str(p) for p in good.values()], "files": [str(p) for p in files]}))
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    child = subprocess.run(
        [sys.executable, str(TESTS / "foreign_corpus.py"), mode, str(plan)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    before, *lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(lines) == len(files)
    grown = max((line["resident_mib"] for line in lines), default=0) - before["resident_mib"]
    assert grown < 400, f"memory grew by {grown:.0f} MiB"
    return lines


def whole_files() -> dict[str, bytes]:
    """A small good file of each format."""
    stream = corpus.checkpoint(corpus.PLENTY)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    safetensors = len(header).to_bytes(8, "little") + header + corpus.WEIGHTS
    return {"zip": corpus.zipped(stream), "stream": corpus.streamed(stream), "safetensors": safetensors}


class TestHostileFiles:
    def test_every_file_of_the_corpus_is_refused_and_does_nothing(self, tmp_path):
        files = corpus.write_hostile(tmp_path)
        lines = watched(tmp_path, files)
        assert len(files) > 1000
        assert [line["file"] for line in lines if line["outcome"] != "CheckpointError"] == []
        assert [line for line in lines if line["events"]] == []
        assert [line for line in lines if line["unforeseen"]] == [], "a refusal by design, not by accident"
        assert [(line["file"], line["seconds"]) for line in lines if line["seconds"] > 2.0] == []
        assert [line for line in lines if not line["message"].isprintable() or len(line["message"]) > 800] == []
        assert not (tmp_path / corpus.MARKER).exists()

    def test_every_truncation_is_refused(self, tmp_path):
        lines = watched(tmp_path, corpus.write_truncated(tmp_path, whole_files()))
        assert [line["file"] for line in lines if line["outcome"] != "CheckpointError" or line["events"]] == []
        assert [line for line in lines if line["unforeseen"]] == []

    def test_flipped_bytes_are_refused_or_harmless(self, tmp_path):
        check_flipped(tmp_path, 3000, seed=11)

    @pytest.mark.slow
    def test_many_flipped_bytes(self, tmp_path):
        check_flipped(tmp_path, 60_000, seed=12)

    def test_the_watch_sees_what_a_pickle_does(self, tmp_path):
        """Without this, a hook that sees nothing would pass every test above."""
        payloads = {
            "os.system": corpus.call("os", "system", corpus.text(f"touch {corpus.MARKER}")),
            "subprocess.Popen": corpus.call("subprocess", "check_output", corpus.text("true")),
            "socket.": corpus.call("socket", "socket"),
            "import ": corpus.name("antigravity", "fly"),
            "open ": corpus.call("builtins", "open", corpus.text(corpus.MARKER), corpus.text("w")),
            "exec ": corpus.call("builtins", "eval", corpus.text("1 + 1")),
            "compile ": corpus.call("builtins", "compile", corpus.text("1"), corpus.text("x"), corpus.text("eval")),
        }
        files = []
        for index, payload in enumerate(payloads.values()):
            files.append(tmp_path / str(index))
            files[-1].write_bytes(b"\x80\x02" + payload + b".")
        for event, line in zip(payloads, watched(tmp_path, files, "control"), strict=True):
            assert any(seen.startswith(event) for seen in line["events"]), (event, line)


def check_flipped(folder: Path, count: int, seed: int) -> None:
    lines = watched(folder, corpus.write_flipped(folder, whole_files(), count, seed))
    assert {line["outcome"] for line in lines} == {"CheckpointError", "read"}, (
        "some flips must pass, or nothing is tried"
    )
    assert [line for line in lines if line["events"] or line["unforeseen"]] == []
    assert max(line["seconds"] for line in lines) < 2.0


PICKLES = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal")
FORBIDDEN_NAMES = {f"{module}.{name}" for module in PICKLES for name in ("load", "loads", "Unpickler")}
FORBIDDEN_NAMES |= {"torch.load", "torch.jit.load", "torch.hub.load", "torch.serialization.load", "shelve.open"}


def unsafe_reads(source: str) -> list[str]:
    """Return the places of a program that would let a file run code, by the names under which it imports."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            first, *rest = ast.unparse(node).split(".")
            full = ".".join([names.get(first, first), *rest])
            if full in FORBIDDEN_NAMES:
                found.append(f"line {node.lineno}: {full}")
        elif isinstance(node, ast.keyword) and ast.unparse(node) in ("weights_only=False", "allow_pickle=True"):
            found.append(f"line {node.value.lineno}: {ast.unparse(node)}")
    return found


# What a process sends to its own workers through a pipe is no file: nobody else can have written it.
AMONG_OUR_OWN_PROCESSES = {"snn_perception/work/attempt.py", "snn_perception/work/worker.py"}


def test_no_unsafe_read_in_the_package():
    sources = [path for folder in ("snn_perception", "plugins") for path in (ROOT / folder).rglob("*.py")]
    sources = [path for path in sources if path.relative_to(ROOT).as_posix() not in AMONG_OUR_OWN_PROCESSES]
    assert len(sources) > 10
    assert {str(path): found for path in sources if (found := unsafe_reads(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load",
        "from torch import load\nload('x')",
        "import torch.jit\ntorch.jit.load",
        "import pickle as p\np.loads(b'')",
        "from _pickle import loads\nloads",
        "from pickle import Unpickler as U\nclass X(U): pass",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "f(weights_only=False)",
    ],
)
def test_the_search_for_unsafe_reads_finds_them(source):
    assert unsafe_reads(source)
    assert not unsafe_reads("import pickle\npickle.dumps(1)\nimport json\njson.load(f)\nf(weights_only=True)")
