"""Which implementation runs: the NumPy reference, a level of the CPU core, or CUDA."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from operator import index
from types import ModuleType
from typing import Any

import numpy as np

from ._arrays import Call
from ._version import __version__

LEVELS = ("base", "v2", "v3", "v4")
NAMES = ("reference", "cpu", *(f"cpu:{level}" for level in LEVELS), "cuda")

cuda_on_host: Any = None
"""When set, "cuda" runs this module's kernels on NumPy arrays: tests run CUDA on the CPU."""

_current: ContextVar[str | None] = ContextVar(
    "kexue_native_backend", default=os.environ.get("KEXUE_BACKEND") or None
)
_chosen: dict[tuple[str, str | None, ModuleType], Any] = {}


def build_reason(part: str) -> str:
    """Why the build left a part out, in CMake's words."""
    try:
        from ._build_info import BUILD  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return "this is a source tree without a build"
    return str(BUILD[f"{part}_reason"] or "it was built, but its file is missing")


def _load_core() -> tuple[Any, str]:
    """The compiled CPU core, or None and the reason in words."""
    try:
        return import_module("kexue_native._core"), ""
    except ModuleNotFoundError as error:
        if error.name == "kexue_native._core":
            return None, f"the CPU core was not built: {build_reason('native')}"
        reason = str(error)
    except ImportError as error:
        reason = str(error)
    message = f"the CPU core does not load: {reason}"
    warnings.warn(f"kexue_native: {message}; the NumPy reference is used", stacklevel=3)
    return None, message


core, core_reason = _load_core()


def levels() -> tuple[str, ...]:
    """Levels that are built and that this CPU has, best last."""
    if core is None:
        return ()
    usable = set(core.levels()) & set(core.supported())
    return tuple(level for level in LEVELS if level in usable)


def refusal(name: str, xp: Any = None, caller: str = "use_backend") -> str | None:
    """Why backend `name` cannot be used (for arrays of `xp`), or None if it can."""
    from . import _device

    if name not in NAMES:
        raise ValueError(f"{caller}: backend must be one of {', '.join(NAMES)}, got {name!r}")
    on_host = xp is None or xp is np
    if name == "reference":
        return None
    if name == "cuda":
        if cuda_on_host is not None and on_host:
            return None
        if xp is np:
            return "it takes CuPy arrays, and these are NumPy arrays"
        reason = _device.load()[1]
        if not reason and xp is None and not cupy_state()[0]:
            reason = cupy_state()[1]
        return reason or None
    if not on_host:
        return "it takes NumPy arrays, and these are CuPy arrays"
    if core is None:
        return core_reason
    if not levels():
        return "this CPU has none of the levels that were built"
    level = name.partition(":")[2]
    if not level or level in levels():
        return None
    if level in core.levels():
        return f"this CPU has no level {level}"
    return f"level {level} was not built"


def choose(part: str, call: Call, backend: str | None = None) -> Any:
    """The module whose kernels run `call`: as named, else the best for where the arrays are.

    `part` is the package of the public function, "special.reductions" for instance.
    """
    if backend is None:
        backend = _current.get()
    try:
        return _chosen[part, backend, call.xp]
    except (KeyError, TypeError):
        return _resolve(part, call, backend)


def current() -> str | None:
    """The backend that `use_backend` or KEXUE_BACKEND asks for."""
    return _current.get()


def usable(caller: str, xp: Any, backend: str | None) -> str:
    """The backend as named, else the best for arrays of `xp`; raises if it cannot be used."""
    if backend is None:
        best = "cpu" if xp is np else "cuda"
        return "reference" if refusal(best, xp) else best
    if not isinstance(backend, str):
        raise TypeError(f"{caller}: backend must be a name or None, got {type(backend).__name__}")
    reason = refusal(backend, xp, caller)
    if reason:
        raise RuntimeError(f"{caller}: backend {backend!r} cannot be used: {reason}")
    return backend


def _resolve(part: str, call: Call, backend: str | None) -> Any:
    name = usable(call.name, call.xp, backend)
    if name.startswith("cpu"):
        level = name.partition(":")[2] or levels()[-1]
        module = getattr(getattr(core, level), part.rpartition(".")[2])
    else:
        module = import_module(f"kexue_native.{part}.{name}")
    if name != "cuda" or call.xp is not np:  # the test hook can be taken away again
        _chosen[part, backend, call.xp] = module
    return module


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use backend `name` within a ``with`` block or a decorated function.

    Parameters
    ----------
    name : str
        "reference", "cpu" (its best level), "cpu:v2", "cpu:v3", "cpu:v4", "cpu:base" or "cuda".

    Raises
    ------
    ValueError
        Unknown name.
    RuntimeError
        The backend is not there; the message says why.

    Examples
    --------
    >>> import kexue_native as kn
    >>> with kn.use_backend("reference"):
    ...     float(kn.logsumexp([0.0, 0.0]))
    0.6931471805599453
    """
    reason = refusal(name)
    if reason:
        raise RuntimeError(f"use_backend: backend {name!r} cannot be used: {reason}")
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


def get_num_threads() -> int:
    """Number of threads that CPU kernels use at most; 1 without the compiled core.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.get_num_threads() >= 1
    True
    """
    return 1 if core is None else int(core.get_num_threads())


def set_num_threads(n: int) -> None:
    """Set the number of threads that CPU kernels use at most. Results do not depend on it.

    Parameters
    ----------
    n : int
        At least 1. Without the compiled core it has no effect.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.set_num_threads(kn.get_num_threads())
    """
    try:
        count = index(n)
    except TypeError:
        raise TypeError(f"set_num_threads: n must be an int, got {type(n).__name__}") from None
    if not 1 <= count <= 2**15:
        raise ValueError(f"set_num_threads: n must be in [1, {2**15}], got {count}")
    if core is not None:
        core.set_num_threads(count)


class Configuration(dict[str, Any]):
    """What `show_config` reports: a dict that prints as one line per entry."""

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{key:<{width}}  {value}" for key, value in self.items())

    __str__ = __repr__


def show_config() -> Configuration:
    """Versions, backends, levels and threads; for everything missing, the reason.

    Returns
    -------
    Configuration
        A dict of text and numbers that prints as a table.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.show_config()["kexue_native"] == kn.__version__
    True
    """
    import platform

    from . import _device

    usable = levels()
    cuda_reason = _device.load()[1]
    return Configuration(
        {
            "kexue_native": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": f"{platform.system()} {platform.machine()}",
            "cpu core": core_reason or f"version {core.version}, {core.compiler}",
            "cpu levels built": ", ".join(core.levels()) if core else "none",
            "cpu levels of this machine": ", ".join(core.supported()) if core else "not known",
            "cpu level in use": usable[-1] if usable else "none: the NumPy reference is used",
            "threads": get_num_threads(),
            "backend chosen": _current.get() or "none: the best for where the arrays are",
            "cuda module": cuda_reason or "built",
            "cupy": cupy_state()[1],
            "bfloat16": _package_state("ml_dtypes"),
            "threadpoolctl": _package_state("threadpoolctl"),
        }
    )


def _package_state(package: str) -> str:
    if find_spec(package) is None:
        return f"{package} is not installed"
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package}, version not known"


def cupy_state() -> tuple[bool, str]:
    """Whether CuPy has a device, and versions or the reason in words."""
    if find_spec("cupy") is None:
        return False, "cupy is not installed"
    try:
        cupy = import_module("cupy")
        runtime = cupy.cuda.runtime
        count = runtime.getDeviceCount()
        names = [runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
    except Exception as error:  # CuPy has error types of its own, and libraries that may lack
        return False, f"cupy finds no usable device: {error}"
    return True, f"cupy {cupy.__version__}, {', '.join(names)}"


def _register_with_threadpoolctl() -> None:
    """Show our pool in ``threadpoolctl.threadpool_info()`` and let it set the limit."""
    try:
        threadpoolctl: Any = import_module("threadpoolctl")
    except ImportError:
        return
    if not hasattr(threadpoolctl, "register"):
        return

    class KexueController(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = "kexue_native"
        internal_api = "kexue_native"
        filename_prefixes = (os.path.basename(core.__file__).lower(),)
        check_symbols = ("PyInit__core",)

        def get_version(self) -> str | None:
            if not os.path.samefile(self.filepath, core.__file__):
                self.dynlib = None  # another package's library of that name: fails check_symbols
                return None
            return __version__

        def get_num_threads(self) -> int:
            return get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            set_num_threads(num_threads)

    threadpoolctl.register(KexueController)


if core is not None:
    _register_with_threadpoolctl()
