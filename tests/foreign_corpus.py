"""Hostile weights files for the confined reader, made at run time, and the watched child process that reads them.

``python foreign_corpus.py read LIST.json`` reads every listed file under an audit hook that sees each import, opened
file, socket, process and compiled program, and prints one JSON line per file. ``... control LIST.json`` does the same
through the standard library's pickle, which shows that the hook sees what it should.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C
WEIGHTS = struct.pack("<4f", 1.0, -2.0, 3.5, 0.25)

# A pickle assembler: each function returns the instructions that leave one value on the stack.


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, qualified: str) -> bytes:
    return f"c{module}\n{qualified}\n".encode()


def several(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(module: str, qualified: str, *args: bytes) -> bytes:
    return name(module, qualified) + several(*args) + b"R"


def sizes(*values: int) -> bytes:
    return several(*map(number, values))


def reference(kind: str = "FloatStorage", key: bytes = text("0"), numel: int = 4, tail: bytes = b"") -> bytes:
    return several(text("storage"), name("torch", kind), key, text("cpu"), number(numel), tail) + b"Q"


def tensor(storage: bytes | None = None, offset: bytes = b"K\x00", size: bytes = b"", stride: bytes = b"") -> bytes:
    parts = (storage or reference(), offset, size or sizes(2, 2), stride or sizes(2, 1), b"\x89")
    return call("torch._utils", "_rebuild_tensor_v2", *parts, call("collections", "OrderedDict"))


def checkpoint(extra: bytes = b"N", key: str = "extra", weight: bytes | None = None) -> bytes:
    """A pickle that would be a good checkpoint but for `extra` or `weight`."""
    state = b"}" + text("w") + (weight or tensor()) + b"s"
    return b"\x80\x02}(" + text("state_dict") + state + text("epoch") + b"K\x03" + text(key) + extra + b"u."


# Containers


def zipped(stream: bytes, *, storage: bytes = WEIGHTS, folder: str = "archive", **more: bytes) -> bytes:
    entries = {"data.pkl": stream, "byteorder": b"little", "data/0": storage, "version": b"3\n", **more}
    return packed([(f"{folder}/{path}", content) for path, content in entries.items()])


def packed(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for path, content in entries:
            archive.writestr(zipfile.ZipInfo(path), content, method)
    return buffer.getvalue()


def streamed(
    stream: bytes,
    *,
    keys: object = ("0",),
    numel: int = 4,
    storage: bytes = WEIGHTS,
    view: bytes = b"N",
    **system: object,
) -> bytes:
    """The layout before torch 1.6; its storage references have a sixth part, the view of a storage."""
    stream = stream.replace(b"tQ", view + b"tQ")
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}, **system}
    head = [pickle.dumps(part, 2) for part in (MAGIC, info["protocol_version"], info)]
    keys = list(keys) if isinstance(keys, tuple) else keys
    return b"".join(head) + stream + pickle.dumps(keys, 2) + struct.pack("<q", numel) + storage


def entries_of(raw: bytes, folder: str) -> list[tuple[str, bytes]]:
    """The members of an archive, moved to another top folder."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return [(f"{folder}/{path.partition('/')[2]}", archive.read(path)) for path in archive.namelist()]


def big_endian(raw: bytes, widths: list[int]) -> bytes:
    """A torch archive as a big-endian machine writes it; `widths` are those of the numbers in each storage."""
    entries = dict(entries_of(raw, "archive"))
    for index, width in enumerate(widths):
        content = entries[f"archive/data/{index}"]
        swapped = [content[at : at + width][::-1] for at in range(0, len(content), width)]
        entries[f"archive/data/{index}"] = b"".join(swapped)
    return packed(list((entries | {"archive/byteorder": b"big"}).items()))


# Names that must never be looked up, each with arguments that would leave a trace

MARKER = "touched_by_a_pickle"
_SHELL = text(f"touch {MARKER}")
_CODE = text(f"open({MARKER!r}, 'w')")
FORBIDDEN: list[tuple[str, str, tuple[bytes, ...]]] = [
    *((module, "system", (_SHELL,)) for module in ("os", "posix", "nt")),
    *(
        ("os", function, (_SHELL,))
        for function in ("popen", "remove", "execv", "putenv", "_exit", "listdir", "startfile")
    ),
    *(
        ("builtins", function, (_CODE,))
        for function in ("eval", "exec", "open", "__import__", "print", "input", "vars")
    ),
    *(("__builtin__", function, (_CODE,)) for function in ("eval", "execfile", "file", "apply")),
    ("builtins", "compile", (_CODE, text("x"), text("exec"))),
    ("builtins", "getattr", (name("builtins", "dict"), text("__class__"))),
    ("builtins", "setattr", (name("builtins", "dict"), text("x"), b"N")),
    ("builtins", "type", (text("X"), several(), b"}")),
    ("builtins", "map", (name("builtins", "eval"), several(_CODE))),
    ("builtins", "bytearray", (number(10**10),)),
    ("builtins", "range", (number(10**10),)),
    ("builtins", "breakpoint", ()),
    ("subprocess", "Popen", (_SHELL,)),
    *(("subprocess", function, (_SHELL,)) for function in ("run", "call", "check_output", "getoutput")),
    ("importlib", "import_module", (text("antigravity"),)),
    ("importlib._bootstrap", "_gcd_import", (text("antigravity"),)),
    *(("runpy", function, (_CODE,)) for function in ("_run_code", "run_path", "run_module")),
    ("webbrowser", "open", (text("http://localhost"),)),
    ("numpy", "load", (text(MARKER), b"N", b"\x88")),
    *(("numpy", function, (text(MARKER),)) for function in ("fromfile", "memmap", "frombuffer", "ndarray.__new__")),
    ("numpy.testing._private.utils", "runstring", (_CODE, b"}")),
    ("numpy.f2py.capi_maps", "load_f2cmap_file", (text(MARKER),)),
    *(("operator", function, (text("system"),)) for function in ("attrgetter", "methodcaller", "itemgetter")),
    ("functools", "partial", (name("os", "system"), _SHELL)),
    ("functools", "reduce", (name("os", "system"), several(_SHELL))),
    *(
        ("torch", function, (text(MARKER),))
        for function in ("load", "save", "empty", "from_file", "hub.load", "jit.load")
    ),
    ("torch.serialization", "load", (text(MARKER),)),
    ("torch.storage", "_load_from_bytes", (b"B\x04\x00\x00\x00\x80\x02N.",)),
    ("torch.package", "PackageImporter", (text(MARKER),)),
    ("torch._dynamo.utils", "run_once", (_CODE,)),
    *(("torch._utils", f"_rebuild_{kind}", (text("x"),)) for kind in ("qtensor", "sparse_tensor", "nested_tensor")),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", (text("x"),)),
    ("torch._utils", "_import_dotted_name", (text("os.system"),)),
    ("torch.nn.modules.module", "Module", ()),
    ("types", "FunctionType", (b"N", b"}")),
    ("types", "CodeType", ()),
    ("marshal", "loads", (b"C\x01N",)),
    *(
        (module, "loads", (b"C\x03\x80\x02N",))
        for module in ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib")
    ),
    ("ctypes", "CDLL", (text("libc.so.6"),)),
    ("socket", "create_connection", (several(text("localhost"), number(1)),)),
    ("urllib.request", "urlopen", (text("http://localhost"),)),
    ("shutil", "rmtree", (text(MARKER),)),
    ("pathlib", "Path.write_text", (text(MARKER), text("x"))),
    ("tempfile", "mkdtemp", ()),
    ("pty", "spawn", (_SHELL,)),
    ("platform", "popen", (_SHELL,)),
    ("code", "interact", ()),
    ("pdb", "run", (_CODE,)),
    ("timeit", "timeit", (_CODE,)),
    ("cProfile", "run", (_CODE,)),
    ("logging.config", "listen", (number(0),)),
    ("asyncio", "create_subprocess_shell", (_SHELL,)),
    ("multiprocessing.util", "spawnv_passfds", (_SHELL,)),
    ("sys", "exit", (number(0),)),
    ("sys", "modules.clear", ()),
    ("threading", "Thread", ()),
    ("copyreg", "_reconstructor", (name("builtins", "object"), name("builtins", "object"), b"N")),
    ("copyreg", "add_extension", (text("os"), text("system"), number(1))),
    ("copy_reg", "__newobj__", (name("builtins", "object"),)),
    ("_codecs", "decode", (text("x"), text("zip"))),
    ("codecs", "open", (text(MARKER), text("w"))),
    ("io", "FileIO", (text(MARKER), text("w"))),
    ("collections", "namedtuple", (text("x"), text("y"))),
    ("collections", "OrderedDict.__reduce__", ()),
    ("antigravity", "fly", ()),
    ("this", "s", ()),
    ("__main__", "main", ()),
    ("pip._internal", "main", (text("install"),)),
    ("spikingjelly.activation_based.neuron", "LIFNode", ()),
    ("ultralytics.nn.tasks", "DetectionModel", ()),
    ("", "", ()),
    ("os\0", "system", (_SHELL,)),
    ("x" * 400, "y", ()),
]


def ways_to_name(module: str, qualified: str, args: tuple[bytes, ...]) -> Iterator[tuple[str, bytes]]:
    """Every instruction by which a pickle can reach a class or function."""
    found, given = name(module, qualified), several(*args)
    stacked = text(module) + text(qualified) + b"\x93"
    remembered = text(module) + b"q\x07" + text(qualified) + b"q\x0800h\x07h\x08\x93"
    yield "reduce", found + given + b"R"
    yield "mention", found
    yield "key", b"}" + found + b"Ns"
    yield "newobj", found + given + b"\x81"
    yield "newobj_ex", found + given + b"}\x92"
    yield "inst", b"(" + b"".join(args) + f"i{module}\n{qualified}\n".encode()
    yield "obj", b"(" + found + b"".join(args) + b"o"
    yield "stack_global", stacked + given + b"R"
    yield "remembered", remembered + given + b"R"
    yield "build", found + given + b"R}" + text("__setstate__") + found + b"sb"
    yield "by_type", call("torch._tensor", "_rebuild_from_type_v2", found, name("torch", "Tensor"), given, b"N")
    yield "factory", call("collections", "defaultdict", found) + text("x") + b"Ns"


# Streams that name nothing forbidden


def bad_values() -> Iterator[tuple[str, bytes]]:
    """Values whose like torch never writes; each is put beside good weights."""
    yield from _bad_instructions()
    yield from _bad_structures()
    yield from _bad_calls()


def _bad_instructions() -> Iterator[tuple[str, bytes]]:
    for code in (0x82, 0x83, 0x84):
        yield f"extension_{code:x}", bytes([code]) + b"\x01\x00\x00\x00"
    for code in b"SVFPpgdl2\x97\x98\xff\x00":
        yield f"opcode_{code:x}", b"N" + bytes([code]) + b"1\n"
    for code in b"aesuRQb01\x81\x85\x86\x87\x90\x93\x94":
        yield f"underflow_{code:x}", b"(" + bytes([code])
    yield "memo_never_set", b"h\x63"
    yield "memo_far", b"Nr\xff\xff\xff\xff"
    yield "memo_far_read", b"j\xff\xff\xff\xff"
    yield "text_length_lie", b"X\xff\xff\xff\x7fabc"
    yield "text_length_lie_64", b"\x8d" + b"\xff" * 7 + b"\x7fabc"
    yield "bytes_length_lie", b"B\xff\xff\xff\xffabc"
    yield "bytes_length_lie_64", b"\x8e" + b"\xff" * 8
    yield "bytearray_length_lie", b"\x96" + b"\xff" * 8
    yield "string_negative", b"T\xff\xff\xff\xffabc"
    yield "long_negative", b"\x8b\xff\xff\xff\xff"
    yield "long_huge", b"\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20)
    yield "decimal_huge", b"I" + b"9" * 400 + b"\n"
    yield "decimal_wrong", b"Lx\n"
    yield "line_without_end", b"c" + b"a" * 100_000
    yield "text_not_utf8", b"X\x02\x00\x00\x00\xff\xfe"
    yield "protocol_200", b"\x80\xc8"
    yield "marks", b"(" * 300_000
    yield "instructions", b"N0" * 600_000 + b"N"
    yield "odd_items_around", b"NN"
    yield "early_stop", b"N."
    yield "persistent_not_a_tuple", text("storage") + b"Q"
    yield "persistent_list", b"]Q"
    yield "persistent_dict", b"}Q"
    yield "persistent_empty", b")Q"
    yield "persistent_text", b"Pstorage\n"


def _bad_structures() -> Iterator[tuple[str, bytes]]:
    depth = 100_000
    yield "deep_list", b"]" * depth + b"a" * (depth - 1)
    yield "deep_tuple", b")" + b"\x85" * depth
    yield "deep_dict", b"".join([b"}K\x00"] * depth) + b"N" + b"s" * depth
    yield "deep_tuple_key", b"}" + b")" + b"\x85" * depth + b"Ns"
    yield "deep_tuple_member", b"\x8f(" + b")" + b"\x85" * depth + b"\x90"
    many = b"\x8f(" + b"".join(text(str(i)) for i in range(50_000)) + b"\x90"
    yield "sorted_again_and_again", b"](" + many + b"q\x01" + b"h\x01" * 1000 + b"e"
    wide = text("x" * 100_000) + b"q\x01"
    yield "texts_again_and_again", wide + b"q\x020](" + b"h\x02" * 200_000 + b"e"
    yield "tensors_again_and_again", b"](" + tensor() + b"q\x01" + b"h\x01" * 50_000 + b"e"
    yield "self_list", b"]q\x01h\x01a"
    yield "self_dict", b"}q\x01K\x00h\x01s"
    yield "self_tuple", b"]q\x01h\x01\x85a"
    yield "self_namespace", name("argparse", "Namespace") + b")\x81q\x01}" + text("x") + b"h\x01sb"
    yield "laughs_list", b"]q\x01" + b"0](h\x01h\x01eq\x01" * 60
    yield "laughs_tuple", b")q\x01" + b"0h\x01h\x01\x86q\x01" * 60
    yield "laughs_dict", b"}q\x01" + b"0}(K\x00h\x01K\x01h\x01uq\x01" * 60
    yield "laughs_key", b")q\x01" + b"0h\x01h\x01\x86q\x01" * 60 + b"0}h\x01Ns"
    modulus = (1 << 61) - 1
    yield "colliding_keys", b"}(" + b"".join(number(i * modulus) + b"N" for i in range(1, 60_000)) + b"u"
    yield "colliding_members", b"\x8f(" + b"".join(number(i * modulus) for i in range(1, 60_000)) + b"\x90"
    doubles = b"".join(b"G" + struct.pack(">d", float(i << 40)) + b"N" for i in range(60_000))
    yield "number_keys", b"}(" + doubles + b"u"
    for kind, value in (
        ("list", b"]"),
        ("dict", b"}"),
        ("set", b"\x8f"),
        ("tensor", tensor()),
        ("list_in_tuple", b"]\x85"),
    ):
        yield f"key_{kind}", b"}" + value + b"Ns"
        yield f"member_{kind}", b"\x8f(" + value + b"\x90"
        yield f"frozen_{kind}", b"(" + value + b"\x91"
    yield "odd_items", b"}(NNNu"
    yield "append_to_dict", b"}Na"
    yield "items_on_list", b"]NNs"
    yield "members_on_list", b"](N\x90"
    for kind, value in (("list", b"]"), ("tuple", b")"), ("text", text("x")), ("none", b"N"), ("tensor", tensor())):
        yield f"state_on_{kind}", value + b"}b"
        yield f"call_of_{kind}", value + b")R"
    yield "call_without_tuple", name("collections", "OrderedDict") + b"]R"
    yield "name_of_numbers", b"K\x01K\x02\x93"
    yield "name_of_bytes", b"C\x02osC\x06system\x93"
    yield "name_of_name", name("builtins", "int") + text("x") + b"\x93"


def _bad_calls() -> Iterator[tuple[str, bytes]]:
    known = [
        *(("torch._utils", f"_rebuild_{kind}") for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
        *(("torch._tensor", "_rebuild_from_type_v2"), ("torch", "device"), ("_codecs", "encode")),
        *(("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "_reconstruct")),
        ("numpy.core.numeric", "_frombuffer"),
    ]
    for module, qualified in known:
        for count in (0, 1, 2, 3, 6, 9):
            if (qualified, count) != ("_reconstruct", 3):  # any three make an empty placeholder
                yield f"{qualified}_of_{count}", call(module, qualified, *[b"]"] * count)
    for kind in ("OrderedDict", "Counter", "deque"):
        yield f"{kind}_of_number", call("collections", kind, number(5))
        yield f"{kind}_of_many", call("collections", kind, b"](K\x01K\x02e", b"N", b"N")
    yield "size_of_text", call("torch", "Size", text("ab"))
    yield "size_of_none", call("torch", "Size")
    yield "set_of_text", call("builtins", "set", text("abc"))
    yield "set_of_lists", call("builtins", "set", b"]]a")
    yield "ordered_dict_of_numbers", call("collections", "OrderedDict", b"](K\x01K\x02e")
    yield "ordered_dict_of_list_keys", call("collections", "OrderedDict", b"](](]Neee")
    for codec in ("zip", "rot13", "hex", "idna", "utf-8", "no_such_codec"):
        yield f"encode_{codec}", call("_codecs", "encode", text("x"), text(codec))
    yield "encode_beyond", call("_codecs", "encode", text("\u20ac"), text("latin1"))
    for code in ("O8", "O", "U5", "S5", "V8", "M8", "f8,O", "x" * 100):
        yield f"dtype_{code[:5]}", call("numpy", "dtype", text(code), b"\x89", b"\x88")
    kind = call("numpy", "dtype", text("f8"), b"\x89", b"\x88")
    yield "dtype_state", kind + several(b"K\x03", text("O")) + b"b"
    yield "scalar_short", call("numpy.core.multiarray", "scalar", kind, b"C\x03abc")
    yield "scalar_pickle", call("numpy.core.multiarray", "scalar", kind, b"C\x0b\x80\x02cos\nabc.0")
    array = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
    for label, shape in (("large", sizes(10**6, 10**6)), ("negative", sizes(-1)), ("overflow", sizes(*[1 << 31] * 4))):
        yield f"array_{label}", array + several(b"K\x01", shape, kind, b"\x89", b"C\x08" + b"\0" * 8) + b"b"
    yield "array_list", array + several(b"K\x01", sizes(1), kind, b"\x89", b"]Na") + b"b"
    yield "array_two_states", array + (several(b"K\x01", sizes(0), kind, b"\x89", b"C\x00") + b"b") * 2
    yield "namespace_state", name("argparse", "Namespace") + b")\x81]b"
    yield "namespace_two_states", name("argparse", "Namespace") + b")\x81}b}b"
    yield "call_of_storage", call("torch", "FloatStorage", number(10))
    yield "call_of_lightning", call("pytorch_lightning.callbacks", "ModelCheckpoint")
    items = b"](" + b"K\x01N\x86" * 1000 + b"eq\x01"
    yield "copy_dict", b"](" + items + call("collections", "OrderedDict", b"h\x01") * 5000 + b"e"
    long = text("x" * 100_000) + b"q\x01"
    yield "copy_bytes", b"](" + long + call("_codecs", "encode", b"h\x01", text("latin1")) * 5000 + b"e"
    yield "copy_path", b"](" + long + call("pathlib", "PosixPath", b"h\x01", b"h\x01") * 5000 + b"e"


def bad_weights() -> Iterator[tuple[str, bytes]]:
    """Tensors that lie about their storage or their shape."""
    yield "offset_negative", tensor(offset=number(-1))
    yield "offset_beyond", tensor(offset=number(1))
    yield "offset_huge", tensor(offset=number(1 << 2000))
    yield "offset_bool", tensor(offset=b"\x88")
    yield "offset_float", tensor(offset=b"G" + struct.pack(">d", 0.0))
    yield "size_large", tensor(size=sizes(100, 100), stride=sizes(100, 1))
    yield "size_negative", tensor(size=sizes(-2, -2))
    yield "size_overflow", tensor(size=sizes(*[1 << 33] * 2), stride=sizes(0, 0))
    yield "size_overflow_to_zero", tensor(size=sizes(0, 1 << 62, 1 << 62), stride=sizes(1, 1, 1))
    yield "size_expanded", tensor(size=sizes(1 << 30), stride=sizes(0))
    yield "size_many_dimensions", tensor(size=sizes(*[1] * 100), stride=sizes(*[1] * 100))
    yield "size_of_texts", tensor(size=several(text("2"), text("2")))
    yield "size_bool", tensor(size=b"\x88\x88\x86")
    yield "size_none", tensor(size=b"N")
    yield "stride_beyond", tensor(stride=sizes(3, 1))
    yield "stride_negative", tensor(offset=number(3), stride=sizes(-2, -1))
    yield "stride_huge", tensor(stride=sizes(1 << 62, 1))
    yield "stride_short", tensor(stride=sizes(1))
    yield "stride_none", tensor(stride=b"N")
    yield "storage_none", tensor(storage=b"N")
    yield "storage_text", tensor(storage=text("0"))
    yield "storage_missing", tensor(storage=reference(key=text("7")))
    yield "storage_other_entry", tensor(storage=reference(key=text("../data.pkl")))
    yield "storage_key_number", tensor(storage=reference(key=number(0)))
    yield "storage_key_long", tensor(storage=reference(key=text("0" * 100_000)))
    yield "storage_too_many", tensor(storage=reference(numel=10**15))
    yield "storage_beyond_all", tensor(storage=reference(numel=10**300))
    yield "storage_negative", tensor(storage=reference(numel=-4))
    yield "storage_too_few", tensor(storage=reference(numel=3))
    yield "storage_other_type", tensor(storage=reference(kind="DoubleStorage"))
    yield "storage_not_a_type", tensor(storage=reference(kind="Size"))
    yield "storage_long_reference", tensor(storage=reference(tail=b"NNN"))
    hooks = call("collections", "OrderedDict")
    start = (reference(), b"K\x00", sizes(2, 2), sizes(2, 1), b"\x89", hooks)
    yield "conjugated", call("torch._utils", "_rebuild_tensor_v2", *start, b"}" + text("conj") + b"\x88s")
    yield "other_dtype_beyond", call("torch._utils", "_rebuild_tensor_v3", *start, name("torch", "float64"))
    yield "other_dtype_text", call("torch._utils", "_rebuild_tensor_v3", *start, text("float64"))
    yield "parameter_of_list", call("torch._utils", "_rebuild_parameter", b"]", b"\x88", hooks)
    nested = (name("torch._tensor", "_rebuild_from_type_v2"), name("torch", "Tensor"), several(), b"N")
    yield "type_in_type", call("torch._tensor", "_rebuild_from_type_v2", *nested)


def bad_containers() -> Iterator[tuple[str, bytes]]:
    """Files that are wrong around their pickles."""
    good = checkpoint()
    yield "empty", b""
    yield "one_byte", b"\x80"
    for code in b"aesutRQb01q\x81\x85\x86\x87\x90\x91\x93\x94.":
        yield f"nothing_before_{code:x}", zipped(b"\x80\x02" + bytes([code]) + b"\x00.")
    yield "leftover_value", zipped(b"\x80\x02N" + good[2:])
    yield "leftover_mark", zipped(b"\x80\x02(" + good[2:])
    yield "pk", b"PK"
    yield "null", bytes(1000)
    yield "noise", random.Random(1).randbytes(4096)
    yield "html", b"<!DOCTYPE html><html>not found</html>"
    yield "text_pickle", b"cos\nsystem\n(S'id'\ntR."
    yield "plain_pickle", pickle.dumps({"state_dict": {"w": [1.0, 2.0]}}, 2)
    yield "magic_only", pickle.dumps(MAGIC, 2)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(member))
    yield "tar", buffer.getvalue()
    yield from _bad_zips(good)
    yield from _bad_streams(good)
    yield from _bad_safetensors()


def _bad_zips(good: bytes) -> Iterator[tuple[str, bytes]]:
    entries = [("archive/data.pkl", good), ("archive/data/0", WEIGHTS), ("archive/version", b"3\n")]
    yield "zip_without_pickle", packed(entries[1:])
    yield "zip_of_nothing", packed([])
    yield "zip_bomb", packed([*entries, ("archive/data/1", bytes(100 << 20))], zipfile.ZIP_DEFLATED)
    yield "zip_in_zip", packed([("archive/data.pkl", packed(entries)), *entries[1:]])
    yield (
        "torchscript",
        packed([*entries, ("archive/constants.pkl", good), ("archive/code/__torch__.py", b"import os")]),
    )
    for label, path in {
        "parent": "archive/../data/1",
        "top_parent": "../archive/data.pkl",
        "absolute": "/etc/passwd",
        "bare": "data.pkl",
        "backslash": "archive/data\\..\\1",
        "second_folder": "other/data.pkl",
        "double_slash": "archive//data/1",
    }.items():
        yield f"zip_path_{label}", packed([*entries, (path, b"x")])
    twice = packed([*entries, ("archive/data.pkX", b"}.")])
    yield "zip_entry_twice", twice.replace(b"data.pkX", b"data.pkl")
    yield "zip_header_name", zipped(good).replace(b"archive/data/0", b"archive/data/9", 1)
    yield "zip_many", packed([*entries, *((f"archive/data/{i}", b"") for i in range(1, 66_000))])
    yield "zip_storage_long", zipped(good, storage=WEIGHTS * 2)
    yield "zip_storage_short", zipped(good, storage=WEIGHTS[:-1])
    yield "zip_byteorder", zipped(good, byteorder=b"middle")
    yield "zip_byteorder_long", zipped(good, byteorder=b"little" * 1000)
    yield from _patched_zips(zipped(good))


def _patched_zips(good: bytes) -> Iterator[tuple[str, bytes]]:
    """One field at a time, in the end record, the directory's entries and the local headers."""
    end, entry = len(good) - 22, good.index(b"PK\x01\x02")
    for label, at, layout, value in (
        ("end_disk", end + 4, "<H", 1),
        ("end_count_here", end + 8, "<H", 1),
        ("end_count", end + 10, "<H", 3),
        ("end_count_wide", end + 10, "<H", 0xFFFF),
        ("end_size", end + 12, "<I", 10),
        ("end_size_wide", end + 12, "<I", 0xFFFFFFFF),
        ("end_at", end + 16, "<I", 5),
        ("end_far", end + 16, "<I", 1 << 31),
        ("end_comment", end + 20, "<H", 9),
        ("entry_signature", entry, "<I", 0),
        ("encrypted", entry + 8, "<H", 1),
        ("deflated", entry + 10, "<H", 8),
        ("checksum", entry + 16, "<I", 7),
        ("packed", entry + 20, "<I", 1),
        ("size", entry + 24, "<I", 1 << 30),
        ("size_wide", entry + 24, "<I", 0xFFFFFFFF),
        ("name_length", entry + 28, "<H", 60_000),
        ("extra_length", entry + 30, "<H", 60_000),
        ("disk", entry + 34, "<H", 1),
        ("header_far", entry + 42, "<I", 1 << 30),
        ("header_near", entry + 42, "<I", 1),
        ("local_signature", 0, "<I", 0x04034B51),
        ("local_method", 8, "<H", 8),
        ("local_name_length", 26, "<H", 60_000),
        ("local_extra", 28, "<H", 60_000),
    ):
        patched = bytearray(good)
        struct.pack_into(layout, patched, at, value)
        yield f"zip_{label}", bytes(patched)
    second = good.index(b"PK\x01\x02", entry + 1)
    yield "zip_overlap", good[: second + 42] + struct.pack("<I", 0) + good[second + 46 :]
    both = bytearray(good)
    struct.pack_into("<II", both, entry + 20, 1 << 30, 1 << 30)
    yield "zip_both_sizes", bytes(both)
    wide = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, 1 << 62, 1 << 62)
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 4, 4, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    yield "zip64_far", good[:end] + wide + struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1) + tail
    yield "zip64_at", good[:end] + wide + struct.pack("<4sIQI", b"PK\x06\x07", 0, 1 << 62, 1) + tail
    yield "zip64_signature", good[:end] + wide + struct.pack("<4sIQI", b"PK\x06\x07", 0, 0, 1) + tail


def _bad_streams(good: bytes) -> Iterator[tuple[str, bytes]]:
    yield "stream_version", streamed(good, protocol_version=1002)
    yield "stream_big_endian", streamed(good, little_endian=False)
    for label, keys in {
        "none": [],
        "other": ["1"],
        "twice": ["0", "0"],
        "more": ["0", "1"],
        "number": [0],
        "nested": [["0"]],
        "dict": {"0": 0},
        "text": "0",
        "null": None,
    }.items():
        yield f"stream_keys_{label}", streamed(good, keys=keys)
    for label, numel in {"negative": -4, "large": 1 << 60, "small": 3}.items():
        yield f"stream_elements_{label}", streamed(good, numel=numel)
    yield "stream_long", streamed(good, storage=WEIGHTS + b"x")
    yield "stream_short", streamed(good, storage=WEIGHTS[:-1])
    for label, (key, start, count) in {
        "beyond": ("v", 2, 3),
        "negative": ("v", -1, 2),
        "huge": ("v", 1 << 70, 1),
    }.items():
        view = several(text(key), number(start), number(count))
        yield f"stream_view_{label}", streamed(good, view=view)
    yield "stream_view_text", streamed(good, view=text("v"))
    yield "stream_view_missing", streamed(good, view=b"")
    module = several(text("module"), text("x"), text("y"), text("z")) + b"Q"
    yield "stream_module_text", streamed(checkpoint(module))


def _bad_safetensors() -> Iterator[tuple[str, bytes]]:
    def file(header: object, data: bytes = WEIGHTS, length: int | None = None) -> bytes:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(raw) if length is None else length) + raw + data

    def weight(**changes: object) -> dict[str, object]:
        return {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}

    yield "safetensors_empty", file({}, b"")
    yield "safetensors_length", file(weight(), length=1 << 60)
    yield "safetensors_short_length", file(weight(), length=20)
    yield "safetensors_json", file(b"{" * 10_000)
    yield "safetensors_deep", file(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)
    yield "safetensors_shape", file(weight(shape=[1 << 40, 1 << 40]))
    yield "safetensors_negative", file(weight(shape=[-2, -2]))
    yield "safetensors_offsets", file(weight(data_offsets=[0, 1 << 40]))
    yield "safetensors_reversed", file(weight(data_offsets=[16, 0]))
    yield "safetensors_dtype", file(weight(dtype="os.system"))
    yield "safetensors_trailing", file(weight(), WEIGHTS + b"more")
    yield "safetensors_overlap", file({**weight(), "v": weight()["w"]})
    yield "safetensors_nan", file(weight(), struct.pack("<4f", 1, 2, 3, float("nan")))


def bad_modules() -> Iterator[bytes]:
    """Pickled modules, to be read with inert records, that hold themselves or unfold to no end."""

    def module(children: bytes, parameters: bytes = b"}") -> bytes:
        state = b"}" + text("_modules") + children + b"s" + text("_parameters") + parameters + b"s"
        return name("torch.nn", "Module") + b")\x81q\x05" + state + b"b"

    weights = b"}" + text("w") + tensor() + b"s"
    start = b"\x80\x02"
    yield start + module(b"}" + text("self") + b"h\x05s", weights) + b"."
    twice = b"0}(" + text("a") + b"h\x05" + text("b") + b"h\x05uq\x060"
    yield start + module(b"}", weights) + (twice + module(b"h\x06")) * 40 + b"."
    chain = b"0}" + text("a") + b"h\x05sq\x060"
    yield start + module(b"}", weights) + (chain + module(b"h\x06")) * 100 + b"."
    yield start + module(b"}", b"}" + text("x" * 10_000) + tensor() + b"s") + b"."
    yield start + module(b"}" + b"K\x01" + module(b"}", weights) + b"s") + b"."
    clash = b"}" + text("a.w") + tensor() + b"s"
    yield start + module(b"}" + text("a") + module(b"}", weights) + b"s", clash) + b"."
    yield start + module(b"}") + b"0" + module(b"}") + b"}b."


def write_hostile(folder: Path) -> list[Path]:
    """Write every file that must be refused, and return their paths."""
    files = dict(bad_containers())
    for index, (module, qualified, args) in enumerate(FORBIDDEN):
        label = f"{index}_{module[:30]}.{qualified[:30]}".replace("\0", "0").replace("/", "_")
        for way, value in ways_to_name(module, qualified, args):
            # Under a key whose content is dropped: what is not wanted must be confined all the same.
            files[f"name_{label}_{way}"] = zipped(checkpoint(value, key="optimizer_states"))
        reduce = name(module, qualified) + several(*args) + b"R"
        files[f"name_{label}_stream"] = streamed(checkpoint(reduce))
        files[f"name_{label}_bare"] = b"\x80\x02" + reduce + b"."
        files[f"name_{label}_frame"] = zipped(b"\x80\x04\x95" + struct.pack("<Q", 9) + reduce + b".")
    for label, value in bad_values():
        files[f"value_{label}"] = zipped(checkpoint(value))
        files[f"value_{label}_stream"] = streamed(checkpoint(value))
    for label, value in bad_weights():
        files[f"weight_{label}"] = zipped(checkpoint(weight=value))
        files[f"weight_{label}_stream"] = streamed(checkpoint(weight=value))
    many = b"".join(text(f"w{i}") + tensor(size=sizes(1 << 20), stride=sizes(0)) for i in range(200))
    files["weight_amplified"] = zipped(b"\x80\x02}(" + many + b"u.")
    return [_written(folder / label, content) for label, content in files.items()]


def write_truncated(folder: Path, whole: dict[str, bytes]) -> list[Path]:
    """Write each file cut at every byte."""
    return [_written(folder / f"{kind}_{at}", raw[:at]) for kind, raw in whole.items() for at in range(len(raw))]


def write_flipped(folder: Path, whole: dict[str, bytes], count: int, seed: int) -> list[Path]:
    """Write `count` files with some bytes changed, of each whole file and of a pickle whose checksum is made to fit."""
    chance, paths = random.Random(seed), []
    kinds = [*whole, "pickle"]
    for index in range(count):
        kind = kinds[index % len(kinds)]
        raw = bytearray(checkpoint(PLENTY) if kind == "pickle" else whole[kind])
        for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
            at = chance.randrange(len(raw))
            change = chance.random()
            if change < 0.7:
                opcode = chance.choice(b"R()tcqhQb.\xff\0")
                raw[at] = chance.choice((chance.randrange(256), raw[at] ^ 1 << chance.randrange(8), opcode))
            elif change < 0.85:
                del raw[at]
            else:
                raw[at:at] = chance.randbytes(chance.randrange(1, 9))
        content = zipped(bytes(raw)) if kind == "pickle" else bytes(raw)
        paths.append(_written(folder / f"{index}_{kind}", content))
    return paths


PLENTY = (
    b"]("
    + b"".join(
        (
            number(70_000),
            b"G" + struct.pack(">d", 0.5),
            b"M\x01\x02J\xff\xff\xff\xff\x88C\x02ab\x8c\x01z",
            b"\x8f(K\x01\x90",
            tensor(),
            name("argparse", "Namespace") + b")\x81}" + text("a") + b"K\x01sb",
            call(
                "numpy.core.multiarray",
                "scalar",
                call("numpy", "dtype", text("f8"), b"\x89", b"\x88"),
                b"C\x08" + bytes(8),
            ),
            call("torch", "Size", sizes(2, 3)),
            call("pathlib", "PosixPath", text("/"), text("a")),
        )
    )
    + b"e"
)
"""A list with a value of most kinds."""


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# The watched child


class Watch:
    """Notes every audit event while a file is being read, but for the opening of that very file."""

    def __init__(self) -> None:
        self.file: str | None = None
        self.events: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if self.file is None or (event == "open" and str(args[0]) == self.file):
            return
        self.events.append(f"{event} {args[:1]!r}"[:200])
        if event.startswith(("os.", "subprocess.", "socket.", "import", "exec", "pty.", "webbrowser.")):
            raise PermissionError(f"the watch stops {event}")

    def read(self, path: str, read: object) -> dict[str, object]:
        """Return what became of one file: outcome, message, seconds and events."""
        self.events, self.file, begin = [], path, time.process_time()  # other processes may take the machine
        try:
            read(path)  # type: ignore[operator]
            outcome, message, cause = "read", "", None
        except Exception as error:
            outcome, message, cause = type(error).__name__, str(error), error.__cause__
        finally:
            seconds, self.file = time.process_time() - begin, None
        forms = {
            "file": Path(path).name,
            "outcome": outcome,
            "message": message,
            "seconds": seconds,
            "events": self.events,
        }
        return {**forms, "unforeseen": repr(cause) if cause else None, "resident_mib": _resident_mib()}


def _resident_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _limit_memory(more: int) -> None:
    """Let an allocation fail that trusts a number in a file, instead of filling the machine."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(mode: str, listed: str) -> None:
    """Read the files that a JSON list names and print one JSON line for each; the first ones only warm up."""
    from snn_perception.foreign import read_foreign

    plan = json.loads(Path(listed).read_text())

    def through_pickle(path: str) -> object:
        with open(path, "rb") as file:
            return pickle.load(file)

    for path in plan["warm_up"]:
        read_foreign(path)
    watch = Watch()
    _limit_memory(1 << 30)
    print(json.dumps({"resident_mib": _resident_mib()}))
    for path in plan["files"]:
        print(json.dumps(watch.read(path, through_pickle if mode == "control" else read_foreign)))


if __name__ == "__main__":
    main(*sys.argv[1:])
