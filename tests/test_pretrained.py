from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rm_cluster.config import EvaluateConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.measurement import plan_measurements
from rm_cluster.scorers import Classifier, Embedding, Logprob
from rm_cluster.scorers.pretrained import length_limit
from rm_cluster.serving import Replica
from tests.models import save, save_llama, tokenizer
from tests.rows import random_rows
from tests.test_evaluation import config, write_preferences

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


@pytest.mark.parametrize("kind", ["longformer", "mpnet", "xlm-roberta-xl", "electra", "albert"])
def test_the_longest_text_that_is_admitted_has_positions(kind: str, tmp_path: Path) -> None:
    tok = tokenizer()
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(tok), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=60, pad_token_id=1,
    )  # fmt: skip
    folder = save(transformers.AutoModel.from_config, config, tmp_path / "m", 0, tok)
    embedding = Embedding(model=str(folder))
    limit = length_limit(config, tok)
    num_special = len(tok("")["input_ids"])
    assert np.isfinite(embedding.embed(["a" * (limit - num_special)])).all()
    with pytest.raises(DataFormatError, match=f"at most {limit}"):
        embedding.embed(["a" * (limit - num_special + 1)])
    ids = torch.full((1, limit + 1), 5)
    with pytest.raises((IndexError, RuntimeError)):
        transformers.AutoModel.from_pretrained(folder)(input_ids=ids, attention_mask=ids // 5)


def test_what_is_measured_is_of_the_commit_that_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folders = [save_llama(tmp_path / f"seed-{seed}", seed) for seed in (0, 1)]
    repository = tmp_path / "models--lab--rm"
    for folder, commit in zip(folders, ("a" * 40, "b" * 40), strict=True):
        shutil.copytree(folder, repository / "snapshots" / commit)
    main = repository / "refs" / "main"
    main.parent.mkdir()
    main.write_text("a" * 40)
    model = {"type": "classifier", "name": "rm", "model": "lab/rm", "template": "plain"}
    data = write_preferences(tmp_path / "data.jsonl", random_rows(2, seed=0))
    run = EvaluateConfig.model_validate(config(tmp_path / "out", data, model))
    plan = plan_measurements(run)
    main.write_text("b" * 40)
    # a replica starts later, from the plan's config
    replica = Replica(plan.composition.measured["rm"], run.scoring, 1)
    rows = random_rows(3, seed=0)
    of_first = Classifier(model=str(folders[0]), template="plain").score(rows)
    np.testing.assert_array_equal(
        np.concatenate(replica._model.score(rows)), np.concatenate(of_first)
    )
    assert plan.scorers["rm"].contract["fingerprint"] == f"lab/rm@{'a' * 40}"
    moved_on = plan_measurements(run).scorers["rm"]
    assert moved_on.contract["fingerprint"] == f"lab/rm@{'b' * 40}"
