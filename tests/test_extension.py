"""The compiled extension: kept whole and for this processor only, else compiled anew or left out,
which is said. The compilers are scripts that copy what was compiled before."""

import ctypes
import os
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from qlstm import ConfigError, QuantLSTM
from qlstm.recurrence import extension
from qlstm.recurrence.obstacles import Fault

LIBRARY = extension.library()
pytestmark = pytest.mark.skipif(
    isinstance(LIBRARY, Fault) or not Path(LIBRARY._name).exists(),
    reason="no extension was compiled and kept")
COPY = 'while [ "$1" != -o ]; do shift; done; cp "$LIBRARY" "$2"'


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """The folder for what is kept, empty, and a process that has loaded nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LIBRARY", LIBRARY._name)
    monkeypatch.setenv("COMPILED", str(tmp_path / "compiled"))
    extension.library.cache_clear()
    yield tmp_path / "cache" / "qlstm"
    extension.library.cache_clear()


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Takes a script's text: the compiler from then on. Returns how often it was called."""
    def install(text=COPY):
        path = tmp_path / "bin" / "c++"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$*" >> "$COMPILED"\n{text}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
        log = tmp_path / "compiled"
        return lambda: len(log.read_text().splitlines()) if log.exists() else 0

    monkeypatch.delenv("CXX", raising=False)
    return install


def another_process():
    """What it loads: the bytes, or why it does not."""
    extension.library.cache_clear()
    found = extension.library()
    return found if isinstance(found, Fault) else Path(found._name).read_bytes()


def test_compiled_once_and_again_after_a_change(compiler, kept, monkeypatch):
    calls, expected = compiler(), Path(LIBRARY._name).read_bytes()
    assert another_process() == another_process() == expected
    assert calls() == 1
    monkeypatch.setattr(extension, "FLAGS", [*extension.FLAGS, "-DANOTHER"])
    assert another_process() == expected
    assert calls() == 2
    assert [path.suffix for path in kept.iterdir()] == [".so", ".so"]


DAMAGE = {"half": lambda content: content[: len(content) // 2], "empty": lambda content: b"",
          "a bit": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
          "longer": lambda content: content + b"\0"}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_not_loaded_but_compiled_anew(compiler, kept, monkeypatch, damage):
    calls, expected = compiler(), another_process()
    (path,) = kept.iterdir()
    path.unlink()  # this process has loaded it
    path.write_bytes(DAMAGE[damage](expected))
    load = extension.ctypes.CDLL

    def whole(name):
        assert Path(name).read_bytes() == expected, "this would be a bus error"
        return load(name)

    monkeypatch.setattr(extension.ctypes, "CDLL", whole)
    assert another_process() == expected
    assert calls() == 2
    assert path.read_bytes() == expected


def test_a_folder_in_its_place_is_no_library(compiler, kept):
    compiler()
    another_process()
    (path,) = kept.iterdir()
    path.unlink()
    path.mkdir()
    extension.library.cache_clear()
    with pytest.warns(RuntimeWarning, match="compiled anew by each process: .*directory"):
        assert not isinstance(extension.library(), Fault)


CPUS = {
    "x86": "model name\t: AMD EPYC\nflags\t\t: sse avx2\ncpu MHz\t\t: 2000\n",
    "x86 with more": "model name\t: AMD EPYC\nflags\t\t: sse avx2 avx512f\ncpu MHz\t\t: 2000\n",
    "ARM": "BogoMIPS\t: 50\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n",
    "ARM with more": "BogoMIPS\t: 50\nFeatures\t: fp asimd sve\nCPU part\t: 0xd40\n",
    "Power": "cpu\t\t: POWER9\nclock\t\t: 2000MHz\n", "RISC-V": "isa\t: rv64imafdcv\n",
    "named in Latin-1": "model name\t: Ger\xe4t\n"}


def test_processors_that_share_a_home_have_a_file_each(compiler, kept, monkeypatch, tmp_path):
    calls = compiler()
    for count, text in enumerate(CPUS.values(), 1):
        monkeypatch.setattr(extension, "CPUINFO", tmp_path / "cpuinfo")
        extension.CPUINFO.write_text(text, encoding="latin-1")
        another_process()
        extension.CPUINFO.write_text(text.replace("MHz\t\t: 2000", "MHz\t\t: 1800"),
                                     encoding="latin-1")
        another_process()
        assert calls() == len(list(kept.iterdir())) == count
    monkeypatch.setattr(extension, "CPUINFO", tmp_path / "none")
    for node in ("one machine", "another"):
        monkeypatch.setattr(extension.platform, "node", lambda node=node: node)
        another_process()
    assert calls() == len(CPUS) + 2


def test_a_machine_without_a_compiler_loads_what_another_has_compiled(compiler, monkeypatch):
    compiler()
    expected = another_process()
    monkeypatch.setenv("PATH", "")
    assert another_process() == expected


REFUSED = {
    "exit 1": "cannot compile cpu.cpp: it ended with status 1",
    "printf 'In file\\ncpu.cpp:1: error: d\\351faut\\n' >&2; exit 1": "cpu.cpp:1: error: d.faut",
    "kill -9 $$": "cannot compile cpu.cpp: it ended with status -9",
    "exit 0": "cannot be built or loaded: .*No such file",
    COPY.replace('cp "$LIBRARY"', "echo junk >"): "cannot be built or loaded",
    "cat": "cannot be built or loaded: .*No such file",
    None: r"there is no C\+\+ compiler"}


@pytest.mark.parametrize("script", REFUSED)
def test_without_a_library_naive_runs_and_it_is_said_once(compiler, monkeypatch, script):
    if script is None:
        monkeypatch.setenv("PATH", "")
    else:
        calls = compiler(script)
    layer, x = QuantLSTM(3, 4), torch.zeros(2, 2, 3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            layer(x)
    assert len(said) == 1
    assert re.fullmatch(
        f"backend 'cpu' is not used: .*{REFUSED[script]}.*; another backend takes its place",
        str(said[0].message))
    assert layer.backend_used == "naive"
    assert script is None or calls() == 1
    layer.backend = "cpu"
    with pytest.raises(ConfigError, match=REFUSED[script]):
        layer(x)


def test_a_compiler_that_hangs_is_ended_with_what_it_has_started(compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(extension, "SECONDS", 0.3)
    compiler(f"sleep 60 & echo $! > {tmp_path}/child; wait")
    assert "has not compiled cpu.cpp in 0.3 seconds" in another_process()
    state = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    for _ in range(50):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it goes on")


def test_a_compiler_without_openmp_compiles_without(compiler):
    calls = compiler(f"""case "$*" in *-fopenmp*)
        echo "error: unsupported option '-fopenmp'" >&2; exit 1;; esac; {COPY}""")
    assert another_process() == Path(LIBRARY._name).read_bytes()
    assert calls() == 2


APPLE = "clang: error: the clang compiler does not support '-march=native'"


@pytest.mark.parametrize("openmp", [True, False])
def test_a_compiler_that_does_not_know_the_processor_compiles_for_all(
        compiler, tmp_path, openmp):
    calls = compiler(f"""case "$*" in *-march=native*) echo "{APPLE}" >&2; exit 1;;
        *-fopenmp*) {"" if openmp else "echo unsupported -fopenmp >&2; exit 1"};; esac; {COPY}""")
    with pytest.warns(RuntimeWarning, match="compiled for any processor .*c[+][+] refuses") as said:
        assert another_process() == Path(LIBRARY._name).read_bytes()
    assert len(said) == 1
    assert calls() == (2 if openmp else 3)
    assert another_process() == Path(LIBRARY._name).read_bytes()  # and nothing more is said
    compiled = (tmp_path / "compiled").read_text().splitlines()
    assert len(compiled) == calls()
    assert ("-fopenmp" in compiled[-1], "-march" in compiled[-1]) == (openmp, False)


def test_what_it_refuses_for_good_is_said(compiler):
    calls = compiler(f"echo \"{APPLE}\" >&2; exit 1")
    with pytest.warns(RuntimeWarning, match="compiled for any processor"):
        assert APPLE in another_process()
    assert calls() == 2


def test_there_is_none_where_a_long_is_too_short_for_an_int64(compiler, monkeypatch):
    calls = compiler()
    monkeypatch.setattr(extension, "_LONG", ctypes.c_int32)
    assert "a C long has 32 bits" in another_process()
    assert calls() == 0


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_where_nothing_can_be_kept_each_process_compiles(compiler, monkeypatch, tmp_path, place):
    calls = compiler()
    if place == "a file":
        (tmp_path / "cache").touch()
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: Path("~nobody-here").expanduser())
    for count in (1, 2):
        extension.library.cache_clear()
        with pytest.warns(RuntimeWarning, match="extension is compiled anew by each process: "):
            assert not isinstance(extension.library(), Fault)
        assert calls() == count
    layer = QuantLSTM(3, 4)
    layer(torch.zeros(2, 2, 3))
    assert layer.backend_used == "cpu"


def test_processes_that_compile_at_once_leave_one_whole_file(compiler, kept):
    calls = compiler(f"sleep 0.2; {COPY}")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: extension._built("recurrence-same"), range(4)))
    assert calls() == 4
    assert not any(isinstance(library, Fault) for library in found)
    (path,) = kept.iterdir()
    assert path.read_bytes() == Path(LIBRARY._name).read_bytes()
    assert os.listdir(kept) == [path.name]
