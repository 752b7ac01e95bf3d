from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"
RUN_ALL = """
import runpy, sys
for script in sys.argv[1:]:
    runpy.run_path(script, run_name="imported")
"""


def test_every_script_finds_what_it_imports() -> None:
    scripts = sorted(str(file) for file in BENCH.glob("*.py"))
    assert scripts
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *scripts],
        cwd=BENCH,  # where they look for one another
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
