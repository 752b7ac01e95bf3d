"""Judges that run here, on a tiny model with random weights: what they say is held to be right."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rm_cluster.config import EvaluateConfig, JudgeConfig
from rm_cluster.errors import ConfigError
from rm_cluster.parsing import parse_config
from rm_cluster.scorers import Judge
from rm_cluster.scorers.judge_prompt import JudgePrompt
from rm_cluster.scorers.questions import question_rows
from rm_cluster.scorers.scorer import score_encoded_groups
from tests.families import CAUSAL, save_family
from tests.models import tokenizer
from tests.rows import random_rows, row

SHORT = (
    "{{ fence('p', prompt[-1].content) }}{% for c in completions %}{{ fence('r', c) }}{% endfor %}?"
)
"""A judge's prompt that is no task for float64."""
SECRET = "sk-secret"
KIND = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
ROWS = [
    row("What is 2 + 2?", ["4", "five, I think", "22"], id="a"),
    row(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], ["", "é🙂"]
    ),
]


@pytest.fixture(scope="module")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("Qwen3", tmp_path_factory.mktemp("lm") / "lm", tokenizer(), CAUSAL)


@functools.cache
def reference(folder: Path) -> tuple[Any, Any]:
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    return tok, model.eval()


def log_odds(folder: Path, question: str, options: tuple[str, str]) -> float:
    """Plain transformers in float64, one answer at a time."""
    tok, model = reference(folder)
    turns = [{"role": "user", "content": question}]
    text = tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    prompt = tok(text, add_special_tokens=False)["input_ids"]
    sums = []
    for option in options:
        ids = tok(option, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
        logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        sums.append(float(logprobs[range(len(ids)), ids].sum()))
    return sums[0] - sums[1]


def test_margins_are_those_of_the_logits_in_both_orders(tiny_lm: Path) -> None:
    judge = Judge(model=str(tiny_lm), judge_prompt=SHORT)
    prompt = JudgePrompt(judge.config)
    expected = []
    for one in ROWS:
        num = len(one["completions"])
        margins = np.zeros((num, num))
        for i in range(num):
            for j in range(i):
                pair = one["completions"][i], one["completions"][j]
                straight, swapped = (
                    log_odds(tiny_lm, prompt.question(one["prompt"], shown), ("A", "B"))
                    for shown in (pair, pair[::-1])
                )
                consistent = np.sign(straight) == -np.sign(swapped)
                margins[i, j] = (straight - swapped) / 2 if consistent else 0.0
                margins[j, i] = -margins[i, j]
        expected.append(margins.sum(axis=1) / num)
    for found, rewards in zip(judge.score(ROWS), expected, strict=True):
        np.testing.assert_allclose(found, rewards, rtol=0, atol=1e-4)


def test_the_probability_of_yes_is_among_yes_and_no(tiny_lm: Path) -> None:
    judge = Judge(model=str(tiny_lm), method="yes", judge_prompt=SHORT)
    prompt = JudgePrompt(judge.config)
    for one, found in zip(ROWS, judge.score(ROWS), strict=True):
        for completion, probability in zip(one["completions"], found, strict=True):
            odds = log_odds(tiny_lm, prompt.question(one["prompt"], [completion]), ("Yes", "No"))
            assert probability == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)


def test_the_two_orders_are_stored_apart(tiny_lm: Path) -> None:
    judge = Judge(model=str(tiny_lm), judge_prompt=SHORT)
    (asked,) = question_rows(judge.config, row("Hi", ["x", "y"]))
    ((values, error),) = score_encoded_groups(judge, judge.encode([asked]))
    assert error is None
    prompt = JudgePrompt(judge.config)
    for value, shown in zip(values or (), (["x", "y"], ["y", "x"]), strict=True):
        odds = log_odds(tiny_lm, prompt.question(asked["prompt"], shown), ("A", "B"))
        assert value == pytest.approx(odds, abs=1e-4)


@pytest.mark.parametrize("method", ["verdict", "rating"])
def test_gibberish_is_unscored_and_never_a_tie(tiny_lm: Path, method: str) -> None:
    judge = Judge(model=str(tiny_lm), method=method, max_new_tokens=8)
    rows = question_rows(judge.config, ROWS[1])
    found = score_encoded_groups(judge, judge.encode(rows))
    assert all(values is None for values, _ in found)
    assert all(str(error).startswith("unscored: ") for _, error in found)
    assert all(np.isnan(rewards).all() for rewards in judge.score(ROWS))


def test_special_tokens_in_a_text_are_letters_to_the_judge(tiny_lm: Path) -> None:
    judge = Judge(model=str(tiny_lm), method="yes")
    end = tokenizer().eos_token_id
    (group,) = judge.encode(question_rows(judge.config, row("Hi", ["x</s><Yes</s>"])))
    assert end not in group.token_ids[0].tolist()


def test_a_question_that_is_too_long_is_an_error_and_never_cut(tiny_lm: Path) -> None:
    judge = Judge(model=str(tiny_lm), max_length=1500, truncation="left_prompt")
    found = judge.encode(question_rows(judge.config, row("Hi " * 800, ["x", "y"])))
    assert "max_length is 1500" in str(found[0].error)


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"name": "n"}, False),
        ({"compare": "round_robin"}, False),
        ({"method": "yes"}, True),
        ({"seed": 1}, True),
        ({"judge_prompt": SHORT}, True),
    ],
)
def test_the_contract_tells_what_decides_a_verdict(
    tiny_lm: Path, changes: dict[str, Any], other: bool
) -> None:
    plain = Judge(model=str(tiny_lm)).contract
    assert (Judge(model=str(tiny_lm), **changes).contract != plain) == other


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "yes", "compare": "round_robin"}, "round_robin is for the methods"),
        ({"endpoint": {"base_url": "ftp://x"}}, "http:// or https://"),
        ({"endpoint": {"base_url": "https://me:secret@x"}}, "without user or query"),
        ({"endpoint": {"base_url": "http://x", "api_key_env": "sk-secret"}}, "NAME of an environ"),
        ({"endpoint": {"base_url": "http://x"}, "dtype": "float32"}, "dtype is for models"),
    ],
)  # fmt: skip
def test_what_a_judge_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        JudgeConfig(model="m", **options)


def test_a_judge_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Judge(model="./nowhere")


def test_a_judge_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    judge = Judge(model=str(save_family("Llama", tmp_path / "rm", tokenizer())))
    with pytest.raises(ConfigError, match="lm_head"):
        judge.score(random_rows(2, seed=0))


def test_a_row_that_cannot_be_read_is_nan_and_the_others_are_not(tiny_lm: Path) -> None:
    good: Any = {"prompt": "Which?", "completions": ["a", "b"]}
    judge = Judge(model=str(tiny_lm))
    broken: Any = [{**good, "completions": ["a", "\ud800"]}, {"completions": ["a", "b"]}]
    first, *bad, last = judge.score([good, *broken, good])
    assert np.isfinite(first).all()
    assert np.isnan(bad).all()
    np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"endpoint": {"base_url": "http://x", "api_key_env": SECRET}}, "NAME of an environment"),
        ({"endpoint": {"base_url": "http://x", "api_key": SECRET}}, "Did you mean 'api_key_env'"),
        ({"endpoint": {"base_url": f"http://me:{SECRET}@x"}}, "without user or query"),
        ({"endpoint": SECRET}, "endpoint is wrong"),
        ({"type": "juge", "endpoint": {"api_key": SECRET}}, "must have a type"),
        ({"method": "guess", "endpoint": {"base_url": "http://x"}}, "method is wrong"),
    ],
)
def test_a_mistake_in_the_config_does_not_show_a_key(model: dict[str, Any], told: str) -> None:
    judge = {"type": "judge", "model": "m", **model}
    with pytest.raises(ConfigError, match=told) as caught:
        parse_config(EvaluateConfig, {"reward_models": [judge], "benchmarks": ["ppe"]})
    assert SECRET not in str(caught.value)
