"""Print the first shell block under a heading: readme_command.py README.md 'Quick start'."""

import re
import sys


def first_shell_block(text: str, heading: str) -> str:
    start = re.search(rf"^#+ {re.escape(heading)}\s*$", text, re.MULTILINE)
    if start is None:
        raise SystemExit(f"no heading {heading!r}")
    block = re.search(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text[start.end() :], re.M | re.S)
    if block is None:
        raise SystemExit(f"no shell block under {heading!r}")
    return block[1].strip()


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(first_shell_block(file.read(), sys.argv[2]))
