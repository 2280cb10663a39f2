"""Numerical functions from the articles of kexue.fm, for NumPy and CuPy arrays."""

import os as _os

from . import attention, boosting, losses, mitchell, optim, special
from ._backends import get_num_threads, set_num_threads, show_config, use_backend
from ._limits import LIMITS
from ._version import __version__
from .attention import *  # noqa: F403
from .losses import *  # noqa: F403
from .mitchell import *  # noqa: F403
from .optim import *  # noqa: F403
from .special import *  # noqa: F403


def _installed(folder: str) -> str:
    # An editable install keeps what CMake made apart from the Python files.
    places = [_os.path.join(path, folder) for path in __path__]  # noqa: F405
    return next(filter(_os.path.isdir, places), places[0])


def get_include() -> str:
    """Directory of the C++ headers, for ``#include <kexue/special.h>``.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.get_include().endswith("include")
    True
    """
    return _installed("include")


def get_cmake_dir() -> str:
    """Directory for CMake's ``find_package(kexue)``, as ``-Dkexue_DIR``.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.get_cmake_dir().endswith("cmake")
    True
    """
    return _installed("cmake")


__all__ = [
    "LIMITS",
    "__version__",
    "attention",
    "boosting",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "losses",
    "mitchell",
    "optim",
    "set_num_threads",
    "show_config",
    "special",
    "use_backend",
    *attention.__all__,
    *losses.__all__,
    *mitchell.__all__,
    *optim.__all__,
    *special.__all__,
]
