"""Self-check and tour: ``python -m kexue_native [--quick] [--json FILE] [--backend NAME]``.

Runs every function on realistic inputs, compares it with the NumPy reference in a wider type, and
prints what it finds line by line. The exit status is 0 only if all agree within LIMITS.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn

from . import _arrays, _backends, _device
from ._arrays import Array
from ._limits import LIMITS, SCALE_GROWTH, ulp_error
from .special.argmax.reference import gumbel_noise
from .special.reductions import reference

Wide = np.longdouble if np.finfo(np.longdouble).eps < np.finfo(np.float64).eps else np.float64
NUMPY_ULP = 4  # NumPy states no bound for its float64 functions, of which the reference is made
SCALE = 0.7
SMALL = (4, 32)
ENOUGH = 0.05  # seconds for which one call is timed
COEFFICIENT = 1 / math.log(512)


class Scores(NamedTuple):
    """What the accuracy of a softmax-like result is measured by, in the wide type."""

    gap: Array
    p: Array

    @classmethod
    def of(cls, x: Array, mask: Array | None = None, scale: Any = 1.0) -> Scores:
        rows = reference.leave_one_out(x, mask, scale)
        p = rows.shares(mask)
        return cls(np.where(p == 0, 0, rows.gap), p)

    def spread(self, values: Array) -> Array:
        """p_i (|v_i| + sum p |v|)"""
        total = np.sum(self.p * np.abs(values), axis=-1, keepdims=True)
        return self.p * (np.abs(values) + total)

    def centred(self, g: Array) -> Array:
        """g - g of the winner"""
        winner = np.argmax(self.p, axis=-1)[..., None]
        return g - np.take_along_axis(g, winner, axis=-1)


class Case(NamedTuple):
    """A form of one function: the public call, the oracle, the terms and allowance of its error."""

    name: str  # of the function, perhaps followed by a word for the form of the call
    arguments: str  # names of the inputs that `make_inputs` provides
    run: Callable[..., Any]
    oracle: Callable[..., Any] | None = None  # None: `run` itself on the reference in the wide type
    magnitude: Callable[..., Any] = lambda *inputs: 0.0
    allowance: Callable[..., Any] = lambda *inputs: 0.0
    growth: dict[str, int] | None = None  # factor of the allowance by type; None: 1
    by_row: Any = None  # np.max or np.sum: measure an entry by this of its row, not by itself
    limits: str = ""  # the function whose LIMITS hold; "": its own, 0 if it has none
    shape: tuple[int, int] | None = None  # of the inputs, where the reference takes long
    dtype: str = ""  # the only type there is; "": all
    bitwise: bool = False  # bit for bit as the reference in the same type

    @property
    def public(self) -> str:
        return self.name.partition(" ")[0]

    def limit(self, dtype: Any, backend: str) -> int:
        stated = LIMITS.get(self.limits or self.public, {}).get(dtype.name, 0)
        if dtype == np.dtype(Wide):
            return 2 * stated  # the oracle is as far from the truth as the kernel may be
        plus = NUMPY_ULP if backend == "reference" and dtype == np.float64 else 0
        return stated and stated + plus

    def exact(self, wide: list[Array]) -> Any:
        if self.oracle:
            return self.oracle(*wide)
        with wide_arrays():
            return self.run(*wide, backend="reference")


@contextmanager
def wide_arrays() -> Iterator[None]:
    """Public functions take arrays of the wide type, too; only the reference can."""
    module: Any = _arrays
    types = module._NUMPY_FLOATS
    module._NUMPY_FLOATS = (*types, np.dtype(Wide))
    try:
        yield
    finally:
        module._NUMPY_FLOATS = types


def plain(
    name: str,
    arguments: str,
    magnitude: Callable[..., Any] = lambda *inputs: 0.0,
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> Case:
    """A call on the inputs in their order."""
    function, fixed = name.partition(" ")[0], options or {}

    def run(*inputs: Array, **backend: Any) -> Any:
        return getattr(kn, function)(*inputs, **fixed, **backend)

    return Case(name, arguments, run, magnitude=magnitude, **fields)


def of_row(name: str, arguments: str, **options: Any) -> Case:
    """A call whose results are sums and differences of the row's terms."""
    kept = ("limits", "shape", "allowance", "growth", "by_row")
    fields = {key: options.pop(key) for key in kept if key in options}
    return plain(name, arguments, options=options, **{"by_row": np.max, **fields})


def _top(x: Array, *_: Array) -> Array:
    return np.abs(np.max(x, axis=-1))


def _gap(x: Array, *_: Array) -> Array:
    return np.abs(Scores.of(x).gap)


def _noise_gap(x: Array, e: Array, *_: Array) -> Array:
    """What LIMITS allows gumbel_softmax_vjp, over 3: of the row's farthest entry."""
    gap = _gap(x + e) + np.max(np.abs(x), -1, keepdims=True) + np.max(np.abs(e), -1, keepdims=True)
    return np.max(gap, axis=-1, keepdims=True)


def _far(x: Array, mask: Array | None = None) -> Array:
    gap = np.abs(Scores.of(x, mask).gap)
    return np.where(gap > 30, gap, 0)


def _lambda(x: Array, mask: Array) -> Array:
    return COEFFICIENT * np.log(np.sum(mask, axis=-1, keepdims=True).astype(x.dtype))


def _invariant_terms(x: Array, g: Array, mask: Array) -> Array:
    scores = Scores.of(x, mask, _lambda(x, mask))
    return _lambda(x, mask) * scores.spread(scores.centred(np.where(mask, g, 0)))


def _invariant_gap(x: Array, mask: Array) -> Array:
    return np.abs(Scores.of(x, mask, _lambda(x, mask)).gap)


def _softmax_terms(x: Array, g: Array) -> Array:
    scores = Scores.of(x, None, SCALE)
    return SCALE * scores.spread(scores.centred(g))


def _entropy_terms(x: Array, g: Array) -> Array:
    scores = Scores.of(x, None, SCALE)
    return np.abs(g)[..., None] * SCALE * scores.spread(scores.gap)


def _log_softmax_terms(x: Array, g: Array) -> Array:
    return np.abs(g) + Scores.of(x).p * np.sum(np.abs(g), axis=-1, keepdims=True)


def _lipschitz_terms(x: Array, y: Array) -> Array:
    return np.abs(reference.logsumexp(x)) + np.abs(reference.logsumexp(y))


def _bounds_terms(x: Array, p: Array) -> Array:
    return np.max(np.abs(x), axis=-1) + 1.5 * np.log(x.shape[-1])


def _jensen_gap(x: Array) -> Array:
    each = reference.logsumexp(x)
    return np.mean(each, axis=0) - reference.logsumexp(np.mean(x, axis=0))


def _jensen_terms(x: Array) -> Array:
    return np.mean(np.abs(reference.logsumexp(x)), axis=0) * 2


def _cosines(*vectors: Array) -> Any:
    return 1.0, *(0.0,) * (len(vectors) // 2)


REDUCTIONS = (
    Case("logsumexp", "x", lambda x, **k: kn.logsumexp(x, -1, **k), reference.logsumexp, _top),
    Case(
        "logsumexp_vjp",
        "x s",
        lambda x, s, **k: kn.logsumexp_vjp(x, s, -1, **k),
        reference.logsumexp_vjp,
        allowance=_gap,
    ),
    Case(
        "logsumexp weighted",
        "x w",
        lambda x, w, **k: kn.logsumexp(x, -1, w, return_sign=True, **k),
        reference.logsumexp_weighted,
        lambda x, w: _top(x + np.log(w)),
    ),
    Case(
        "logsumexp_vjp weighted",
        "x w s",
        lambda x, w, s, **k: kn.logsumexp_vjp(x, s, -1, w, **k),
        reference.logsumexp_weighted_vjp,
        allowance=_gap,
    ),
    Case(
        "logmeanexp",
        "x w",
        lambda x, w, **k: kn.logmeanexp(x, -1, w, **k),
        reference.logmeanexp,
        _top,
    ),
    Case(
        "logmeanexp_vjp",
        "x s w",
        lambda x, s, w, **k: kn.logmeanexp_vjp(x, s, -1, w, **k),
        reference.logmeanexp_vjp,
        allowance=_gap,
    ),
    Case(
        "softmax",
        "x",
        lambda x, **k: kn.softmax(x, -1, **k),
        reference.softmax,
        allowance=_far,
    ),
    Case(
        "softmax_vjp",
        "x g",
        lambda x, g, **k: kn.softmax_vjp(x, g, -1, scale=SCALE, **k),
        lambda x, g: reference.softmax_vjp(x, g, None, SCALE),
        _softmax_terms,
        _gap,
    ),
    Case("log_softmax", "x", lambda x, **k: kn.log_softmax(x, -1, **k), reference.log_softmax),
    Case(
        "log_softmax_vjp",
        "x g",
        lambda x, g, **k: kn.log_softmax_vjp(x, g, -1, **k),
        reference.log_softmax_vjp,
        _log_softmax_terms,
    ),
    Case(
        "logsumexp_softmax",
        "x",
        lambda x, **k: kn.logsumexp_softmax(x, -1, **k),
        reference.logsumexp_softmax,
        lambda x: (_top(x), 0.0),
        lambda x: (0.0, _far(x)),
    ),
    Case(
        "softmax_entropy",
        "x",
        lambda x, **k: kn.softmax_entropy(x, scale=SCALE, **k),
        lambda x: reference.softmax_entropy(x, None, SCALE),
    ),
    Case(
        "softmax_entropy_vjp",
        "x s",
        lambda x, s, **k: kn.softmax_entropy_vjp(x, s, scale=SCALE, **k),
        lambda x, s: reference.softmax_entropy_vjp(x, s, None, SCALE),
        _entropy_terms,
        _gap,
    ),
    Case(
        "logsumexp_bounds",
        "x p",
        lambda x, p, **k: kn.logsumexp_bounds(x, p=p, order=2.0, tau=1.5, **k),
        lambda x, p: reference.logsumexp_bounds(x, p, 2.0, 1.5),
        lambda x, p: (_bounds_terms(x, p),) * 4,
    ),
    Case(
        "logsumexp_lipschitz",
        "x g",
        lambda x, g, **k: kn.logsumexp_lipschitz(x, g, **k),
        reference.logsumexp_lipschitz,
        lambda x, y: (_lipschitz_terms(x, y), 0.0),
    ),
    Case(
        "logsumexp_jensen_gap",
        "x",
        lambda x, **k: kn.logsumexp_jensen_gap(x, **k),
        _jensen_gap,
        _jensen_terms,
    ),
    Case(
        "entropy_invariant_scale",
        "n",
        lambda n, **k: kn.entropy_invariant_scale(n, **k),
        lambda n: reference.entropy_invariant_scale(n, COEFFICIENT),
    ),
    Case(
        "entropy_invariant_softmax",
        "x mask",
        lambda x, mask, **k: kn.entropy_invariant_softmax(x, mask=mask, **k),
        lambda x, mask: reference.entropy_invariant_softmax(x, mask, COEFFICIENT),
        allowance=_invariant_gap,
        growth=SCALE_GROWTH,
    ),
    Case(
        "entropy_invariant_softmax_vjp",
        "x g mask",
        lambda x, g, mask, **k: kn.entropy_invariant_softmax_vjp(x, g, mask=mask, **k),
        lambda x, g, mask: reference.entropy_invariant_softmax_vjp(x, g, mask, COEFFICIENT),
        _invariant_terms,
        lambda x, g, mask: _invariant_gap(x, mask),
        SCALE_GROWTH,
    ),
)
_BY_ENTRY = (  # every value to its own last place
    *("squareplus", "squareplus_grad", "squareplus_grad_b", "softplus", "softplus_grad"),
    *("sigmoid", "sigmoid_grad", "log_sigmoid", "log_sigmoid_grad", "gelu", "silu"),
    *("relu_gaussian", "relu_gaussian_grad", "smooth_abs", "smooth_abs_grad", "taylor_exp"),
)
ROUNDED = {"float64": 2, "float32": 0, "float16": 0, "bfloat16": 0}  # exponents, in float64
_STAIRS = ("smooth_floor", "smooth_ceil", "smooth_round")
ELEMENTWISE = (
    *(plain(name, "a") for name in _BY_ENTRY),
    *(
        of_row(f"{function} {form}", "a", approximate=form)
        for function in ("gelu", "gelu_grad")
        for form in ("tanh", "sigmoid")
    ),
    of_row("gelu_grad", "a"),
    of_row("silu_grad", "a"),
    plain("smooth_max2", "x g", lambda x, y: np.maximum(np.abs(x), np.abs(y))),
    plain("smooth_max2_grad", "x g"),
    plain("taylor_exp_grad", "a", lambda x: 1 + np.abs(x)),
    *(plain(name, "x", lambda x: np.maximum(np.abs(x), 1)) for name in _STAIRS),
    *(plain(f"{name}_grad", "x", lambda x: 10 / 4) for name in _STAIRS),
)
SMOOTH = (
    plain("taylor_softmax", "a"),
    of_row("taylor_softmax_vjp", "a g", allowance=lambda *_: 2.0, growth=ROUNDED),
    plain("smooth_max", "x", _top),
    plain("smooth_max softmax", "x", _top, options={"method": "softmax"}),
    of_row("smooth_max_vjp", "x s"),
    of_row("smooth_max_vjp softmax", "x s", method="softmax"),
    plain("soft_argmax", "x"),
    of_row("soft_argmax_vjp", "x s"),
    plain("soft_onehot", "x", allowance=_far),
    of_row("soft_onehot_vjp", "x g"),
    of_row("soft_kmax", "a", k=3),
    of_row("soft_kmax_vjp", "a g", k=3, by_row=np.sum),
    *(
        of_row(f"{function} {noise}", arguments, noise=noise, shape=SMALL)
        for function, arguments in (
            ("argmax_distribution", "a"),
            ("argmax_distribution_vjp", "a g"),
        )
        for noise in ("gumbel", "exponential", "uniform", "normal")
    ),
    Case(
        "gumbel_noise",
        "x",
        lambda x, **k: kn.gumbel_noise(x.shape, 0, **k),
        lambda x: gumbel_noise(np.random.default_rng(0).standard_exponential(x.shape).astype(Wide)),
        dtype="float64",
    ),
    plain("gumbel_max", "x e"),
    of_row("gumbel_softmax", "x e"),
    of_row("gumbel_softmax_vjp", "x e g", allowance=_noise_gap, growth=ROUNDED),
)
GRAD: dict[str, Any] = {"return_grad": True}
HESS: dict[str, Any] = {**GRAD, "return_hess": True}
DENSE = "multilabel_crossentropy"
LOSSES = (
    of_row(DENSE, "x t", **HESS),
    of_row(f"{DENSE} soft", "x q", **HESS),
    of_row(f"{DENSE} bound", "x q", hess="bound", **HESS),
    of_row(f"sparse_{DENSE}", "x i", limits=DENSE, **HESS),
    plain("multilabel_predict", "x"),
    plain("multilabel_probability", "a"),
    plain("globalpointer_mask", "tokens"),
    Case(
        "globalpointer_crossentropy",
        "pairs spans tokens",
        lambda x, t, m, **k: kn.globalpointer_crossentropy(x, t, token_mask=m, **HESS, **k),
        by_row=np.max,
        limits=DENSE,
    ),
    of_row("pairwise_rank_loss", "x t", **GRAD),
    of_row("subset_crossentropy", "x t", shape=SMALL, **GRAD),
    of_row("multiclass_multilabel_loss", "a t", **GRAD),
    of_row("multiclass_multilabel_loss centered", "a q", form="centered", **GRAD),
    *(
        of_row(f"{function} {kind}", "x g", kind=kind, **GRAD)
        for function in ("kl_divergence", "symmetric_kl")
        for kind in ("softmax", "sigmoid")
    ),
    of_row("softmax_crossentropy", "x q", **HESS),
    of_row("sparse_softmax_crossentropy", "x c", limits="softmax_crossentropy", **HESS),
    of_row("sigmoid_crossentropy", "x q", **HESS),
    of_row("smooth_accuracy", "u c", **GRAD),
    *(of_row(f"smooth_{metric}", "u t", **GRAD) for metric in ("fbeta", "precision", "recall")),
    plain("flooding", "u a", options=GRAD),
    plain("negative_cosine", "x g", _cosines, GRAD, by_row=np.max),
    plain("simsiam_loss", "x g a u", _cosines, GRAD, by_row=np.max),
)


def _one_step(theta: Array, g: Array, *state: Array, **backend: Any) -> Any:
    old = kn.StepsizeState(state[0], np.ones(()), state[1], state[2], 3)
    theta, new = kn.eg_stepsize_step(theta, g, old, lr=0.25, gain_mode="product", **backend)
    return theta, new.gain, new.velocity, new.average


OPTIM = (
    plain("egu_step", "w g u"),
    plain("egu_pm_step", "w u g a"),
    of_row("hypentropy_step", "a g u", beta=0.5),
    plain("eg_step", "w g", options={"lr": 0.75}),
    of_row("eg_step_log", "x g", lr=0.75),
    plain("eg_pm_step", "w u g", options={"lr": 0.75, "mass": 2.0}),
    of_row("eg_pm_init", "a", mass=4096.0),
    Case(
        "eg_step_vjp",
        "g w a",
        lambda v, w, g, **k: kn.eg_step_vjp(v, w, g, 0.5, **k)[:2],
        by_row=np.max,
    ),
    of_row("hedge", "a", lr=0.25, allowance=lambda x: float(len(x)), growth=ROUNDED),
    Case(
        "portfolio_eg",
        "w",
        lambda x, **k: kn.portfolio_eg(x, **k),
        magnitude=lambda x: (1.0,) * 3,
        allowance=lambda x: float(len(x)),
        dtype="float64",
    ),
    Case("eg_stepsize_step", "a g w u e", _one_step, by_row=np.max),
    of_row("eg_gain_step", "x g a w", lr=0.25, gamma=0.25),
    plain("global_norm", "x"),
    Case(
        "clip_by_global_norm",
        "x",
        lambda x, **k: kn.clip_by_global_norm(x, 0.5, form="soft", **k)[0],
    ),
    of_row("project_simplex", "a", allowance=lambda x: 1e-14 * 2.0**53, growth=ROUNDED),
    of_row("project_simplex_vjp", "u g"),
    plain("frank_wolfe_step", "p g", options={"lr": 0.25}),
    plain("simplex_gap", "p g"),
    of_row("softmax_pullback", "p g"),
    plain("bregman_kl", "u w", options={"unnormalized": True}),
)
POSITIONS = (96, 32)


def _values(q: Array, k: Array, v: Array) -> Array:
    return np.max(np.abs(v))


def _slopes(g: Array, q: Array, k: Array, v: Array) -> Any:
    """Terms of the gradients for q, k and v."""
    most = [np.max(np.abs(x)) for x in (g, q, k, v)]
    return most[0] * most[3] * most[2], most[0] * most[3] * most[1], most[0]


def attention(name: str, arguments: str, *weights: Any, **options: Any) -> Case:
    """A call on the inputs, with a projection that is the same for all types."""
    function = name.partition(" ")[0]

    def run(*inputs: Array, **backend: Any) -> Any:
        given = [kn.random_projection(48, POSITIONS[1], rng=0) for _ in weights]
        return getattr(kn, function)(*inputs, *given, **options, **backend)

    magnitude = _slopes if function.endswith("_vjp") else _values
    return Case(name, arguments, run, None, magnitude, shape=POSITIONS)


ATTENTION = tuple(
    attention(f"{name}{suffix}{word}", arguments, *weights, causal=bool(word))
    for name, weights in (
        ("softmax_attention", ()),
        ("linear_attention", ()),
        ("favor_attention", ("projection",)),
    )
    for suffix, arguments in (("", "a u g"), ("_vjp", "g a u e"))
    for word in ("", " causal")
)


def mitchell(name: str, arguments: str, **options: Any) -> Case:
    return plain(f"mitchell_{name}", arguments, options=options, bitwise=True)


# Sums have terms so few and small that any order gives the same.
MITCHELL = (
    mitchell("mul", "x g"),
    mitchell("mul minimax", "x g", offset="minimax"),
    mitchell("mul iterated", "x g", iterations=1),
    mitchell("mul cut", "x g", mantissa_bits=3, fill="half"),
    mitchell("div", "x w"),
    mitchell("log2", "w"),
    *(mitchell(name, "a") for name in ("exp2", "square", "reciprocal")),
    *(mitchell(name, "w") for name in ("sqrt", "rsqrt")),
    mitchell("pow", "w", p=1.5),
    mitchell("dot", "k k"),
    Case(
        "mitchell_matmul",
        "k",
        lambda k, **o: kn.mitchell_matmul(k, k.T, **o),
        bitwise=True,
        shape=(32, 256),
    ),
    mitchell("mul_vjp", "g x a"),
    mitchell("div_vjp", "g x w"),
    mitchell("log2_vjp", "g w"),
    mitchell("exp2_vjp", "g a"),
    mitchell("pow_vjp", "g w", p=3),
    Case(
        "mitchell_matmul_vjp",
        "pairs k",
        lambda g, k, **o: kn.mitchell_matmul_vjp(np.sign(g), k, k.T, **o),
        bitwise=True,
        shape=SMALL,
    ),
)
CASES = (*REDUCTIONS, *ELEMENTWISE, *SMOOTH, *LOSSES, *OPTIM, *ATTENTION, *MITCHELL)
WIDTH = max(len(case.name) for case in CASES)


def make_inputs(rows: int, n: int, dtype: Any) -> dict[str, Array]:
    """Logits, gradients, weights, probabilities, labels and masks for `rows` rows of `n`."""
    rng = np.random.default_rng(20240229)
    # Two weights that are exact in every type, so that the sum is 1 in every type (n is even).
    p = np.where(rng.permuted(np.arange(n) % 2 == 0), 1.5, 0.5) / n
    inputs = {
        "x": 6 * rng.standard_normal((rows, n)),
        "g": rng.standard_normal((rows, n)),
        "s": rng.standard_normal(rows),
        "w": rng.uniform(0.1, 2.0, (rows, n)),
        "p": p,
        "n": rng.integers(1, 2000, (rows, n)),
        "a": rng.uniform(-3, 3, (rows, n)),  # what activations get
        "e": rng.gumbel(size=(rows, n)),
        "u": rng.random((rows, n)),
        "q": rng.beta(0.1, 0.3, (rows, n)),  # soft labels, most near 0 or 1
        "t": rng.random((rows, n)) < 0.05,  # hard labels
        "k": rng.integers(-3, 4, (rows, n)),
        "pairs": 6 * rng.standard_normal((rows, rows)),
        "spans": np.triu(rng.random((rows, rows)) < 0.02),
    }
    others = {
        "mask": np.arange(n) < rng.integers(1, n + 1, (rows, 1)),
        "tokens": np.arange(rows) < rows - 3,
        "c": rng.integers(0, n, rows),  # the class of each row
        "i": rng.integers(-1, n, (rows, 5)),  # positive classes of each row, -1 for none
    }
    return {**others, **{name: x.astype(dtype) for name, x in inputs.items()}}


def dtypes() -> Iterator[Any]:
    yield from (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16))
    if find_spec("ml_dtypes"):
        yield np.dtype(import_module("ml_dtypes").bfloat16)


def seconds(call: Callable[[], Any], wait: Callable[[], Any], repeats: int) -> float:
    """The shortest of some runs after a first one; of fewer where they take long."""
    best, total = math.inf, 0.0
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        wait()
        taken = time.perf_counter() - start
        best, total = min(best, taken), total + taken
        if total > ENOUGH:
            break
    return best


def largest_error(case: Case, inputs: list[Array], actual: Any) -> float:
    """Error in ULP against the reference in the wide type, over all results of the kernel."""
    wide = [x if x.dtype.kind in "bi" else x.astype(Wide) for x in inputs]
    with np.errstate(all="ignore"):
        parts = [case.exact(wide), case.magnitude(*wide), case.allowance(*wide)]
    if case.growth:
        parts[2] = case.growth[actual.dtype.name] * parts[2]
    actual = actual if isinstance(actual, tuple) else (actual,)
    expected, magnitude, allowance = (
        part if isinstance(part, tuple) else (part,) * len(actual) for part in parts
    )
    if actual[0].dtype.kind in "bi":
        return float(np.count_nonzero(actual[0] != expected[0]))
    if case.by_row:
        magnitude = tuple(
            case.by_row(np.abs(e), -1, keepdims=True) if e.ndim > 1 else m
            for e, m in zip(expected, magnitude, strict=True)
        )
    return max(map(ulp_error, actual, expected, magnitude, allowance))


def different(actual: Any, expected: Any) -> float:
    """How many numbers are not the same, bit for bit"""
    pairs = (
        zip(actual, expected, strict=True) if isinstance(actual, tuple) else [(actual, expected)]
    )
    return float(sum(np.count_nonzero(np.asarray(a) != np.asarray(e)) for a, e in pairs))


def check(case: Case, backend: str, dtype: Any, shape: tuple[int, int], repeats: int) -> Any:
    """One line of the table as a dict."""
    shape = case.shape or shape
    inputs = make_inputs(*shape, dtype)
    chosen = [inputs[name] for name in case.arguments.split()]
    given, fetch, wait = chosen, np.asarray, bool
    if backend == "cuda" and _backends.cuda_on_host is None:
        cupy = import_module("cupy")
        given = [cupy.asarray(x) for x in chosen]
        fetch, wait = cupy.asnumpy, cupy.cuda.get_current_stream().synchronize
    actual = case.run(*given, backend=backend)
    actual = tuple(map(fetch, actual)) if isinstance(actual, tuple) else fetch(actual)
    if case.bitwise:
        error = different(actual, case.run(*chosen, backend="reference"))
    else:
        error = largest_error(case, chosen, actual)
    limit = case.limit(dtype, backend)
    reference_time = seconds(lambda: case.run(*chosen, backend="reference"), bool, repeats)
    native_time = None
    if backend != "reference":
        native_time = seconds(lambda: case.run(*given, backend=backend), wait, repeats)
    return {
        "function": case.name,
        "backend": backend,
        "dtype": dtype.name,
        "shape": list(shape),
        "native_seconds": native_time,
        "reference_seconds": reference_time,
        "error_ulp": error,
        "limit_ulp": limit,
        "agrees": error <= limit,
    }


def available() -> list[str]:
    """The backends to check: the best CPU level and CUDA; the reference if there is neither."""
    names = ["cpu"] if not _backends.refusal("cpu") else []
    if not _device.load()[1] and _backends.cupy_state()[0]:
        names.append("cuda")
    return names or ["reference"]


def line(row: dict[str, Any]) -> str:
    native, reference_time = row["native_seconds"], row["reference_seconds"]
    shape = "x".join(map(str, row["shape"]))
    times = f"{'-':>10} {1e6 * reference_time:>10.0f} {'-':>8}"
    if native is not None:
        speed = f"{reference_time / native:.1f}x"
        times = f"{1e6 * native:>10.0f} {1e6 * reference_time:>10.0f} {speed:>8}"
    verdict = "" if row["agrees"] else f"  above the limit of {row['limit_ulp']}"
    return (
        f"{row['function']:<{WIDTH}} {row['backend']:<9} {row['dtype']:<8} {shape:>10} "
        f"{times} {row['error_ulp']:>7.2f}{verdict}"
    )


HEADER = (
    f"{'function':<{WIDTH}} {'backend':<9} {'dtype':<8} {'shape':>10} "
    f"{'native us':>10} {'numpy us':>10} {'speed-up':>8} {'ULP':>7}"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kexue_native", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, one repetition")
    parser.add_argument("--json", metavar="FILE", help="write configuration and results to FILE")
    parser.add_argument("--backend", metavar="NAME", help="check this backend only")
    options = parser.parse_args(arguments)

    config = kn.show_config()
    print(config, end="\n\n")
    backends = available()
    if options.backend:
        try:
            with kn.use_backend(options.backend):
                backends = [options.backend]
        except (RuntimeError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
    if backends == ["reference"]:
        print("No native core is used: the NumPy reference is checked against a wider type.\n")

    shape, repeats = ((32, 256), 1) if options.quick else ((64, 1024), 3)
    results = []
    print(HEADER)
    for backend in backends:
        for case in CASES:
            for dtype in dtypes():
                if case.dtype and case.dtype != dtype.name:
                    continue
                results.append(check(case, backend, dtype, shape, repeats))
                print(line(results[-1]), flush=True)
    wrong = sum(not row["agrees"] for row in results)
    verdict = "all agree within the stated limits" if not wrong else f"{wrong} above their limits"
    print(f"\n{len(results)} checks: {verdict}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"config": config, "results": results}, file, indent=2)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
