"""Random rows for accuracy: easy ones and the kinds that break formulas."""

import math

import numpy as np

import oracle

FAMILIES = ("normal", "shifted", "ties", "dominant", "nearly equal", "spread", "near zero")

# Row lengths and their share of the rows: many short rows, where every entry counts, few long ones.
LENGTHS = ((1, 0.01), (2, 0.44), (3, 0.25), (5, 0.15), (8, 0.12), (17, 0.025), (33, 0.005))
LONG = ((260, 0.0015), (1000, 0.0004), (3000, 0.0001))


def scores(rng, family, rows, n, dtype):
    """`rows` rows of `n` scores of one family, in `dtype`."""
    base = rng.standard_normal((rows, n))
    if family == "normal":
        x = 10.0 ** rng.uniform(-3, 3, (rows, 1)) * base
    elif family == "shifted":
        x = base + rng.uniform(-1e4, 1e4, (rows, 1))
    elif family == "ties":
        x = np.round(2 * base) / 2
    elif family == "dominant":
        x = base.copy()
        x[np.arange(rows), rng.integers(n, size=rows)] += rng.uniform(5, 60, rows)
    elif family == "nearly equal":
        x = np.where(np.arange(n) < 2, 1.0, -5 - 10 * np.abs(base))
        x *= 10.0 ** rng.uniform(-2, 2, (rows, 1))
        x = np.where(np.arange(n) == 1, np.nextafter(x.astype(np.float32), 0), x)
    elif family == "spread":
        x = rng.uniform(-700, 0, (rows, n)) + rng.uniform(-50, 50, (rows, 1))
    else:
        x = -math.log(n) + 10.0 ** rng.uniform(-6, 0, (rows, 1)) * base
    return x.astype(dtype)


def batches(case, dtype, rows, seed=0):
    """Arguments for about `rows` rows in all, one batch per family and length."""
    rng = np.random.default_rng([seed, *case.id.encode(), *oracle.name_of(dtype).encode()])
    for family in FAMILIES:
        for n, share in LENGTHS + LONG:
            if case.cost > 1 and share < 0.1 and rows < 2000:
                continue  # a single such row would take as long as all the others
            count = math.ceil(rows * share / len(FAMILIES))
            arrays = case.make(rng, (count, n), dtype)
            if case.main not in case.fill:
                arrays[case.main] = scores(rng, family, count, n, dtype)
            if "y" in arrays:
                arrays["y"] = (arrays["x"] + arrays["y"] / 3).astype(dtype)
            if case.mask and rng.random() < 0.3:
                arrays["mask"] = rng.random((count, n)) < 0.7
                arrays["mask"][:, 0] = True
            options = case.variants[int(rng.integers(len(case.variants)))]
            yield f"{family}, n = {n}, {options}", arrays, options
