"""The CUDA kernels compiled for the CPU, one fiber per thread, to run where there is no GPU.

`load()` builds them with the C++ compiler; `kexue_native._backends.cuda_on_host` takes the result.
"""

import ctypes
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FLAGS = ["-std=c++17", "-Og", "-fPIC", "-ffp-contract=fast", "-DKX_ISA=cuda"]
DEFAULTS = {"threads": 256, "blocks": 2**31 - 1, "chunk": 8192, "chunk_across": 256}


class _Argument(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("dims", ctypes.c_int),
        ("number", ctypes.c_double),
        ("data", ctypes.c_void_p),
        ("shape", ctypes.POINTER(ctypes.c_longlong)),
        ("strides", ctypes.POINTER(ctypes.c_longlong)),
        ("type", ctypes.c_char * 8),
    ]


_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_longlong)


def _compiler():
    """Command of the C++ compiler, or None."""
    for command in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    return None


def _flags():
    """As on a GPU, a * b + c is one operation where this machine has it."""
    try:
        fused = " fma " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        fused = False
    extra = shlex.split(os.environ.get("KEXUE_CUDA_HOST_FLAGS", ""))
    return [*FLAGS, *(["-mfma"] if fused else []), *extra]


def missing():
    """Why the kernels cannot be built here, or None."""
    if not (ROOT / "cpp" / "src" / "cuda" / "reductions.cu").is_file():
        return "the C++ sources are not beside the tests"
    if platform.system() == "Windows":
        return "there are no fibers of this kind on Windows"
    if _compiler() is None:
        return "no C++ compiler was found"
    return None


def _folder():
    cache_folder = ROOT / ".cache" / "cuda_host"
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        if os.access(cache_folder, os.W_OK):
            return cache_folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="cuda_host_"))


@contextmanager
def _alone_in(folder):
    """One process at a time builds: the others find its work done."""
    import fcntl  # not on Windows

    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the CUDA kernels do not compile:\n{done.stderr[-4000:]}")


@cache
def build():
    """Path of the library; what a changed source, header or flag concerns is compiled anew."""
    compiler, flags, folder = _compiler(), _flags(), _folder()
    sources = [*sorted((ROOT / "cpp" / "src" / "cuda").glob("*.cu")), HERE / "kernels.cpp"]
    common = hashlib.sha256(" ".join([*compiler, *flags]).encode())
    for path in sorted([*(ROOT / "cpp").rglob("*.h"), HERE / "cuda.h"]):
        common.update(path.read_bytes())

    def compiled(source):
        digest = common.copy()
        digest.update(source.read_bytes())
        to = folder / f"{source.stem}-{digest.hexdigest()[:20]}.o"
        if not to.exists():
            new = to.with_suffix(".new")
            include = "-include", HERE / "cuda.h", "-I", ROOT / "cpp" / "include", "-I", ROOT
            _run(*compiler, *flags, *include, "-c", "-x", "c++", source, "-o", new)
            os.replace(new, to)
        return to

    with _alone_in(folder):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, sources))
        digest = hashlib.sha256(" ".join(path.name for path in objects).encode())
        library = folder / f"{digest.hexdigest()[:20]}.so"
        if not library.exists():
            _run(*compiler, *flags, "-shared", *objects, "-o", library)
            for kind, kept in ((".so", 4), (".o", 4 * len(objects))):
                found = [path for path in folder.iterdir() if path.suffix == kind]
                found.sort(key=lambda path: path.stat().st_mtime)
                for old in found[:-kept]:
                    old.unlink(missing_ok=True)
    return library


class Part:
    """Kernels by name: kernel(allocate, stream, dtype, *arguments), as the CUDA module has them."""

    def __init__(self, library, number, names):
        self._library = library
        self._number = number
        self._names = names

    def __dir__(self):
        return sorted(self._names)

    def __getattr__(self, name):
        if name not in self._names:
            raise AttributeError(name)

        def kernel(allocate, stream, dtype, *arguments):
            failed = []

            @_ALLOCATE
            def allocate_memory(nbytes):
                try:
                    return allocate(nbytes)
                except Exception as error:
                    failed.append(error)
                    return None

            message = ctypes.create_string_buffer(200)
            packed = (_Argument * len(arguments))(*map(_argument, arguments))
            status = self._library.kx_call(
                self._number,
                name.encode(),
                len(arguments),
                packed,
                allocate_memory,
                message,
                len(message),
            )
            if failed:
                raise failed[0]
            if status:
                raise RuntimeError(f"{name}: {message.value.decode()}")

        return kernel


def _argument(value):
    if value is None:
        return _Argument(kind=0)
    if isinstance(value, (bool, int, float)):
        return _Argument(kind=1, number=value)
    data, shape, strides, letter = value
    sizes = ctypes.c_longlong * max(len(shape), 1)
    return _Argument(
        kind=2,
        dims=len(shape),
        data=data,
        shape=sizes(*shape),
        strides=sizes(*strides),
        type=letter.encode(),
    )


class Kernels:
    """The stand-in for the module `_cuda`."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        self._library.kx_part.restype = self._library.kx_kernel.restype = ctypes.c_char_p
        for number in itertools.count():
            part = self._library.kx_part(number)
            if part is None:
                break
            names = map(partial(self._library.kx_kernel, number), itertools.count())
            names = {name.decode() for name in itertools.takewhile(bool, names)}
            setattr(self, part.decode(), Part(self._library, number, names))

    @contextmanager
    def limits(self, *, warp_by_warp=False, **limits):
        """Other limits of a launch, and threads that take turns in another order (see cuda.h)."""
        values = {**DEFAULTS, **limits}
        self._set(values, warp_by_warp)
        try:
            yield
        finally:
            self._set(DEFAULTS, False)

    def _set(self, values, warp_by_warp):
        threads = values["threads"]
        others = [ctypes.c_longlong(values[name]) for name in ("blocks", "chunk", "chunk_across")]
        self._library.kx_limits(threads, *others)
        self._library.kx_warp_by_warp(int(warp_by_warp))


@cache
def kernels():
    return Kernels(build())


def load():
    """The kernels, or a skip with the reason."""
    import pytest

    reason = missing()
    if reason:
        pytest.skip(f"the CUDA kernels cannot run on the host: {reason}")
    return kernels()
