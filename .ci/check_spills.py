"""Fail when ptxas -v reports spills: check_spills.py build.log"""

import re
import sys


def spills(log: str) -> tuple[int, list[str]]:
    """How many kernels were reported, and one line for each that spills."""
    kernel, arch, reported, bad = "?", "?", 0, []
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\w+)'", line):
            kernel, arch = match.groups()
            reported += 1
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if int(match[1]) or int(match[2]):
                bad.append(f"{arch} {kernel}: {match[0]}")
    return reported, bad


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
        reported, bad = spills(file.read())
    print(*bad, sep="\n")
    print(f"{reported} kernels reported by ptxas, {len(bad)} of them spill")
    sys.exit(bool(bad) or reported == 0)
