"""Runs the tests whose bounds are those of rounding, as other processors and other numbers of threads round.

``python scripts/test_matrix.py`` takes all test files that import ``rounding``, once for each setting;
arguments go to pytest. It prints a row of Markdown for each, and fails if one of them does.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# None leaves the choice to the library: the best that the processor has.
CAPABILITIES = ("default", "avx2", None)
ONEDNN = ("AVX2", None)
THREADS = (1, 2, 4)


def main(arguments: list[str]) -> int:
    """Run all settings; 0 if all pass."""
    uses = re.compile(r"^(from|import) (rounding|tiny_training)\b", re.MULTILINE)
    files = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if uses.search(path.read_text()))
    chosen = arguments or [str(path.relative_to(ROOT)) for path in files]
    print("| ATEN_CPU_CAPABILITY | ONEDNN_MAX_CPU_ISA | OMP_NUM_THREADS | |", "|---|---|---|---|", sep="\n")
    failed = 0
    for capability, isa, threads in itertools.product(CAPABILITIES, ONEDNN, THREADS):
        settings = {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": isa}
        environment = {name: value for name, value in os.environ.items() if name not in settings}
        environment |= {name: value for name, value in settings.items() if value is not None}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
        failed += done.returncode != 0
        summary = f"{lines[-1].strip('= ')} ({time.monotonic() - began:.0f} s)"
        print(f"| {capability or ''} | {isa or ''} | {threads} | {summary} |", flush=True)
        for line in lines:
            if line.startswith("FAILED"):
                print(line, file=sys.stderr, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
