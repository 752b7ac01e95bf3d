from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rm_cluster as rmc
from rm_cluster.errors import ConfigError
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import random_rows

ROWS = random_rows(6, seed=9)
CHATTY = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lm")
    strong = save_family("Llama", folder / "strong", tokenizer(), CAUSAL)
    return strong, save_family("Qwen2", folder / "weak", tokenizer(), CAUSAL)


def test_in_process_it_is_the_difference_of_two_log_probs(models: tuple[Path, Path]) -> None:
    strong, weak = map(str, models)
    sums = [rmc.Logprob(model=model).score(ROWS) for model in (strong, weak)]
    found = rmc.LogRatio(strong=strong, weak=weak, beta=0.5).score(ROWS)
    for ratio, high, low in zip(found, *sums, strict=True):
        np.testing.assert_allclose(ratio, 0.5 * (high - low))
    for ratio in rmc.LogRatio(strong=strong, weak=strong).score(ROWS):
        assert not ratio.any(), "a model over itself ties exactly"


def test_both_models_read_the_customized_prompt(models: tuple[Path, Path]) -> None:
    strong, weak = map(str, models)
    told = {"customize": {"use": ["criteria"]}}
    sums = [rmc.Logprob(model=model, **told).score(ROWS) for model in (strong, weak)]
    found = rmc.LogRatio(strong=strong, weak=weak, **told).score(ROWS)
    for ratio, high, low in zip(found, *sums, strict=True):
        np.testing.assert_allclose(ratio, high - low)


def test_simpo_rewards_of_one_model(models: tuple[Path, Path]) -> None:
    strong = str(models[0])
    means = rmc.Logprob(model=strong, normalize="mean", beta=2.5).score(ROWS)
    sums = rmc.Logprob(model=strong).score(ROWS)
    for row, mean, total in zip(ROWS, means, sums, strict=True):
        tokens = [len(c.encode()) + 1 for c in row["completions"]]  # a byte each, and the end
        np.testing.assert_allclose(mean, 2.5 * total / tokens)


def test_what_is_too_long_for_one_model_is_nan(models: tuple[Path, Path]) -> None:
    weak = {"model": str(models[1]), "max_length": 80}
    found = rmc.LogRatio(strong=str(models[0]), weak=weak).score(
        [{**ROWS[0], "completions": ["x" * 100]}, {**ROWS[0], "completions": ["x"]}]
    )
    assert np.isnan(found[0]).all()


@pytest.mark.parametrize(
    ("strong", "weak", "reason"),
    [
        ({"include_eos": False}, {}, "the same include_eos"),
        ({}, {"customize": {"use": ["criteria"]}}, "customizes prompts alike"),
        ({}, {"template": "concat"}, "shares one template"),
    ],
)
def test_models_that_do_not_go_together_are_refused(
    models: tuple[Path, Path], strong: dict[str, Any], weak: dict[str, Any], reason: str
) -> None:
    its = [{"model": str(models[0]), **strong}, {"model": str(models[1]), **weak}]
    with pytest.raises(ConfigError, match=reason):
        rmc.LogRatio(strong=its[0], weak=its[1])
