"""The same functions on CuPy arrays, against cupyx.scipy.special, PyTorch and the device's copy."""

from __future__ import annotations

from functools import partial
from typing import Any

import harness
import special_peers
from harness import Call, Problem, Unavailable, load
from kexue_native import _backends

DTYPES = ("float32", "float64", "float16", "bfloat16")


def unavailable() -> str:
    """Why nothing is measured here; empty where it is."""
    usable, text = _backends.cupy_state()
    return "" if usable else text


def clock(call: Call) -> float:
    """Seconds between two events on the stream, so that the host's part is left out."""
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return 1e-3 * cupy.cuda.get_elapsed_time(start, stop)


def ours(backend: str, with_out: bool, p: Problem, x: Any) -> Call:
    import cupy

    import kexue_native as kn

    reason = _backends.refusal(backend, cupy)
    if reason:
        raise Unavailable(reason)
    options: dict[str, Any] = {"axis": p.axis, "backend": backend}
    if with_out:
        options["out"] = cupy.zeros(p.out_shape, x.dtype)
    return partial(getattr(kn, p.function), x, **options)


def cupyx(p: Problem, x: Any) -> Call:
    return partial(getattr(load("cupyx.scipy.special"), p.function), x, axis=p.axis)


def torch(with_out: bool, p: Problem, x: Any) -> Call:
    """On CuPy's stream, so that the events of `clock` see the work."""
    import cupy

    torch = load("torch")
    if not torch.cuda.is_available():
        raise Unavailable("this torch has no CUDA")
    a = torch.from_numpy(harness.data(p.shape, p.dtype).view(plain_words(p))).cuda()
    a = a.view(getattr(torch, p.dtype))
    stream = torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)
    function = getattr(torch, p.function)
    options = {}
    if with_out:
        options["out"] = torch.zeros(p.out_shape, dtype=a.dtype, device="cuda")
    torch.cuda.synchronize()

    def call() -> Any:
        with torch.cuda.stream(stream):
            return function(a, p.axis, **options)

    return call


def plain_words(p: Problem) -> str:
    return "int16" if p.dtype in special_peers.NARROW else p.dtype


def copy(p: Problem, x: Any) -> Call:
    import cupy

    out, stream = cupy.empty_like(x), cupy.cuda.get_current_stream()
    return partial(out.data.copy_from_device_async, x.data, x.nbytes, stream)


BUILDERS = {
    "kn": partial(ours, "cuda", False),
    "kn out=": partial(ours, "cuda", True),
    "kn reference": partial(ours, "reference", False),
    "cupyx": cupyx,
    "torch": partial(torch, False),
    "torch out=": partial(torch, True),
}


def fetch(p: Problem, result: Any) -> Any:
    import cupy

    cupy.cuda.get_current_stream().synchronize()
    if isinstance(result, cupy.ndarray):
        return cupy.asnumpy(result)
    words = {"float64": "float64", "float32": "float32"}.get(p.dtype, "int16")
    host = result.view(getattr(load("torch"), words)).cpu().numpy()
    return host.view(harness.numpy_dtype(p.dtype))


def measure(quick: bool, seconds: float) -> list[dict[str, Any]]:
    """One entry a problem: what `report.measure` gives for the CPU."""
    import cupy

    found = []
    with cupy.cuda.Stream(non_blocking=True):
        for problem in special_peers.problems(DTYPES, quick):
            try:
                x = cupy.asarray(harness.data(problem.shape, problem.dtype))
            except (Unavailable, TypeError, ValueError) as error:
                missing = {"all": str(error)}
                found.append({"problem": problem, "times": {}, "missing": missing})
                continue
            calls: dict[str, Call] = {"limit copy": copy(problem, x)}
            missing = {}
            for name, builder in BUILDERS.items():
                try:
                    call = builder(problem, x)
                    harness.check(problem, fetch(problem, call()))
                except Unavailable as reason:
                    missing[name] = str(reason)
                except Exception as error:  # a peer's failure is its own, and is reported
                    missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                else:
                    calls[name] = call
            times = harness.interleave(calls, seconds, clock, most=100)
            found.append({"problem": problem, "times": times, "missing": missing})
    return found
