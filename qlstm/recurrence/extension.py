"""The C++ extension of :mod:`qlstm.recurrence.cpu`: compiled on first use, and kept.

With the machine's C++ compiler (``$CXX``, c++, g++ or clang++) and, after its own flags, those of
``$QLSTM_CXXFLAGS`` (``-mno-avx512f`` tries an older processor); in ``$XDG_CACHE_HOME/qlstm``, for
this source and processor. Where it cannot be kept each process compiles it. It takes a C ``long``
for an int64, so there is none on Windows.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path

from qlstm.recurrence import cache
from qlstm.recurrence.obstacles import Fault

SOURCE, HEADER = (Path(__file__).with_name(name) for name in ("cpu.cpp", "codes.h"))
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-fPIC",
         "-shared"]
SECONDS = 60
"""That a compiler may take; some 4 are usual."""
CPUINFO = Path("/proc/cpuinfo")
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long
FUNCTIONS = {
    **{f"{direction}_{dtype}": [_POINTER, _LONG]
       for direction in ("forward", "backward") for dtype in ("float32", "float64")},
    "forward_codes": [_POINTER, _LONG, _POINTER],
    "backward_codes": [_POINTER, _LONG, _POINTER, _POINTER],
    "multiply_codes": [_POINTER, _POINTER, _LONG, _POINTER, _LONG],
    "pick_codes": [_POINTER, _POINTER, _LONG, _POINTER],
    "find_codes": [_POINTER, _LONG, _LONG, _POINTER, _POINTER],
    "transpose_codes": [_POINTER, _POINTER], "instructions": []}
"""The types of the arguments of what it exports."""
_FEATURES = {"model name", "flags", "Features", "CPU implementer", "CPU variant", "CPU part", "cpu",
             "features", "isa", "uarch"}
"""Its lines on what the processor is and can do, for x86, ARM, Power, s390 and RISC-V."""
_OPTIONAL = {"-fopenmp": ("openmp", "gomp", "lomp", "iomp"), "-march=native": ("march", "native")}
"""What the extension can do without, and the words of compilers that cannot do it."""


@functools.cache
def library() -> ctypes.CDLL | Fault:
    """The extension, or why there is none."""
    if ctypes.sizeof(_LONG) < 8:
        return Fault("the C++ extension is not made for this system, where a C long has 32 bits")
    try:
        described = "\n".join([*(path.read_text(encoding="utf-8") for path in (SOURCE, HEADER)),
                               *_flags(), os.environ.get("CXX", ""), platform.platform(),
                               processor()])
        stem = f"recurrence-{_digest(described.encode())}"
        found = _kept(stem) or _built(stem)
        return found if isinstance(found, Fault) else _declared(found)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"it ended with status {error.returncode}"]
        said = next((line for line in lines if "error" in line), lines[0])[:300]
        return Fault(f"{error.cmd[0]} cannot compile {SOURCE.name}: {said}")
    except subprocess.TimeoutExpired as error:
        return Fault(f"{error.cmd[0]} has not compiled {SOURCE.name} in {SECONDS} seconds")
    except OSError as error:
        return Fault(f"the C++ extension cannot be built or loaded: {error}")


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    for name, types in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = types, None
    loaded.find_codes.restype, loaded.instructions.restype = ctypes.c_long, ctypes.c_char_p
    return loaded


def _flags() -> list[str]:
    return [*FLAGS, *shlex.split(os.environ.get("QLSTM_CXXFLAGS", ""))]


def instructions() -> str:
    """What multiplies with codes on this machine: "AVX-512", "AVX2", "plain C++", or why nothing
    does."""
    found = library()
    return found if isinstance(found, Fault) else found.instructions().decode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _kept(stem: str) -> ctypes.CDLL | None:
    """What a process has compiled before. The name has a digest of the content: part of a library
    would end this process with a bus error."""
    with contextlib.suppress(OSError):
        for path in cache.folder().glob(f"{stem}-*.so"):
            with contextlib.suppress(OSError):
                if path.stem == f"{stem}-{_digest(path.read_bytes())}":
                    return ctypes.CDLL(str(path))
    return None


def _built(stem: str) -> ctypes.CDLL | Fault:
    compiler = next(
        filter(None, map(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"])), None)
    if compiler is None:
        return Fault("there is no C++ compiler (c++, g++, clang++ or $CXX)")
    with tempfile.TemporaryDirectory(prefix="qlstm-", ignore_cleanup_errors=True) as folder:
        built = Path(folder) / "recurrence.so"
        _compile(compiler, built)
        try:
            kept = cache.folder() / f"{stem}-{_digest(built.read_bytes())}.so"
            with cache.replacing(kept) as path:
                shutil.copyfile(built, path)
            return ctypes.CDLL(str(kept))
        except OSError as error:
            loaded = ctypes.CDLL(str(built))
            warnings.warn(f"the C++ extension is compiled anew by each process: {error}",
                          RuntimeWarning, stacklevel=2)
            return loaded


def _compile(compiler: str, target: Path):
    """With threads where the compiler has OpenMP, and for this processor where it knows it (older
    ones of Apple do not)."""
    flags = [*_flags(), "-fopenmp"]
    while True:
        try:
            return _run([compiler, *flags, str(SOURCE), "-o", str(target)])
        except subprocess.CalledProcessError as error:
            refused = next((flag for flag, words in _OPTIONAL.items() if flag in flags
                            and any(word in error.stderr for word in words)), None)
            if refused is None:
                raise
        flags.remove(refused)
        if refused == "-march=native":
            warnings.warn("the C++ extension is compiled for any processor of this kind, as "
                          f"{compiler} refuses -march=native", RuntimeWarning, stacklevel=2)


def _run(command: list[str]):
    """Raises ``CalledProcessError`` with the compiler's words, or ``TimeoutExpired``; then nothing
    that it has started is left."""
    with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            encoding="utf-8", errors="replace", start_new_session=True) as process:
        try:
            _, said = process.communicate(timeout=SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


def processor() -> str:
    """The processor's name and what it can do: what -march=native depends on, and the last bits of
    a sum. Where no file says it, the machine's name."""
    with contextlib.suppress(OSError):
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        found = {line for line in lines if line.partition(":")[0].strip() in _FEATURES}
        if found:
            return "\n".join(sorted(found))
    return f"{platform.processor()} of {platform.node()}"
