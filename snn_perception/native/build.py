"""Compiles the kernels. It needs the standard library alone, so that setup.py can run this file before installation.

Nothing is compiled for the machine at hand alone: the library holds the kernels for each instruction set and chooses
when it is loaded, so that it may be built on another machine of the same architecture. Its name holds a digest of the
source: a library of another version is never loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "source"
VARIABLE, OFF = "SNN_PERCEPTION_NATIVE", "off"  # a folder to build in and load from, or "off"
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_S = 600

# No exceptions, run-time types or C++ library: the result needs the C library alone. No contraction: a neuron's step
# rounds as its formula on tensors does.
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=off", "-fno-math-errno"),
)
_AVX2 = ("-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mpopcnt")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
# Name of an instruction set -> flags, for the processors that `entry.cpp` knows more than one for.
ISAS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"avx512vnni": (*_AVX512, "-mavx512vnni"), "avx512": _AVX512, "avx2": _AVX2, "plain": ()}
}
ISAS["AMD64"] = ISAS["x86_64"]


class BuildError(Exception):
    """The kernels cannot be compiled here; everything else works without them."""


@cache
def library_name() -> str:
    """Return the file name of the library for this version of the source and this kind of processor."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        if path.suffix in (".cpp", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update(repr((FLAGS, ISAS)).encode())
    return f"kernels-{platform.machine()}-{digest.hexdigest()[:12]}.so"


def folders() -> list[Path]:
    """Return where a library may lie, first choice first: what `VARIABLE` names, or this package and the user's cache.

    The second is for an installation that the user may not write to.
    """
    named = os.environ.get(VARIABLE)
    if named and named != OFF:
        return [Path(named)]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [HERE, Path(cache).expanduser() / "snn_perception"]


def compiler() -> list[str]:
    """Return the command of the C++ compiler: that of the variable CXX, or the first that is found.

    Raises:
        BuildError: if there is none.
    """
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in [asked] if asked else [[name] for name in COMPILERS]:
        if shutil.which(command[0]):
            return command
    tried = asked[0] if asked else ", ".join(COMPILERS)
    raise BuildError(f"no C++ compiler found (tried {tried}): install g++, or set CXX")


def build(folder: Path | None = None, *, again: bool = False) -> Path:
    """Compile the kernels into a folder, by default the first of `folders` that can be written; return the library.

    One that is there already stays, unless `again`; one beside the source is copied. It appears under its name when
    it is complete; libraries of older versions beside it are removed.

    Raises:
        BuildError: without a compiler or a folder to write to, or if the compiler fails.
    """
    target = _writable(folders() if folder is None else [folder]) / library_name()
    if target.is_file() and not again:
        return target
    if (HERE / target.name).is_file() and not again:
        _put_in_place(HERE / target.name, target)
        return target
    command = compiler()
    with tempfile.TemporaryDirectory(prefix="snn_perception_") as scratch:
        made = _compile(command, Path(scratch))
        _put_in_place(made, target)
    return target


def _writable(choices: list[Path]) -> Path:
    for folder in choices:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise BuildError(f"no folder to build in can be written ({', '.join(map(str, choices))}): set {VARIABLE} to one")


def _compile(command: list[str], scratch: Path) -> Path:
    """Return the library, made in a folder of its own."""
    units: list[tuple[str, Path, tuple[str, ...]]] = [("entry", SOURCE / "entry.cpp", ())]
    for isa, flags in ISAS.get(platform.machine(), {"plain": ()}).items():
        units.append((isa, SOURCE / "kernels.cpp", (f"-DISA={isa}", *flags)))

    def compile_unit(unit: tuple[str, Path, tuple[str, ...]]) -> str:
        name, source, flags = unit
        made = str(scratch / f"{name}.o")
        _run([*command, *FLAGS, *flags, "-c", str(source), "-o", made])
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_unit, units))
    library = scratch / "kernels.so"
    _run([*command, "-shared", "-fPIC", *objects, "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if result.returncode:
        first = next((line for line in result.stderr.splitlines() if "error" in line.lower()), result.stderr.strip())
        raise BuildError(f"'{shlex.join(command)}' failed: {first[:300]}")


def _put_in_place(made: Path, target: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=".kernels.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        shutil.copyfile(made, temporary)
        temporary.chmod(0o755)
        temporary.replace(target)  # a process that has the older file loaded keeps it
        for other in target.parent.glob(f"kernels-{platform.machine()}-*.so"):
            if other != target:
                other.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Build, and say where; return the exit status."""
    parser = argparse.ArgumentParser("python -m snn_perception.native", description="Compile the native kernels.")
    parser.add_argument("--if-needed", action="store_true", help="do nothing where they are there")
    arguments = parser.parse_args(argv)
    try:
        print(build(again=not arguments.if_needed))  # noqa: T201  (a command)
    except BuildError as error:
        print(f"native kernels not built: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
