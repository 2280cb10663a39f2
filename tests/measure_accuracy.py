"""Measure the worst error, in ULP, of every function, type and backend over many random rows.

    python tests/measure_accuracy.py [--rows 1000000] [--backend NAME ...] [--case ID ...]

The figures are what kexue_native.LIMITS states rounded up, with growth beyond the winner taken off.
"""

import argparse

import numpy as np

import oracle
import samples
from cases import CASES
from kexue_native import _backends


def measure(case, dtype, backend, rows, chunk=100_000):
    worst = [(0.0, "")] * len(case.outputs)
    for seed in range(1000, 1000 + max(1, -(-rows // chunk))):
        for note, arrays, options in samples.batches(case, dtype, min(rows, chunk), seed):
            exact, scales = case.exact(arrays, backend == "reference", **options)
            returned = case.call(arrays, axis=-1, backend=backend, **options)
            for k, got in enumerate(case.results(returned)):
                error, where = oracle.worst(got, exact[k], dtype, *scales[k])
                if error > worst[k][0]:
                    worst[k] = error, f"{note} at {where}"
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--backend", nargs="*")
    parser.add_argument("--dtype", nargs="*", default=oracle.DTYPES)
    parser.add_argument("--case", nargs="*", default=[c.id for c in CASES])
    arguments = parser.parse_args()
    levels = [f"cpu:{level}" for level in _backends.levels()]
    backends = arguments.backend or ["reference", *levels]
    print(f"worst error in ULP over {arguments.rows} random rows")
    np.seterr(all="ignore")
    for case in (c for c in CASES if c.id in arguments.case):
        for name in arguments.dtype:
            dtype = oracle.dtype_of(name)
            for backend in backends:
                found = measure(case, dtype, backend, arguments.rows)
                figures = "  ".join(f"{error:7.3f}" for error, _ in found)
                print(f"{case.id:32} {name:9} {backend:10} {figures}   {found[0][1]}", flush=True)


if __name__ == "__main__":
    main()
