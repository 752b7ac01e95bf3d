"""Reward heads as they are found: several outputs, two labels, value heads under other names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import rm_cluster as rmc
from rm_cluster.config import ClassifierConfig
from rm_cluster.engines.heads import HEADS
from rm_cluster.engines.torch_engine import ClassifierEngine
from rm_cluster.errors import ConfigError
from rm_cluster.parity.reference import Reference
from rm_cluster.types import Row
from tests.families import CAUSAL, save_family
from tests.models import save_llama, tokenizer
from tests.rows import random_rows

ROWS = random_rows(6, seed=2)


def texts(folder: Path, row: Row) -> list[torch.Tensor]:
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    chats = [[*row["prompt"], {"role": "assistant", "content": c}] for c in row["completions"]]
    written = [tok.apply_chat_template(chat, tokenize=False) for chat in chats]
    return [
        tok(text, add_special_tokens=False, return_tensors="pt")["input_ids"] for text in written
    ]


def logits(folder: Path, rows: Sequence[Row]) -> list[np.ndarray]:
    """[K, H] of plain transformers, one text at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model.config.get_text_config().pad_token_id = None
    with torch.inference_mode():
        return [
            np.stack([model(input_ids=ids).logits[0].numpy() for ids in texts(folder, row)])
            for row in rows
        ]


def assert_equal(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_of_two_labels_the_reward_is_the_second_less_the_first(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0, num_labels=2, id2label={0: "bad", 1: "good"})
    expected = logits(folder, ROWS)
    scorer = rmc.Classifier(model=str(folder))
    assert_equal(scorer.score(ROWS), [o[:, 1] - o[:, 0] for o in expected])
    assert "the logit of 'good' less that of 'bad'" in str(scorer.notice)
    assert scorer.contract["head_weights"] == [-1.0, 1.0]
    turned = rmc.Classifier(model=str(folder), head_weights=[1.0, -1.0])
    assert_equal(turned.score(ROWS), [o[:, 0] - o[:, 1] for o in expected])
    assert turned.notice is None


@pytest.mark.parametrize("family", ["Llama", "Bert"])
def test_several_objectives_are_summed_by_weights(tmp_path: Path, family: str) -> None:
    folder = save_family(family, tmp_path / "m", tokenizer(), num_labels=5)
    weights = [0.65, 0.8, 0.45, 0.55, -0.4]
    expected = logits(folder, ROWS)
    scorer = rmc.Classifier(model=str(folder), head_weights=weights)
    assert_equal(scorer.objectives(ROWS), expected)
    assert_equal(scorer.score(ROWS), [outputs @ weights for outputs in expected])
    assert scorer.contract["head_weights"] == weights


def test_more_than_two_outputs_need_weights_and_each_output_one(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0, num_labels=5)
    with pytest.raises(ConfigError, match=r"m has 5 outputs; set head_weights"):
        rmc.Classifier(model=str(folder))
    with pytest.raises(ConfigError, match="5 outputs and 2 head_weights"):
        rmc.Classifier(model=str(folder), head_weights=[1.0, 2.0])


def test_objectives_of_what_failed_are_nan(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0, num_labels=2)
    scorer = rmc.Classifier(model=str(folder), max_length=60)
    found = scorer.objectives([{**ROWS[0], "completions": ["x" * 80, "y"]}])
    assert found[0].shape == (2, 2)
    assert np.isnan(found[0]).all()


def with_value_head(folder: Path, tensors: dict[str, torch.Tensor], family: str = "Llama") -> Path:
    """A causal language model with more tensors in its file, as trainers with value heads save."""
    save_family(family, folder, tokenizer(), CAUSAL)
    file = folder / "model.safetensors"
    save_file({**load_file(file), **tensors}, file, metadata={"format": "pt"})
    return folder


def value_rewards(
    folder: Path, rows: Sequence[Row], weight: torch.Tensor, bias: Any = 0.0
) -> list[np.ndarray]:
    """The head on the last hidden state of the last token, by plain transformers."""
    body = transformers.AutoModel.from_pretrained(folder).eval()
    found = []
    with torch.inference_mode():
        for row in rows:
            states = [body(input_ids=ids)[0][0, -1] for ids in texts(folder, row)]
            found.append(np.array([float(state @ weight[0] + bias) for state in states]))
    return found


@pytest.mark.parametrize("name", HEADS)
def test_value_heads_are_found_under_their_names(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weight = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    folder = with_value_head(tmp_path / "m", {f"{name}.weight": weight})
    found = rmc.Classifier(model=str(folder)).score(ROWS)
    assert_equal(found, value_rewards(folder, ROWS, weight))
    assert "newly initialized" not in capfd.readouterr().err


@pytest.mark.parametrize("family", ["GPT2", "Qwen2", "GPTNeoX"])
def test_a_value_head_as_trl_saves_it(tmp_path: Path, family: str) -> None:
    weight = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": torch.tensor([0.7])}
    folder = with_value_head(tmp_path / "m", head, family)
    found = rmc.Classifier(model=str(folder)).score(ROWS)
    assert_equal(found, value_rewards(folder, ROWS, weight, 0.7))


def test_the_bias_of_a_head_under_its_native_name_counts(tmp_path: Path) -> None:
    folder = save_family("Llama", tmp_path / "m", tokenizer())
    plain = rmc.Classifier(model=str(folder)).score(ROWS)
    file = folder / "model.safetensors"
    bias = {"score.bias": torch.tensor([0.7])}
    save_file({**load_file(file), **bias}, file, metadata={"format": "pt"})
    found = rmc.Classifier(model=str(folder)).score(ROWS)
    assert_equal(found, [rewards + 0.7 for rewards in plain])


def test_a_value_head_of_several_outputs_takes_weights(tmp_path: Path) -> None:
    weight = torch.randn(3, 32)
    folder = with_value_head(tmp_path / "m", {"v_head.weight": weight})
    config = ClassifierConfig(model=str(folder), head_weights=[0.0, 2.0, 0.0])
    reference = Reference(config, "bfloat16")
    assert np.isfinite(reference.one_at_a_time([np.array([5], dtype=np.int32)])).all()
    with pytest.raises(ConfigError, match="has 3 outputs; set head_weights"):
        rmc.Classifier(model=str(folder)).load()
    scorer = rmc.Classifier(model=str(folder), head_weights=[0.0, 2.0, 0.0])
    assert_equal(scorer.score(ROWS), value_rewards(folder, ROWS, 2 * weight[1:2]))


def test_what_is_no_single_linear_layer_is_refused_with_what_is_supported(tmp_path: Path) -> None:
    layers = {"v_head.0.weight": torch.randn(8, 32), "v_head.2.weight": torch.randn(1, 8)}
    folder = with_value_head(tmp_path / "m", layers)
    with pytest.raises(ConfigError, match=r"no reward head.* v_head\.summary.*one linear layer"):
        rmc.Classifier(model=str(folder)).load()
    narrow = with_value_head(tmp_path / "n", {"v_head.weight": torch.randn(1, 16)})
    with pytest.raises(ConfigError, match=r"\(1, 16\); a head on its hidden states is"):
        rmc.Classifier(model=str(narrow)).load()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU rounds states in other places")
def test_a_head_in_more_bits_than_the_model_keeps_them(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0)
    config = ClassifierConfig(model=str(folder))
    # states of one token alone are the same whatever the attention, so that only the head is left
    found = ClassifierEngine(config, "bfloat16").rewards([np.array([token]) for token in (5, 60)])
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    weight = load_file(folder / "model.safetensors")["score.weight"]
    assert (weight != weight.bfloat16()).any()
    with torch.inference_mode():
        hidden = model(torch.tensor([[5], [60]])).last_hidden_state[:, 0].float()
    np.testing.assert_allclose(found, (hidden @ weight.T)[:, 0], rtol=0, atol=1e-6)
