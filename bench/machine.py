"""The machine that a benchmark runs on: threads, description, versions.

Nothing here imports an array library, so that `limit_threads` can come before all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("numpy", "scipy", "numexpr", "numba", "jax", "torch", "ml_dtypes", "cupy")


def environment(threads: int) -> dict[str, str]:
    """Thread counts of all libraries; their idle threads sleep, since others are being timed."""
    count = str(threads)
    variables = dict.fromkeys(
        (
            "KEXUE_NUM_THREADS",
            "MKL_NUM_THREADS",
            "NUMBA_NUM_THREADS",
            "NUMEXPR_MAX_THREADS",
            "NUMEXPR_NUM_THREADS",
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
        ),
        count,
    )
    eigen = "true" if threads > 1 else "false"
    return {
        **variables,
        "GOMP_SPINCOUNT": "0",
        "JAX_PLATFORMS": "cpu",
        "KMP_BLOCKTIME": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_THREAD_TIMEOUT": "4",  # the exponent of a number of cycles, and the least
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen}",
    }


def wanted_threads(default: int = 2) -> int:
    """--threads of the command line, before its other options are looked at."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--threads", type=int, default=default)
    return int(parser.parse_known_args()[0].threads)


def limit_threads(threads: int) -> None:
    """Set the environment, and keep to as many cores: some libraries only look at those."""
    loaded = [name for name in ("jax", "numba", "numexpr", "torch") if name in sys.modules]
    if loaded:
        raise RuntimeError(f"limit_threads comes too late: {', '.join(loaded)} is imported")
    os.environ.update(environment(threads))
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            raise RuntimeError(f"{threads} threads asked for, but only {len(cores)} cores are here")
        os.sched_setaffinity(0, cores[-threads:])  # the first core often serves interrupts


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            fields = dict(map(str.strip, line.split(":", 1)) for line in file if ":" in line)
        family = (fields.get(key, "") for key in ("cpu family", "model"))
        return f"{fields['model name']} (family {', model '.join(family)})"
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()


def cache_sizes() -> str:
    """Data caches as the first core sees them: "L1 48K, L2 1024K, L3 32768K"."""
    found = []
    folder = "/sys/devices/system/cpu/cpu0/cache"
    for i in range(8):
        try:
            texts = []
            for name in ("type", "level", "size"):
                with open(f"{folder}/index{i}/{name}", encoding="utf-8") as file:
                    texts.append(file.read().strip())
        except OSError:
            break
        if texts[0] != "Instruction":
            found.append(f"L{texts[1]} {texts[2]}")
    return ", ".join(found) or "not known"


def versions() -> dict[str, str]:
    """Versions of what is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
