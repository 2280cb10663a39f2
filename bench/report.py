"""Measure all competitors in turn and write a Markdown table.

    python bench/report.py                      # 1 and 2 threads, bench/results/DATE.md
    python bench/report.py --quick --threads 1  # small shapes: does it all run?
    python bench/report.py --readme             # copy the newest summary into the README

Each thread count is a process of its own, since most libraries read it once, when imported.
Median of many rounds; in each round every competitor has its turn.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

BENCH = Path(__file__).resolve().parent
RESULTS = BENCH / "results"
README = BENCH.parent / "README.md"
MARKERS = ("<!-- benchmark -->", "<!-- /benchmark -->")
SUMMARY = ("<!-- summary -->", "<!-- /summary -->")
WIDE = ("float32", "float64")


# ---- the worker: one thread count, or the GPU


def sgemm(size: int) -> Any:
    """A product that is timed in every round: it tells a slow minute of the machine."""
    import numpy as np

    a = np.full((size, size), 0.5, np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def measure(threads: int, dtypes: list[str], quick: bool, total: float) -> dict[str, Any]:
    import harness
    import kexue_native as kn
    import special_peers

    size = 128 if quick else 768
    product = sgemm(size)
    problems = special_peers.problems(tuple(dtypes), quick)
    end = time.monotonic() + total
    prepared_in = 0.0
    results = []
    for i, problem in enumerate(problems):
        begin = time.monotonic()
        calls = {"sgemm": product}
        missing = {}
        builders = {**special_peers.builders(problem), **special_peers.limits(problem)}
        for name, builder in builders.items():
            try:
                if name.startswith("limit"):
                    calls[name] = builder(
                        problem, harness.data(problem.shape, problem.dtype), threads
                    )
                else:
                    calls[name] = harness.prepare(problem, builder, threads)
            except harness.Unavailable as reason:
                if not name.startswith("limit"):
                    missing[name] = str(reason)
            except AssertionError as error:
                missing[name] = f"wrong result, {problem.function} {problem.dtype}: {error}"
            except Exception as error:
                if name.startswith("kn"):
                    raise
                missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        # What is left of the time, less what preparing the rest will take at the same rate.
        prepared_in += time.monotonic() - begin
        left = len(problems) - i
        seconds = (end - time.monotonic() - prepared_in / (i + 1) * (left - 1)) / left
        times = harness.interleave(calls, max(seconds, 0.01))
        results.append({"problem": problem, "times": times, "missing": missing})
        print(f"  {problem.function} {problem.dtype} {problem.shape_name}", file=sys.stderr)
    return {
        "threads": kn.get_num_threads(),
        "config": {k: str(v) for k, v in kn.show_config().items()},
        "flops": 2 * size**3,
        "results": results,
        "small": {f: small(f) for f in special_peers.FUNCTIONS},
    }


def small(function: str) -> dict[str, float]:
    """Seconds of a call on 8 float64."""
    import harness
    import special_peers

    def clock(call: Any) -> float:
        start = time.perf_counter()
        for _ in range(200):
            call()
        return (time.perf_counter() - start) / 200

    return harness.interleave(special_peers.small_calls(function), 0.5, clock, most=50)


def work(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(BENCH))
    if options.worker == "gpu":
        import gpu

        reason = gpu.unavailable()
        found = {"unavailable": reason} if reason else gpu.measure(options.quick, 0.5)
    else:
        threads = int(options.worker)
        machine.limit_threads(threads)
        found = measure(threads, options.dtype, options.quick, options.seconds)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump(found, file)


# ---- from measurements to Markdown


class Row:
    """One problem with its times, and what they say."""

    def __init__(self, entry: dict[str, Any]) -> None:
        import harness

        function, dtype, shape, axis = entry["problem"]
        self.problem = harness.Problem(function, dtype, tuple(shape), axis)
        self.times: dict[str, float] = entry["times"]
        self.missing: dict[str, str] = entry["missing"]
        self.peers = {n: t for n, t in self.times.items() if not n.startswith(("kn", "limit"))}
        self.peers.pop("sgemm", None)

    def ns(self, name: str) -> float | None:
        return 1e9 * self.times[name] / self.problem.elements if name in self.times else None

    def rate(self, name: str = "kn out=") -> float | None:
        return 1e-9 * self.problem.bytes_moved / self.times[name] if name in self.times else None

    @property
    def limit(self) -> float | None:
        """GB/s of the fastest read or copy of as many bytes."""
        p = self.problem
        size = p.bytes_moved if not p.reduces else p.bytes_moved * p.elements
        if p.reduces:  # the input alone
            size = size // (p.elements + p.out_shape[0])
        times = [
            t / (2 if p.reduces and n == "limit copy" else 1)  # the GPU only has the copy
            for n, t in self.times.items()
            if n.startswith("limit")
        ]
        return 1e-9 * size / min(times) if times else None

    @property
    def share(self) -> float | None:
        """Our part of the machine's limit."""
        rate = self.rate()
        return rate / self.limit if rate and self.limit else None

    def best(self, allocates: bool = False) -> tuple[str, float] | None:
        """The fastest peer; with `allocates`, of those that make a new output."""
        peers = {n: t for n, t in self.peers.items() if not (allocates and n.endswith("out="))}
        return min(peers.items(), key=lambda item: item[1]) if peers else None

    def lead(self, allocates: bool = False) -> float | None:
        """How many times faster than the fastest peer."""
        best, mine = self.best(allocates), self.times.get("kn" if allocates else "kn out=")
        return best[1] / mine if best and mine else None

    @property
    def over_scipy(self) -> float | None:
        peer, mine = self.times.get("scipy"), self.times.get("kn out=")
        return peer / mine if peer and mine else None


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """About `digits` significant digits, never an exponent."""
    if value is None:
        return "–"
    decimals = digits if value < 1 else max(0, digits - len(str(int(value))))
    return f"{value:.{decimals}f}{unit}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; the first two columns are text."""
    lines = [header, ["---"] * min(2, len(header)) + ["--:"] * (len(header) - 2), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def wide_table(rows: list[Row], sgemm_flops: float | None) -> list[str]:
    header = ["function", "shape", "out= ns", "GB/s", "new ns", "best peer", "its ns", "ratio"]
    header += ["best peer, new", "its ns", "ratio", "vs SciPy", "limit GB/s", "of limit"]
    header += ["sgemm GFLOP/s"] if sgemm_flops else []
    lines = []
    for row in rows:
        line = [row.problem.function, row.problem.shape_name]
        line += [number(row.ns("kn out=")), number(row.rate()), number(row.ns("kn"))]
        for allocates in (False, True):
            best = row.best(allocates)
            name, time_ = best if best else ("–", None)
            line += [name, number(row.ns(name))] if time_ else ["–", "–"]
            line.append(number(row.lead(allocates)))
        line += [number(row.over_scipy), number(row.limit), percent(row.share)]
        if sgemm_flops:
            line.append(number(1e-9 * sgemm_flops / row.times["sgemm"]))
        lines.append(line)
    return table(header, lines)


def narrow_table(rows: list[Row], float32: dict[tuple[str, str], Row]) -> list[str]:
    header = ["function", "shape", "out= ns", "GB/s", "new ns", "of limit", "rate vs float32"]
    lines = []
    for row in rows:
        p = row.problem
        wide = float32.get((p.function, p.shape_name))
        mine, theirs = row.times.get("kn out="), wide.times.get("kn out=") if wide else None
        line = [p.function, p.shape_name, number(row.ns("kn out=")), number(row.rate())]
        line += [number(row.ns("kn")), percent(row.share)]
        lines.append([*line, number(theirs / mine if mine and theirs else None)])
    return table(header, lines)


def everything(rows: list[Row]) -> list[str]:
    """ns per element of every competitor."""
    names = list(dict.fromkeys(n for row in rows for n in row.times if n != "sgemm"))
    lines = [
        [r.problem.function, f"{r.problem.dtype} {r.problem.shape_name}"]
        + [number(r.ns(name)) for name in names]
        for r in rows
    ]
    return table(["function", "problem", *names], lines)


def shortfalls(rows: list[Row]) -> list[str]:
    """What is worse than it should be: said as plainly as what is better."""
    lines = []
    for row in rows:
        lead, share, over_scipy = row.lead(), row.share, row.over_scipy
        if lead is None:
            continue
        name = f"{row.problem.function} {row.problem.dtype} {row.problem.shape_name}"
        if lead < 1:
            lines.append(f"- {name}: {row.best()[0]} is faster, {number(1 / lead)} times.")
        elif lead < 1.5 and (share or 0) < 0.9:
            text = f"{number(lead)} times {row.best()[0]} and {percent(share)} of the limit"
            lines.append(f"- {name}: only {text}.")
        if over_scipy is not None and over_scipy < 3:
            lines.append(f"- {name}: only {number(over_scipy)} times SciPy.")
    return lines or ["- nothing"]


def small_table(found: dict[str, dict[str, float]]) -> list[str]:
    names = list(dict.fromkeys(n for times in found.values() for n in times))
    lines = [
        [function, "8 float64", *(number(1e6 * times[n] if n in times else None) for n in names)]
        for function, times in found.items()
    ]
    return table(["microseconds", "input", *names], lines)


def summary(runs: list[dict[str, Any]], date: str) -> list[str]:
    """What the README shows: the most threads, both types side by side."""
    run = max(runs, key=lambda run: run["threads"])
    rows = [Row(entry) for entry in run["results"]]
    problems = {(r.problem.function, r.problem.shape_name): {} for r in rows}
    for row in rows:
        problems[row.problem.function, row.problem.shape_name][row.problem.dtype] = row
    header, lines = ["function", "shape"], []
    shown = [dtype for dtype in WIDE if any(r.problem.dtype == dtype for r in rows)]
    for dtype in shown:
        header += [f"{dtype}: ns per element", "GB/s", "best peer", "times faster", "than SciPy"]
    for (function, shape), by_dtype in problems.items():
        line = [function, shape]
        for dtype in shown:
            row = by_dtype.get(dtype)
            if row is None:
                line += ["–"] * 5
                continue
            best = row.best()
            line += [number(row.ns("kn out=")), number(row.rate()), best[0] if best else "–"]
            line += [number(row.lead(), 2), number(row.over_scipy, 2)]
        lines.append(line)
    level = run["config"].get("cpu level in use", "")
    threads = f"{run['threads']} thread{'s' * (run['threads'] > 1)}"
    text = (
        f"{machine.cpu_name()}, {threads}, level {level}, {date}; with `out=`. "
        "The best peer is the fastest of SciPy, NumPy (plain, and in blocks), numexpr, Numba, JAX "
        "and PyTorch, with `out=` where it has one."
    )
    return [SUMMARY[0], text, "", *table(header, lines)[:-1], SUMMARY[1]]


def cpu_section(run: dict[str, Any]) -> list[str]:
    rows = [Row(entry) for entry in run["results"]]
    flops = run["flops"]
    products = sorted(1e-9 * flops / row.times["sgemm"] for row in rows)
    lines = [f"## {run['threads']} thread{'s' * (run['threads'] > 1)}", ""]
    lines += [
        f"sgemm {number(products[len(products) // 2])} GFLOP/s in the median group, "
        f"{number(products[0])} to {number(products[-1])} over all groups."
    ]
    largest = max(row.problem.elements for row in rows)
    for what, reduces in (("read", True), ("copy", False)):
        rates = [
            r.limit for r in rows if r.problem.elements == largest and r.problem.reduces == reduces
        ]
        if any(rates):
            lines.append(f"Largest arrays: {what} {number(max(filter(None, rates)))} GB/s.")
    lines.append("")
    float32 = {
        (r.problem.function, r.problem.shape_name): r for r in rows if r.problem.dtype == "float32"
    }
    for dtype in dict.fromkeys(r.problem.dtype for r in rows):
        chosen = [r for r in rows if r.problem.dtype == dtype]
        lines += [f"### {dtype}", ""]
        wide = dtype in WIDE
        lines += wide_table(chosen, flops) if wide else narrow_table(chosen, float32)
    lines += ["### Worse than it should be", ""]
    lines += ["A faster peer; or less than 1.5 times the best peer and 90 % of the limit.", ""]
    lines += [*shortfalls(rows), "", "### Small calls", "", *small_table(run["small"])]
    compared = [r for r in rows if r.problem.dtype in WIDE]
    if compared:
        lines += ["### All competitors, ns per element", "", *everything(compared)]
    missing = {f"- {n}: {why}" for row in rows for n, why in row.missing.items()}
    if missing:
        lines += ["### Without a time", "", *sorted(missing), ""]
    return lines


def gpu_section(found: Any) -> list[str]:
    lines = ["## GPU", ""]
    if isinstance(found, dict):
        return [*lines, f"Not measured: {found['unavailable']}.", ""]
    rows = [Row(entry) for entry in found]
    timed = [row for row in rows if row.times]
    for dtype in dict.fromkeys(r.problem.dtype for r in timed):
        chosen = [r for r in timed if r.problem.dtype == dtype]
        lines += [f"### {dtype} on the GPU", "", *wide_table(chosen, None)]
    missing = {f"- {n}: {why}" for row in rows for n, why in row.missing.items()}
    return [*lines, *sorted(missing), ""]


HOW = """\
ns and GB/s: median time of a call, per element, and for the bytes of the input read once and of
the output written once. `out=`: the output is there already; `new`: it is made by the call.
All competitors of a line take turns in one process, one untimed and one timed call each, and idle
threads of other libraries sleep. Every result is compared with the NumPy reference in a wider type
first; one that is wrong gets no time. The limit is the fastest read (logsumexp) or copy of as many
bytes, measured in the same rounds; so is sgemm, which shows whether the machine had a slow minute.
`numpy blocks`: cache-sized blocks, buffers made before, parts in Python threads. `numba`: parallel
kernels with an exponential of their own that LLVM vectorises."""


def document(runs: list[dict[str, Any]], gpu: Any, quick: bool) -> str:
    date = datetime.date.today().isoformat()
    config = runs[0]["config"]
    versions = ", ".join(f"{name} {v}" for name, v in machine.versions().items())
    lines = [f"# Benchmark of kexue_native {config['kexue_native']}", ""]
    if quick:
        lines += ["**Small shapes and few rounds: these figures mean nothing.**", ""]
    lines += [
        f"- Date: {date}",
        f"- Machine: {machine.cpu_name()}; caches {machine.cache_sizes()}; {config['platform']}",
        f"- CPU core: {config['cpu core']}; level in use: {config['cpu level in use']}",
        f"- Versions: {versions}",
        "",
        HOW,
        "",
        *summary(runs, date),
        "",
    ]
    for run in runs:
        lines += cpu_section(run)
    return "\n".join([*lines, *gpu_section(gpu)]).rstrip() + "\n"


# ---- the README


def newest() -> Path:
    """The results file with the latest date in it."""

    def date(path: Path) -> tuple[str, float]:
        match = re.search(r"^- Date: (\S+)", path.read_text(encoding="utf-8"), re.M)
        return (match[1] if match else "", path.stat().st_mtime)

    files = [p for p in RESULTS.glob("*.md") if SUMMARY[0] in p.read_text(encoding="utf-8")]
    if not files:
        raise SystemExit("no results are in bench/results: run report.py first")
    return max(files, key=date)


def between(text: str, markers: tuple[str, str]) -> tuple[int, int]:
    start, stop = (text.find(marker) for marker in markers)
    if not 0 <= start < stop:
        raise SystemExit(f"{markers[0]} and {markers[1]} are not there")
    return start + len(markers[0]), stop


def fill_readme() -> None:
    source = newest()
    found = source.read_text(encoding="utf-8")
    start, stop = between(found, SUMMARY)
    link = f"All figures: [{source.name}]({source.relative_to(README.parent).as_posix()})."
    text = README.read_text(encoding="utf-8")
    first, last = between(text, MARKERS)
    body = f"\n{found[start:stop].strip()}\n\n{link}\n"
    README.write_text(text[:first] + body + text[last:], encoding="utf-8")
    print(f"README.md: the benchmark is that of {source.name}")


# ---- the command


def run_worker(worker: str, options: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--worker", worker, "--output", str(output)]
        command += ["--seconds", str(options.seconds), "--dtype", *options.dtype]
        command += ["--quick"] * options.quick
        subprocess.run(command, check=True)
        return json.loads(output.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    types = ["float32", "float64", "float16", "bfloat16"]
    parser.add_argument("--dtype", nargs="+", default=types, choices=types)
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds")
    parser.add_argument("--seconds", type=float, help="for one thread count; default 320")
    parser.add_argument("--output", help="Markdown file; default bench/results/DATE.md")
    parser.add_argument("--readme", action="store_true", help="only fill in the README")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seconds is None:
        options.seconds = 3.0 if options.quick else 320.0
    if options.readme:
        fill_readme()
        return
    if options.worker:
        work(options)
        return
    runs = []
    for threads in options.threads:
        print(f"{threads} thread{'s' * (threads > 1)}", file=sys.stderr)
        runs.append(run_worker(str(threads), options))
    text = document(runs, run_worker("gpu", options), options.quick)
    print(text, end="")
    name = options.output
    if name is None and not options.quick:
        name = RESULTS / f"{datetime.date.today().isoformat()}.md"
    if name is not None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
