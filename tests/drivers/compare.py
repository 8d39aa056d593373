"""Runs the same cases over two DSNs and compares what each one saw, value by value and error by error."""

import difflib
import json
import pathlib
import sys

_FILE = pathlib.Path(__file__).with_name("statements.json")


def statements(prefix):
    """The statements that every driver runs; their tables carry the driver's prefix."""
    return [s.replace("{prefix}", prefix) for s in json.loads(_FILE.read_text(encoding="utf-8"))]


def dsns():
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} DIRECT_DSN PROXIED_DSN")
    return sys.argv[1], sys.argv[2]


def report(driver, direct, proxied):
    """Both are lists of (case, transcript lines). Exits 1 with a diff of every case that differs."""
    different = 0
    for (name, wanted), (_, seen) in zip(direct, proxied, strict=True):
        if wanted == seen:
            continue
        different += 1
        print(f"--- {name}")
        for line in difflib.unified_diff(wanted, seen, "direct", "proxied", lineterm="", n=2):
            print(line[:2000])
    steps = sum(len(lines) for _, lines in direct)
    if different:
        print(f"{driver}: {different} of {len(direct)} cases differ")
        sys.exit(1)
    print(f"{driver}: {len(direct)} cases, {steps} results, identical")
