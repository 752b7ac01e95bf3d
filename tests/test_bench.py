from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize("script", sorted(file.name for file in BENCH.glob("*.py")))
def test_every_script_finds_what_it_imports(script: str) -> None:
    run = f"import runpy, sys; sys.path.insert(0, {str(BENCH)!r}); runpy.run_path({script!r})"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=BENCH, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
