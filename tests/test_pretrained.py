from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rm_cluster.scorers import Classifier, Logprob
from tests.rows import random_rows

LOADS = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    scorer, rows = pickle.load(file)
print(sum(len(ids) for group in scorer.encode(rows) for ids in group.token_ids))
print(*sys.modules)
"""


@pytest.mark.parametrize("kind", [Classifier, Logprob])
def test_a_scorer_that_traveled_encodes_alike_without_torch(
    kind: type[Classifier | Logprob], tiny_llama: Path, tmp_path: Path
) -> None:
    scorer = kind(model=str(tiny_llama), template="plain")
    rows = random_rows(5, seed=0)
    file = tmp_path / "scorer.pickle"
    file.write_bytes(pickle.dumps((scorer, rows)))
    found = subprocess.run(
        [sys.executable, "-c", LOADS, file], capture_output=True, text=True, check=True
    ).stdout.split()
    here = [len(ids) for group in scorer.encode(rows) for ids in group.token_ids]
    assert int(found[0]) == np.sum(here)
    assert "torch" not in found
