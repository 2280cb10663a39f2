"""Write golden/*.csv: arguments as hex floats, results from high precision.

    python tests/golden/generate.py

One file per case of tests/cases.py. Columns: the types in which the row holds (inputs are exact in
each of them), the scalar options, one column per array, one per result. Numbers of an array stand
one after the other; a result number is a float64 and, after a colon, what is left of the exact
value, so that half an ULP of float64 can be told from 0.6.
"""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import oracle  # noqa: E402


def weighted(a, b, mask=None):
    return oracle.exact_logsumexp_weighted(a, b, mask)[:1]


def weighted_vjp(a, g, b, mask=None):
    return oracle.exact_logsumexp_weighted_vjp(a, b, g, mask)


NARROW = "float64 float32 float16 bfloat16"
SETS = ((NARROW, 8, 14), ("float64 float32", 24, 14), ("float64", 53, 22))


def rounded(values, digits):
    """Nearest numbers with that many significant bits, in the normal range of float16 if 8."""
    m, e = np.frexp(np.asarray(values, np.float64))
    r = np.ldexp(np.round(np.ldexp(m, digits)), e - digits)
    return np.where(np.abs(r) < 2.0**-14, 0.0, r) if digits == 8 else r


def families(rng):
    """Rows of scores, easy and hard, without end."""
    while True:
        n = int(rng.integers(2, 9))
        base = rng.standard_normal(n)
        yield base
        yield 10.0 ** rng.uniform(-3, 3) * base
        yield base + rng.choice([-1e4, -200.0, 200.0, 1e4])
        yield np.round(2 * base) / 2  # ties
        yield np.where(np.arange(n) == rng.integers(n), rng.uniform(10, 60), -np.abs(base))
        yield np.concatenate([[1.0, 1.0 + 2.0**-6], -30 * np.abs(base)])
        yield np.array([rng.uniform(-700, 700)])
        yield -np.log(n) + 1e-3 * base  # logsumexp near 0
        yield np.linspace(0.0, -rng.uniform(20, 90), n)


def masks(rng, n):
    kept = rng.random(n) < 0.7
    kept[rng.integers(n)] = True
    return kept


def tables():
    """name -> (arrays, results, exact function, options to choose from)."""
    scales = [{}, {"scale": 0.5}, {"scale": 4.0}]
    forms = [{}, {"dim": 64}, {"dim": 64, "kappa": 1.5}, {"min_length": 16}, {"base": 100.0}]
    bounds = [{}, {"tau": 0.5}, {"order": 2.0}, {"order": 3.5, "tau": 2.0}]
    o = oracle
    return {
        "logsumexp": ("a", o.exact_logsumexp, [{}], True),
        "logsumexp-b": ("a b+", weighted, [{}], True),
        "logsumexp-sign": ("a b", o.exact_logsumexp_weighted, [{}], True),
        "logsumexp_vjp": ("a g1", o.exact_logsumexp_vjp, [{}], True),
        "logsumexp_vjp-b": ("a g1 b", weighted_vjp, [{}], True),
        "logmeanexp": ("a", o.exact_logmeanexp, [{}], False),
        "logmeanexp-weights": ("a weights+", o.exact_logmeanexp, [{}], False),
        "logmeanexp_vjp": ("a g1", o.exact_logmeanexp_vjp, [{}], False),
        "logmeanexp_vjp-weights": ("a g1 weights+", o.exact_logmeanexp_vjp, [{}], False),
        "softmax": ("x", o.exact_softmax, [{}], True),
        "softmax_vjp": ("x g", o.exact_softmax_vjp, scales, True),
        "log_softmax": ("x", o.exact_log_softmax, [{}], True),
        "log_softmax_vjp": ("x g", o.exact_log_softmax_vjp, [{}], True),
        "softmax_entropy": ("x", o.exact_softmax_entropy, scales, True),
        "softmax_entropy_vjp": ("x g1", o.exact_softmax_entropy_vjp, scales, True),
        "logsumexp_bounds": ("x", o.exact_bounds, bounds, False),
        "logsumexp_bounds-p": ("x p+", o.exact_bounds, bounds, False),
        "logsumexp_lipschitz": ("x y", o.exact_lipschitz, [{}], False),
        "entropy_invariant_softmax": ("scores", o.exact_invariant_softmax, forms, True),
        "entropy_invariant_softmax_vjp": ("scores g", o.exact_invariant_softmax_vjp, forms, True),
    }  # fmt: skip


def other(name, rng, n, digits):
    if name == "p":  # exact in 8 bits and of sum 1: multiples of 1/64 dealt out
        return rng.multinomial(64, np.full(n, 1 / n)) / 64
    values = rng.standard_normal(n)
    if name in ("b", "weights"):
        values = values * 4.0 ** rng.integers(-4, 5, n)
    return rounded(values, digits)


def short_hex(value):
    return re.sub(r"\.?0*p", "p", float(value).hex())


def hexed(values):
    return " ".join(map(short_hex, values))


def hexed_exact(values):
    parts = [oracle.split(v) for v in values]
    return " ".join(short_hex(high) + (":" + short_hex(low) if low else "") for high, low in parts)


def listed(result):
    return list(result) if isinstance(result, list | tuple) else [result]


def rows(key, arrays, exact, options, masked):
    rng = np.random.default_rng(list(key.encode()))
    names = arrays.split()
    for dtypes, digits, count in SETS:
        source = families(rng)
        for i in range(count):
            x = rounded(next(source), digits)
            given = [x]
            for name in names[1:]:
                size = 1 if name == "g1" else len(x)
                values = other(name.rstrip("+1"), rng, size, digits)
                given.append(np.abs(values) if name.endswith("+") else values)
            if not all(np.any(v != 0) for v in given[1:]):
                continue
            mask = masks(rng, len(x)) if masked and i % 3 == 2 else None
            chosen = options[i % len(options)]
            high = [oracle.to_mp(v) for v in given]
            with oracle.working_precision(*high, scale=chosen.get("scale", 1.0)):
                plain = [v[0] if n == "g1" else v for n, v in zip(names, high, strict=True)]
                kept = {} if mask is None else {"mask": list(mask)}
                numbers = {k: oracle.mpf(v) for k, v in chosen.items() if k != "min_length"}
                numbers |= {k: v for k, v in chosen.items() if k == "min_length"}
                result = exact(*plain, **kept, **numbers)
                flat = listed(result)
                yield [
                    dtypes,
                    json.dumps(chosen) if chosen else "",
                    "" if mask is None else "".join("01"[int(m)] for m in mask),
                    *map(hexed, given),
                    hexed_exact(flat),
                ]


def main():
    for key, (arrays, exact, options, masked) in tables().items():
        with open(HERE / f"{key}.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            names = [name.rstrip("+1") for name in arrays.split()]
            writer.writerow(["types", "options", "mask", *names, "result"])
            writer.writerows(rows(key, arrays, exact, options, masked))


if __name__ == "__main__":
    main()
