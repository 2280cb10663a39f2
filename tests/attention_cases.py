"""The attention functions that have kernels, for the general promises and for the fuzzer."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import kexue_native as kn

SIZES = {"l": 5, "s": 6, "d": 3, "v": 2}
FLAGS = ("key_mask",)
POSITIVE, NEGATIVE = ("key_weight",), ("log_decay",)


@dataclass(frozen=True)
class AttentionCase:
    function: str
    arrays: dict[str, str]  # the letters of their last axes
    outputs: tuple[str, ...]  # the same, or names of arrays whose shape a result has
    options: dict[str, Any] = field(default_factory=dict)
    variants: tuple[dict, ...] = ({},)
    more: dict[str, str] = field(default_factory=dict)  # optional arrays
    m: int = 0  # rows of a projection, if it needs one

    @property
    def id(self):
        words = [str(w) for w in self.options.values() if isinstance(w, str)]
        words += [*self.more, *(k for k, v in self.options.items() if v is True)]
        return "-".join([self.function, *words])

    @property
    def public(self):
        return getattr(kn, self.function)

    @property
    def target(self):
        """What its argument for results is called"""
        return "grads" if self.function.endswith("_vjp") else "out"

    @property
    def fixed(self):
        options = dict(self.options)
        if self.m:
            options["projection"] = np.random.default_rng(5).standard_normal((self.m, SIZES["d"]))
        if "bias" in self.outputs:
            options["return_bias_grad"] = True
        return options

    def make(self, rng, loop=(2,), dtype=np.float64, sizes=SIZES):
        made = {}
        for name, letters in {**self.arrays, **self.more}.items():
            a = rng.standard_normal((*loop, *(sizes[c] for c in letters)))
            if name in FLAGS:
                made[name] = a > -0.7
                continue
            a = np.abs(a) if name in POSITIVE else -np.abs(a) if name in NEGATIVE else a
            wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
            made[name] = a.astype(dtype if name in self.arrays else wide)
        return made

    def shapes(self, arrays, loop, sizes=SIZES):
        """Of the results"""
        return [
            np.shape(arrays[o]) if o in arrays else (*loop, *(sizes[c] for c in o))
            for o in self.outputs
        ]

    def call(self, arrays, **options):
        return self.public(**arrays, **self.fixed, **options)


QKV = {"q": "ld", "k": "sd", "v": "sv"}
GRADIENT = {"g": "lv", **QKV}
SLOPES = ("q", "k", "v")
KEYED = {"key_weight": "s", "log_decay": "s"}
CAUSAL = ({}, {"causal": True}, {"causal": True, "exclude_self": True}, {"offset": 2})
LINEAR = (*CAUSAL[:3], {"causal": True, "chunk": 2}, {"normalize": False})


def pair(function, variants, options=None, more=None, own=True, **rest):
    """A function and its gradient; `own`: whether the optional arrays have gradients."""
    options, more = options or {}, more or {}
    yield AttentionCase(function, QKV, ("lv",), options, variants, more, **rest)
    slopes = (*SLOPES, *(more if own else ()))
    yield AttentionCase(f"{function}_vjp", GRADIENT, slopes, options, variants, more, **rest)


CASES = [
    *pair("softmax_attention", CAUSAL),
    *pair("softmax_attention", CAUSAL, {"scale": "entropy"}, {"key_mask": "s"}, own=False),
    *pair("softmax_attention", CAUSAL, more={"bias": "ls"}),
    *(
        case
        for kernel in ("elu1", "relu", "exp", "softmax_d", "efficient", "cosine", "taylor2")
        for case in pair("linear_attention", LINEAR, {"kernel": kernel})
    ),
    *pair("linear_attention", LINEAR, {"exclude_self": True}),
    *pair(
        "linear_attention",
        LINEAR,
        {"exclude_self": True, "kernel": "efficient"},
        {"key_weight": "s"},
    ),
    *pair("linear_attention", LINEAR, {"causal": True}, KEYED),
    *pair("linear_attention", LINEAR, more={"key_mask": "s"}, own=False),
    *pair("favor_attention", LINEAR, m=4),
    *pair("favor_attention", LINEAR, {"features": "hyperbolic"}, m=4),
    *pair("favor_attention", LINEAR, {"features": "relu"}, m=4),
    *pair("favor_attention", LINEAR, {"features": "trig"}, m=4),
    AttentionCase("feature_map", {"x": "ld"}, ("ld",), {"kernel": "elu1"}),
]
