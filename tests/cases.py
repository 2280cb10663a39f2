"""One entry per public function and form of call: what the contract tests need to know about it.

The entries here are those of the reductions; other parts have theirs in `cases_<part>.py`, each a
tuple `CASES` (and perhaps `SIGNATURES`, see test_contract.py), which are gathered at the end.

Arrays are made with the core axis last. `lower` gives the kernel that the call ends in, so that the
same arguments reach the reference in a wider type, and `scale` gives the magnitude that an ULP of
each result refers to, with the growth that the contract allows beyond it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import kexue_native as kn
import oracle
from kexue_native._limits import LIMITS, SCALE_GROWTH
from kexue_native.special.reductions import reference

# NumPy states no bound for its float64 exp, expm1, log and log1p; measured over 5e6 arguments each,
# NumPy 2.4 with AVX-512 stays below 0.75 ULP, other builds call the platform's own. The reference,
# which combines several of them, gets this much on top of a stated limit.
NUMPY_ULP = 4
FAR = 30.0  # beyond, an entry's error may grow with its distance from the winner, says the issue


@dataclass(frozen=True)
class Case:
    id: str
    function: str
    arrays: tuple[str, ...]
    cores: tuple[str, ...]  # "n": has the core axis, "": one value a row
    outputs: tuple[str, ...]
    lower: Callable[[dict], tuple]
    scale: Callable[[dict, tuple], tuple] | None = None
    fixed: dict = field(default_factory=dict)
    variants: tuple[dict, ...] = ({},)
    default_axis: Any = -1
    mask: bool = True
    keepdims: bool = False
    shift: str | None = None  # "moves": f(x + c) = f(x) + c, "still": f(x + c) = f(x)
    permutes: str | None = (
        None  # "still": any order gives the same, "follows": the result is permuted too
    )
    limits: tuple[str, ...] = ()  # functions whose limits hold per output, if not its own
    empty: Any = None  # result of a slice of length 0 where the output has no core axis
    elementwise: bool = (
        False  # takes no axis; its arrays and outputs have the "core axis" all the same
    )
    fill: dict = field(default_factory=dict)  # how to make arrays, beyond FILL
    loose: tuple[str, ...] = ()  # arrays that broadcast, though they are called g
    cost: int = 1  # of the reference, in ordinary functions: tests take so many times fewer rows

    @property
    def simplex(self):
        """The array whose rows have to sum to one, if any."""
        return "p" if self.function == "logsumexp_bounds" and "p" in self.arrays else None

    @property
    def public(self):
        return getattr(kn, self.function)

    @property
    def main(self):
        return self.arrays[0]

    def make(self, rng, shape, dtype=np.float64, mask=False, spread=3.0):
        """Random arguments: normal values of the given spread, rows of length shape[-1]."""
        made = {}
        for name, core in zip(self.arrays, self.cores, strict=True):
            full = shape if core == "n" else shape[:-1]
            values = {**FILL, **self.fill}.get(name, _normal)(rng, full, spread)
            made[name] = np.asarray(values).astype(dtype)
        if self.function == "logsumexp" and "b" in made and "return_sign" not in self.fixed:
            made["b"] = np.abs(made["b"])
        if mask:
            made["mask"] = np.asarray(rng.random(shape) < 0.7)
        return made

    def options(self, **options):
        """Of a call along some axis, which an elementwise function does not have."""
        options = {**self.fixed, **options}
        if self.elementwise:
            options.pop("axis", None)
        return options

    def call(self, arrays, **options):
        return self.public(**arrays, **self.options(**options))

    def results(self, returned):
        """What a call returned, as a tuple of arrays."""
        if len(self.outputs) == 1:
            return (np.asarray(returned),)
        assert isinstance(returned, tuple) and len(returned) == len(self.outputs)
        return tuple(np.asarray(r) for r in returned)

    def exact(self, arrays, plain=False, **params):
        """The reference in the wide type (core axis last), one wide array per output.

        Also per output (magnitude, growth) of the ULP; `plain` for the reference itself.
        """
        wide = {k: np.asarray(v) if k == "mask" else oracle.widen(v) for k, v in arrays.items()}
        options = {**self.fixed, **params}
        numbers = tuple((k, v.shape, v.tobytes()) for k, v in wide.items())
        dtype = result_type(arrays)
        given = Given(self.id, dtype, numbers, tuple(options.items()), {**wide, **options})
        with np.errstate(all="ignore"):
            return wide_results(given), wide_scales(given, plain)

    def limit(self, dtype, output=0, plain=False):
        stated = limit(self.limits[output] if self.limits else self.function, dtype)
        return stated + NUMPY_ULP * (plain and oracle.name_of(dtype) == "float64")

    def check(self, returned, arrays, dtype=None, note="", move=None, plain=False, **params):
        """Assert that a result is within the stated limit of the exact value.

        `move` brings a result to the layout of `arrays`, whose core axis is last.
        """
        exact, scales = self.exact(arrays, plain, **params)
        for k, (got, want, (magnitude, growth)) in enumerate(
            zip(self.results(returned), exact, scales, strict=True)
        ):
            got = move(got, self.outputs[k]) if move else got
            target = got.dtype if dtype is None else np.dtype(dtype)
            assert got.dtype == target, f"{self.id} {note}: result is {got.dtype}, not {target}"
            assert got.shape == want.shape, f"{self.id} {note}: {got.shape}, not {want.shape}"
            allowed = self.limit(target, k, plain)
            error, where = oracle.worst(got, want, target, magnitude, growth)
            assert error <= allowed, (
                f"{self.id} {note}: output {k} at {where} is {got[where]}, exact {want[where]}: "
                f"{error:.3g} ULP, {allowed} allowed"
            )


@dataclass(frozen=True)
class Given:
    """Arguments of the oracle, known by their bytes: backends and layouts share its results."""

    case: str
    dtype: np.dtype
    numbers: tuple
    options: tuple
    values: dict = field(compare=False)


@lru_cache(maxsize=32)
def wide_results(given):
    case = BY_ID[given.case]
    kernel, inputs, parameters = case.lower(given.values)
    found = kernel(*inputs, *parameters)
    found = found if isinstance(found, tuple) else (found,)
    return tuple(np.asarray(f) for f in found)[: len(case.outputs)]


@lru_cache(maxsize=32)
def wide_scales(given, plain):
    case, found = BY_ID[given.case], wide_results(given)
    if case.scale is None:
        return ((0.0, 0.0),) * len(found)
    known = {"plain": plain, "dtype": given.dtype, "least": least_normal(given.dtype)}
    scales = case.scale({**given.values, **known}, found)
    return tuple(tuple(np.nan_to_num(s, posinf=0, neginf=0) for s in pair) for pair in scales)


def limit(function, dtype):
    return LIMITS[function][oracle.name_of(dtype)]


def _normal(rng, shape, spread):
    return spread * rng.standard_normal(shape)


def _probabilities(rng, shape, _):
    """Multiples of 1/64 with sum 1: exact in every type."""
    n = shape[-1]
    return rng.multinomial(64, np.full(n, 1 / n), shape[:-1]) / 64 if n else np.zeros(shape)


def _weights(rng, shape, _):
    return np.where(rng.random(shape) < 0.2, 0.0, 2 * rng.random(shape))


def _lengths(rng, shape, _):
    return rng.integers(0, 2000, shape)


FILL = {
    "b": _normal,
    "weights": _weights,
    "p": _probabilities,
    "n": _lengths,
    "g": lambda rng, shape, _: rng.standard_normal(shape),
}


# --- Magnitudes ---


def _parts(x, mask=None, scale=1):
    """Distances from the winner, weights, and the distance of the runner-up, row by row."""
    kept = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
    if x.shape[-1] == 0:
        return x, x, np.zeros(x.shape[:-1], x.dtype), np.zeros(x.shape[:-1], x.dtype)
    low = np.where(kept, x, -np.inf)
    top = low.max(axis=-1, keepdims=True)
    d = np.where(low == top, 0, np.where(kept, scale * (x - top), -np.inf))  # infinite ties, too
    e = np.exp(d)
    p = e / e.sum(axis=-1, keepdims=True)
    second = -np.sort(d, axis=-1)[..., -2] if x.shape[-1] > 1 else 0 * top[..., 0]
    return d, p, top[..., 0], np.where(np.isfinite(second), second, 0)


def _far(distance):
    distance = np.abs(distance)
    return np.where(np.isfinite(distance) & (distance > FAR), distance, 0)


def result_type(arrays):
    """dtype of the result: integers count as float64, targets keep their own."""
    counted = (v for k, v in arrays.items() if k not in ("mask", "targets"))
    types = [np.asarray(v).dtype.newbyteorder("=") for v in counted]
    return np.result_type(*(np.float64 if t.kind in "biu" else t for t in types))


def least_normal(dtype):
    """Below this a weight has fewer digits; the working type is at least float32."""
    name = oracle.name_of(dtype)
    return 2.0 ** oracle.MIN_EXPONENT["float32" if name == "float16" else name]


def _faint(p, factor, least):
    """Growth of factor * p where p is subnormal: its rounding, magnified, in ULP of the result."""
    return np.where((p > 0) & (p < least), np.abs(factor), 0)


def _faint_rest(gap, factor, least):
    """The same for the winner, a sum over the others, where the largest of these is subnormal."""
    return np.where(np.exp(-gap) < least, np.abs(factor), 0)


def scale_lse(k, out):
    top = _parts(k["a"] if "a" in k else k["x"], k.get("mask"))[2]
    return ((top, 0.0),)


def _terms(k):
    """Weights with 0 where masked, and a + log|b|."""
    b = np.where(k.get("mask", True), k["b"], 0)
    return b, np.where(b == 0, -np.inf, k["a"] + np.log(np.abs(b)))


def scale_lse_b(k, out):
    """Largest term; where weights are negative the bound of the specification, as a growth in ULP.

    8u(|a_k + log|b_k|| + |result|) + 4u sum|b e^a| / |S|. The reference, whose log b is a rounded
    number, is held to that for positive weights too.
    """
    b, terms = _terms(k)
    top = _parts(terms)[2]
    if "return_sign" not in k and not k["plain"]:
        return ((top, 0.0),)
    e = np.exp(terms - top[..., None])
    total, signed = e.sum(axis=-1), np.abs((np.sign(b) * e).sum(axis=-1))
    bound = 8 * (np.abs(top) + np.abs(out[0])) + 4 * total / signed
    size = np.maximum(np.abs(top), np.abs(out[0]))
    growth = bound * oracle.unit_roundoff(k["dtype"]) / oracle.ulp(size, k["dtype"])
    growth = np.maximum(growth - limit("logsumexp", k["dtype"]), 0)  # the bound, nothing on top
    growth = np.where((signed == 0) & (total > 0), oracle.ANYTHING, growth)
    return ((size, growth), (0.0, 0.0))[: 1 + ("return_sign" in k)]


def scale_share(x, mask=None, scale=1):
    """Entries of a softmax: relative, growing with the distance from the winner."""
    d, p, _, _ = _parts(x, mask, scale)
    return d, p, _far(d)


def scale_softmax(k, out):
    return ((0.0, scale_share(k["x"], k.get("mask"), k.get("scale", 1))[2]),)


def scale_lse_vjp(k, out):
    g = k["g"][..., None]
    if "b" not in k:
        _, p, growth = scale_share(k["a"], k.get("mask"))
        return ((0.0, growth + _faint(p, g, k["least"])),)
    b, terms = _terms(k)
    d, p, growth = scale_share(terms)
    e = np.exp(d)
    cancelled = e.sum(axis=-1) / np.abs((np.sign(b) * e).sum(axis=-1))
    growth = growth + _faint(p, g * cancelled[..., None], k["least"])
    return ((np.abs(out[0]) * cancelled[..., None], growth),)


def scale_lme_vjp(k, out):
    a = k["a"]
    if "weights" in k:
        a = np.where(
            k["weights"] > 0, a + np.log(np.where(k["weights"] > 0, k["weights"], 1)), -np.inf
        )
    _, p, growth = scale_share(a)
    return ((0.0, growth + _faint(p, k["g"][..., None], k["least"])),)


def per_unit(k, roundings):
    """Growth per unit of an exponent rounded so often; narrow types have digits to spare."""
    return roundings if oracle.name_of(k["dtype"]) == "float64" else 0


def finite(distance):
    return np.where(np.isfinite(distance), np.abs(distance), 0)


def _centred(k, x, scale, rate=None):
    """|scale p| times the centred gradient and its mean: the terms whose difference is formed.

    And the growth: `rate` times the distance from the winner, or once that beyond FAR.
    """
    d, p, _, gap = _parts(x, k.get("mask"), scale)
    if x.shape[-1] == 0:
        return ((0.0, 0.0),)
    g = np.where(np.isfinite(d), np.broadcast_to(k["g"], p.shape), 0)
    winner = np.argmax(d, axis=-1)[..., None]
    h = np.abs(g - np.take_along_axis(g, winner, axis=-1))
    mean = (p * h).sum(axis=-1, keepdims=True)
    distance = np.maximum(finite(d), gap[..., None])
    growth = _far(distance) if rate is None else rate * distance
    growth = growth + _faint(p, scale * (h + mean), k["least"])
    growth = growth + _faint_rest(gap[..., None], scale * h.max(axis=-1, keepdims=True), k["least"])
    return ((np.abs(scale) * p * (h + mean), growth),)


def scale_softmax_vjp(k, out):
    return _centred(k, k["x"], k.get("scale", 1))


def scale_log_softmax_vjp(k, out):
    d, p, _, gap = _parts(k["x"], k.get("mask"))
    if d.shape[-1] == 0:
        return ((0.0, 0.0),)
    g = np.where(k.get("mask", True), np.abs(k["g"]), 0)
    total = g.sum(axis=-1, keepdims=True)
    winner = np.arange(d.shape[-1]) == np.argmax(d, axis=-1)[..., None]
    growth = _far(np.maximum(finite(d), gap[..., None]))
    return ((np.where(winner, total - g, np.maximum(g, p * total)), growth),)


def scale_entropy(k, out):
    gap = _parts(k["x"], k.get("mask"), k.get("scale", 1))[3]
    return ((0.0, _far(gap) + _faint_rest(gap, gap, k["least"])),)


def scale_entropy_vjp(k, out):
    scale = k.get("scale", 1)
    d, p, _, gap = _parts(k["x"], k.get("mask"), scale)
    if d.shape[-1] == 0:
        return ((0.0, 0.0),)
    log_p = np.where(p > 0, np.abs(np.log(p)), 0)
    h = (p * log_p).sum(axis=-1, keepdims=True)
    growth = _far(np.maximum(finite(d), gap[..., None]))
    outer = np.abs(k["g"][..., None] * scale)
    factor = outer * (log_p + h)
    growth = growth + _faint(p, factor, k["least"])
    growth = growth + _faint_rest(gap[..., None], outer * gap[..., None], k["least"])
    return ((factor * p, growth),)


def _lambda(k):
    x = k["scores"]
    mask = np.broadcast_to(k.get("mask", True), x.shape)
    n = np.maximum(mask.sum(axis=-1), max(k.get("min_length", 1), 1))
    return (coefficient(k) * np.log(n.astype(x.dtype)))[..., None]


def scale_growth(k):
    return SCALE_GROWTH[oracle.name_of(k["dtype"])]


def scale_invariant(k, out):
    """lambda is a rounded number, so the growth starts at once."""
    d = _parts(k["scores"], k.get("mask"), _lambda(k))[0]
    return ((0.0, scale_growth(k) * finite(d)),)


def scale_invariant_vjp(k, out):
    return _centred(k, k["scores"], _lambda(k), scale_growth(k))


def scale_bounds(k, out):
    x, tau = k["x"], k.get("tau", 1.0)
    n = x.shape[-1]
    p = k["p"] / k["p"].sum(axis=-1, keepdims=True) if "p" in k else np.full_like(x, 1) / max(n, 1)
    mean = np.abs(x).mean(axis=-1) if n else 0.0
    weighted = (p * np.abs(x)).sum(axis=-1)
    top = np.abs(x).max(axis=-1) if n else 0.0
    log_n = tau * np.log(n) if n else 0.0
    return (
        (0.0, 0.0),
        (np.maximum(mean, log_n), 0.0),
        (np.maximum(weighted, log_n), 0.0),
        (np.maximum(top, log_n), 0.0),
    )


def scale_lipschitz(k, out):
    if k["x"].shape[-1] == 0:
        return ((0.0, 0.0),) * 2
    ends = [np.abs(reference.logsumexp(k[v], None)) for v in "xy"]
    tops = [finite(k[v]).max(axis=-1) for v in "xy"]
    return ((np.maximum.reduce([*map(finite, ends), *tops]), 0.0), (0.0, 0.0))


def scale_jensen(k, out):
    x = k["x"]
    if x.size == 0:
        return ((0.0, 0.0),)
    top = np.abs(x).max(axis=(0, -1))
    return ((top + np.log(x.shape[-1]), 0.0),)


# --- From public arguments to kernel arguments ---


def coefficient(k):
    """lambda = coefficient * log n, in the oracle's type."""
    base = (
        np.longdouble(k.get("base", 512.0)) if oracle.HAS_WIDE else np.float64(k.get("base", 512.0))
    )
    dim, kappa = k.get("dim"), k.get("kappa")
    if dim is None:
        return 1 / np.log(base)
    return (
        1 / (np.log(base) * np.sqrt(type(base)(dim))) if kappa is None else type(base)(kappa) / dim
    )


def lower_lse(k):
    if "b" in k:
        out = (None, np.zeros(np.broadcast_shapes(k["a"].shape, k["b"].shape)[:-1], k["a"].dtype))
        return reference.logsumexp_weighted, (k["a"], k["b"], k.get("mask")), out
    return reference.logsumexp, (k["a"], k.get("mask")), ()


def lower_lse_vjp(k):
    if "b" in k:
        return reference.logsumexp_weighted_vjp, (k["a"], k["b"], k["g"], k.get("mask")), ()
    return reference.logsumexp_vjp, (k["a"], k["g"], k.get("mask")), ()


def _plain(name, *arrays, params=()):
    """Kernel of the same name with its arrays in order, absent ones None, then its parameters."""

    def lower(k):
        defaults = {"scale": 1.0, "order": 1.0, "tau": 1.0, "min_length": 1}
        values = tuple(
            coefficient(k) if p == "coefficient" else k.get(p, defaults.get(p)) for p in params
        )
        return getattr(reference, name), tuple(k.get(a) for a in arrays), values

    return lower


def lower_jensen(k):
    def gap(x, weights):
        m = x.shape[0]
        w = np.full(m, 1, x.dtype) / m if weights is None else weights
        w = (w / w.sum()).reshape(-1, *[1] * (x.ndim - 1))
        ends = reference.logsumexp(x, None)
        return (w[..., 0] * ends).sum(axis=0) - reference.logsumexp((w * x).sum(axis=0), None)

    return gap, (k["x"], k.get("weights")), ()


# --- The functions ---

_FORMS = ({}, {"dim": 64}, {"dim": 64, "kappa": 1.5}, {"min_length": 16}, {"base": 100.0})
_SCALES = ({}, {"scale": 0.25}, {"scale": 4.0})

REDUCTIONS = (
    Case(
        "logsumexp",
        "logsumexp",
        ("a",),
        ("n",),
        ("",),
        lower_lse,
        scale_lse,
        default_axis=None,
        keepdims=True,
        shift="moves",
        permutes="still",
        empty=-np.inf,
    ),
    Case(
        "logsumexp-b",
        "logsumexp",
        ("a", "b"),
        ("n", "n"),
        ("",),
        lower_lse,
        scale_lse_b,
        default_axis=None,
        keepdims=True,
        permutes="still",
        empty=-np.inf,
    ),
    Case(
        "logsumexp-sign",
        "logsumexp",
        ("a", "b"),
        ("n", "n"),
        ("", ""),
        lower_lse,
        scale_lse_b,
        fixed={"return_sign": True},
        default_axis=None,
        keepdims=True,
        permutes="still",
        empty=-np.inf,
    ),
    Case(
        "logsumexp_vjp",
        "logsumexp_vjp",
        ("a", "g"),
        ("n", ""),
        ("n",),
        lower_lse_vjp,
        scale_lse_vjp,
        default_axis=None,
        shift="still",
        permutes="follows",
    ),
    Case(
        "logsumexp_vjp-b",
        "logsumexp_vjp",
        ("a", "g", "b"),
        ("n", "", "n"),
        ("n",),
        lower_lse_vjp,
        scale_lse_vjp,
        default_axis=None,
        permutes="follows",
    ),
    Case(
        "logmeanexp",
        "logmeanexp",
        ("a",),
        ("n",),
        ("",),
        _plain("logmeanexp", "a", "weights"),
        scale_lse,
        default_axis=None,
        mask=False,
        keepdims=True,
        shift="moves",
        permutes="still",
        empty=np.nan,
    ),
    Case(
        "logmeanexp-weights",
        "logmeanexp",
        ("a", "weights"),
        ("n", "n"),
        ("",),
        _plain("logmeanexp", "a", "weights"),
        scale_lse,
        default_axis=None,
        mask=False,
        keepdims=True,
        permutes="still",
        empty=np.nan,
    ),
    Case(
        "logmeanexp_vjp",
        "logmeanexp_vjp",
        ("a", "g"),
        ("n", ""),
        ("n",),
        _plain("logmeanexp_vjp", "a", "g", "weights"),
        scale_lme_vjp,
        default_axis=None,
        mask=False,
        shift="still",
        permutes="follows",
    ),
    Case(
        "logmeanexp_vjp-weights",
        "logmeanexp_vjp",
        ("a", "g", "weights"),
        ("n", "", "n"),
        ("n",),
        _plain("logmeanexp_vjp", "a", "g", "weights"),
        scale_lme_vjp,
        default_axis=None,
        mask=False,
        permutes="follows",
    ),
    Case(
        "softmax",
        "softmax",
        ("x",),
        ("n",),
        ("n",),
        _plain("softmax", "x", "mask"),
        scale_softmax,
        default_axis=None,
        shift="still",
        permutes="follows",
    ),
    Case(
        "softmax_vjp",
        "softmax_vjp",
        ("x", "g"),
        ("n", "n"),
        ("n",),
        _plain("softmax_vjp", "x", "g", "mask", params=("scale",)),
        scale_softmax_vjp,
        variants=_SCALES,
        default_axis=None,
        shift="still",
        permutes="follows",
    ),
    Case(
        "log_softmax",
        "log_softmax",
        ("x",),
        ("n",),
        ("n",),
        _plain("log_softmax", "x", "mask"),
        default_axis=None,
        shift="still",
        permutes="follows",
    ),
    Case(
        "log_softmax_vjp",
        "log_softmax_vjp",
        ("x", "g"),
        ("n", "n"),
        ("n",),
        _plain("log_softmax_vjp", "x", "g", "mask"),
        scale_log_softmax_vjp,
        default_axis=None,
        shift="still",
        permutes="follows",
    ),
    Case(
        "logsumexp_softmax",
        "logsumexp_softmax",
        ("x",),
        ("n",),
        ("", "n"),
        _plain("logsumexp_softmax", "x", "mask"),
        lambda k, out: scale_lse(k, out) + scale_softmax(k, out),
        limits=("logsumexp", "softmax"),
        keepdims=True,
        empty=-np.inf,
    ),
    Case(
        "softmax_entropy",
        "softmax_entropy",
        ("x",),
        ("n",),
        ("",),
        _plain("softmax_entropy", "x", "mask", params=("scale",)),
        scale_entropy,
        variants=_SCALES,
        shift="still",
        permutes="still",
        empty=0.0,
    ),
    Case(
        "softmax_entropy_vjp",
        "softmax_entropy_vjp",
        ("x", "g"),
        ("n", ""),
        ("n",),
        _plain("softmax_entropy_vjp", "x", "g", "mask", params=("scale",)),
        scale_entropy_vjp,
        variants=_SCALES,
        shift="still",
        permutes="follows",
    ),
    Case(
        "logsumexp_bounds",
        "logsumexp_bounds",
        ("x",),
        ("n",),
        ("", "", "", ""),
        _plain("logsumexp_bounds", "x", "p", params=("order", "tau")),
        scale_bounds,
        variants=({}, {"tau": 0.5}, {"order": 2.0}, {"order": 3.5, "tau": 2.0}),
        mask=False,
        shift="moves",
        permutes="still",
    ),
    Case(
        "logsumexp_bounds-p",
        "logsumexp_bounds",
        ("x", "p"),
        ("n", "n"),
        ("", "", "", ""),
        _plain("logsumexp_bounds", "x", "p", params=("order", "tau")),
        scale_bounds,
        variants=({}, {"order": 2.0, "tau": 2.0}),
        mask=False,
        permutes="still",
    ),
    Case(
        "logsumexp_lipschitz",
        "logsumexp_lipschitz",
        ("x", "y"),
        ("n", "n"),
        ("", ""),
        _plain("logsumexp_lipschitz", "x", "y"),
        scale_lipschitz,
        mask=False,
        permutes="still",
    ),
    Case(
        "entropy_invariant_softmax",
        "entropy_invariant_softmax",
        ("scores",),
        ("n",),
        ("n",),
        _plain("entropy_invariant_softmax", "scores", "mask", params=("coefficient", "min_length")),
        scale_invariant,
        variants=_FORMS,
        shift="still",
        permutes="follows",
    ),
    Case(
        "entropy_invariant_softmax_vjp",
        "entropy_invariant_softmax_vjp",
        ("scores", "g"),
        ("n", "n"),
        ("n",),
        _plain(
            "entropy_invariant_softmax_vjp",
            "scores",
            "g",
            "mask",
            params=("coefficient", "min_length"),
        ),
        scale_invariant_vjp,
        variants=_FORMS,
        shift="still",
        permutes="follows",
    ),
)

# These two have no core axis of their own: one is elementwise, the other reduces two axes.
SCALE = Case(
    "entropy_invariant_scale",
    "entropy_invariant_scale",
    ("n",),
    ("n",),
    ("n",),
    _plain("entropy_invariant_scale", "n", params=("coefficient", "min_length")),
    variants=_FORMS,
    mask=False,
    elementwise=True,
)
JENSEN = Case(
    "logsumexp_jensen_gap",
    "logsumexp_jensen_gap",
    ("x",),
    ("n",),
    ("",),
    lower_jensen,
    scale_jensen,
    mask=False,
    keepdims=False,
)

# --- Those of other parts ---

MODULES = [import_module(p.stem) for p in sorted(Path(__file__).parent.glob("cases_*.py"))]
CASES = (*REDUCTIONS, *(case for module in MODULES for case in module.CASES))
ALL = (*CASES, SCALE, JENSEN)
BY_ID = {case.id: case for case in ALL}
FUNCTIONS = sorted({case.function for case in ALL})
