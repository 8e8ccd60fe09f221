"""`python -m benchmarks`: every benchmark or every quality table, printed or written to a page.

    python -m benchmarks                                   # speed, against peers in the same run
    python -m benchmarks --only heuristics pii
    python -m benchmarks --quality --write docs/quality.md # gold sets

Each `bench_<part>.py` has `run() -> str`, each `quality_<part>.py` has `section() -> str`, both Markdown. They run one
after the other, each in a process of its own, so that none leaves caches or memory to the next.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SPEED_HEAD = """# Benchmarks

Made by `make bench` on {machine}. Times are CPU seconds, the best of several runs; every ratio comes from one run on
the same input. Peers are installed apart (`benchmarks/peers.txt`).
"""
QUALITY_HEAD = """# Quality on gold sets

Made by `make quality` from the labelled data beside the project: what the filters find, miss and get wrong.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quality", action="store_true", help="quality tables instead of speed")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there too")
    options = parser.parse_args()
    prefix, call = ("quality_", "section") if options.quality else ("bench_", "run")
    parts = [path.stem.removeprefix(prefix) for path in sorted(HERE.glob(prefix + "*.py"))]
    unknown = sorted(set(options.only or []) - set(parts))
    if unknown:
        parser.error(f"expected parts among {', '.join(parts)}, found {', '.join(unknown)}")
    pages = [(QUALITY_HEAD if options.quality else SPEED_HEAD.format(machine=_machine())).strip()]
    print(pages[0], flush=True)
    failed = []
    for part in options.only or parts:
        code = f"from benchmarks.{prefix}{part} import {call}; print({call}())"
        done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(part)
            continue
        pages.append(done.stdout.strip())
        print("\n" + pages[-1], flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if options.write:
        options.write.write_text("\n\n".join(pages) + "\n")


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
