from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import rm_cluster as rmc
from rm_cluster.config import LogprobConfig
from rm_cluster.errors import ConfigError
from rm_cluster.scorers.scorer import contract_id
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import random_rows

ROWS = random_rows(5, seed=4)


def tuned_from(base: Path, folder: Path) -> Path:
    """The same model with every weight moved a little."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def scorer(tuned: Path, base: Path, alpha: float) -> rmc.Logprob:
    return rmc.Logprob(model=str(tuned), extrapolate={"base": str(base), "alpha": alpha})


# GPT2 ties its input and output embeddings: one weight, which must not be moved twice
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_equal_to_weights_that_are_extrapolated_by_hand(tmp_path: Path, family: str) -> None:
    base = save_family(family, tmp_path / "base", tokenizer(), CAUSAL)
    tuned = tuned_from(base, tmp_path / "tuned")
    by_hand = tuned_from(base, tmp_path / "by-hand")
    weights, others = (load_file(f / "model.safetensors") for f in (tuned, base))
    save_file(
        {key: weights[key] + 0.5 * (weights[key] - others[key]) for key in weights},
        by_hand / "model.safetensors",
        metadata={"format": "pt"},
    )
    found, expected = scorer(tuned, base, 0.5).score(ROWS), rmc.Logprob(model=str(by_hand))
    for a, b in zip(found, expected.score(ROWS), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_minus_one_is_the_base_and_zero_the_model(tmp_path: Path) -> None:
    base = save_family("Llama", tmp_path / "base", tokenizer(), CAUSAL)
    tuned = tuned_from(base, tmp_path / "tuned")
    for alpha, same in ((-1.0, base), (0.0, tuned)):
        expected = rmc.Logprob(model=str(same)).score(ROWS)
        for a, b in zip(scorer(tuned, base, alpha).score(ROWS), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_base_and_alpha_are_part_of_what_is_measured(tmp_path: Path) -> None:
    base = save_family("Llama", tmp_path / "base", tokenizer(), CAUSAL)
    tuned = tuned_from(base, tmp_path / "tuned")
    scorers = [scorer(tuned, base, 0.3), scorer(tuned, base, 0.5), scorer(tuned, tuned, 0.3)]
    assert (
        len({contract_id(one.contract) for one in [*scorers, rmc.Logprob(model=str(tuned))]}) == 4
    )
    assert scorers[0].config.name == "tuned-expo0.3"
    assert LogprobConfig.model_validate(scorers[0].config.model_dump()) == scorers[0].config


def test_checkpoints_of_different_models_are_refused(tmp_path: Path) -> None:
    base = save_family("Llama", tmp_path / "base", tokenizer(), CAUSAL)
    wide = save_family("Llama", tmp_path / "wide", tokenizer(), CAUSAL, intermediate_size=96)
    deep = save_family("Llama", tmp_path / "deep", tokenizer(), CAUSAL, num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"has the shape \(64, 32\) and \(96, 32\) in its base"):
        scorer(base, wide, 0.5).load()
    with pytest.raises(ConfigError, match=r"the model has no 'model\.layers\.2"):
        scorer(base, deep, 0.5).load()
    words = tokenizer()
    words.add_tokens(["more"])
    other = save_family("Llama", tmp_path / "other", words, CAUSAL)
    with pytest.raises(ConfigError, match=r"the tokenizers of .* differ"):
        scorer(base, other, 0.5)
    with pytest.raises(ConfigError, match="no such folder"):
        scorer(base, tmp_path / "nowhere", 0.5)
