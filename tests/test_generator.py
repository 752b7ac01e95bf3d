from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import rm_cluster as rmc
from rm_cluster.config import GeneratorConfig, LogprobConfig
from rm_cluster.engines import logits
from rm_cluster.engines.sampling import SamplingEngine
from rm_cluster.engines.torch_engine import LogprobEngine
from rm_cluster.errors import ConfigError, DataFormatError
from tests.families import CAUSAL, changing_with_length, save_family
from tests.models import save, tokenizer

END = 2
PROMPTS = [np.arange(3, 3 + length, dtype=np.int32) for length in (4, 40, 1, 17)]


@pytest.fixture(scope="module")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("Llama", tmp_path_factory.mktemp("lm") / "lm", tokenizer(), CAUSAL)


def engine(folder: Path, **options: Any) -> SamplingEngine:
    config = GeneratorConfig(model=str(folder), **{"n": 3, "max_new_tokens": 12, **options})
    return SamplingEngine(config, "float32", [END])


def test_the_same_whatever_the_batch(tiny_lm: Path) -> None:
    together = engine(tiny_lm).sample(PROMPTS)
    alone = engine(tiny_lm, tokens_per_batch=1)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        (found,) = alone.sample([prompt])
        assert [s.token_ids for s in found] == [s.token_ids for s in expected]
        assert [s.logprob for s in found] == pytest.approx([s.logprob for s in expected], abs=1e-4)


def test_another_seed_or_number_gives_other_samples(tiny_lm: Path) -> None:
    (first,) = engine(tiny_lm, n=3).sample(PROMPTS[:1])
    (more,) = engine(tiny_lm, n=5).sample(PROMPTS[:1])
    (other,) = engine(tiny_lm, n=3, seed=1).sample(PROMPTS[:1])
    assert [s.token_ids for s in more[:3]] == [s.token_ids for s in first]
    assert len({tuple(s.token_ids) for s in [*first, *other]}) == 6


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Gemma3Text", "GPTNeoX", "GPT2", "OPT"])
def test_log_probs_are_those_of_the_logprob_engine(tmp_path: Path, family: str) -> None:
    folder = save_family(family, tmp_path / "lm", tokenizer(), CAUSAL)
    groups = engine(folder, temperature=0.7, top_p=0.9).sample(PROMPTS)
    scorer = LogprobEngine(LogprobConfig(model=str(folder)), "float32")
    for prompt, samples in zip(PROMPTS, groups, strict=True):
        texts = [np.append(prompt, s.token_ids).astype(np.int32) for s in samples]
        expected = scorer.logprobs(texts, [len(prompt)] * len(texts))
        np.testing.assert_allclose([s.logprob for s in samples], expected, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU rounds states in other places")
def test_probabilities_are_float32_in_bfloat16(tiny_lm: Path) -> None:
    # states of one token alone are the same whatever the attention, so that only the head is left
    config = GeneratorConfig(model=str(tiny_lm), n=20, max_new_tokens=1)
    prompts = [np.array([token], dtype=np.int32) for token in (5, 60)]
    groups = SamplingEngine(config, "bfloat16", [END]).sample(prompts)
    scorer = LogprobEngine(LogprobConfig(model=str(tiny_lm)), "bfloat16")
    for prompt, samples in zip(prompts, groups, strict=True):
        texts = [np.append(prompt, s.token_ids).astype(np.int32) for s in samples]
        expected = scorer.logprobs(texts, [1] * len(texts))
        np.testing.assert_allclose([s.logprob for s in samples], expected, atol=1e-5)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_rotary_embeddings_that_change_with_length(tmp_path: Path, rope_type: str) -> None:
    options = changing_with_length(rope_type, 30)
    folder = save_family("Llama", tmp_path / "lm", tokenizer(), CAUSAL, **options)
    together = engine(folder).sample(PROMPTS)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        (found,) = engine(folder).sample([prompt])
        assert [s.token_ids for s in found] == [s.token_ids for s in expected]
        # each token as a model says that has seen nothing longer than what is before it
        ids, total = prompt.tolist(), 0.0
        for token in expected[0].token_ids:
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            with torch.inference_mode():
                last = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            total += float(last.double().log_softmax(-1)[token])
            ids.append(token)
        assert expected[0].logprob == pytest.approx(total, abs=1e-4)


def test_logits_of_a_large_vocabulary_are_few_at_once(
    tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(logits._LOGITS_IN_MEMORY, "cpu", 5 * 300)
    sampling, sizes = engine(tiny_lm), []
    sampling._model.register_forward_hook(lambda _, args, out: sizes.append(len(out.logits)))
    (samples,) = sampling.sample(PROMPTS[:1] * 4)[:1]
    assert max(sizes) == 5
    monkeypatch.undo()
    (expected,) = engine(tiny_lm).sample(PROMPTS[:1])
    assert [s.token_ids for s in samples] == [s.token_ids for s in expected]


def test_tokens_come_as_often_as_they_are_likely(tiny_lm: Path) -> None:
    n = 4000
    (samples,) = engine(tiny_lm, n=n, max_new_tokens=1, top_p=0.6).sample(PROMPTS[:1])
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float64)
    with torch.inference_mode():
        logits = model(torch.from_numpy(PROMPTS[0][None].astype(int))).logits[0, -1]
    full = logits.softmax(-1).numpy()
    order = np.argsort(-full)
    nucleus = order[: int(np.searchsorted(np.cumsum(full[order]), 0.6)) + 1]
    expected = full[nucleus] / full[nucleus].sum()
    counts = np.bincount([s.token_ids[0] for s in samples], minlength=300)
    assert counts[nucleus].sum() == n
    # the standard error of a share p of n is sqrt(p (1 - p) / n); the largest of some 100 of them
    errors = np.abs(counts[nucleus] / n - expected) / np.sqrt(expected * (1 - expected) / n)
    assert errors.max() < 5


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_rounding_in_the_logits_chooses_no_other_token(tiny_lm: Path, top_p: float) -> None:
    rng = np.random.default_rng(0)
    # pairs of tokens that are nearly as likely, whose order rounding turns
    half = rng.normal(size=(1, 1000)).repeat(2000, axis=0)
    rows = np.concatenate([half, half], axis=1).astype(np.float32)
    noise = 1e-6 * rng.normal(size=rows.shape)
    draws = torch.from_numpy(rng.random((2000, 1 if top_p == 1 else 8)))
    sampler = engine(tiny_lm, top_p=top_p)
    chosen, again = (
        sampler._choose(torch.from_numpy((rows + by).astype(np.float32)), draws)
        for by in (0.0, noise)
    )
    assert (chosen != again).float().mean() < 0.005
    assert chosen.unique().numel() > 100


def test_temperature_zero_is_the_likeliest_token(tiny_lm: Path) -> None:
    (samples,) = engine(tiny_lm, temperature=0.0).sample(PROMPTS[:1])
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32)
    ids = torch.from_numpy(PROMPTS[0][None].astype(int))
    expected = model.generate(
        ids, max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=0
    )[0, ids.shape[1] :]
    assert all(s.token_ids == expected.tolist() for s in samples)


@pytest.mark.parametrize("family", ["Mamba", "Bert", "RecurrentGemma"])
def test_a_model_that_goes_astray_token_by_token_is_refused(tmp_path: Path, family: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}Config")(
        **sizes, vocab_size=300, intermediate_size=64, initializer_range=0.2, pad_token_id=0
    )
    folder = save(CAUSAL[type(config)], config, tmp_path / "m", 0, tokenizer())
    with pytest.raises(ConfigError, match=r"token by token|cannot be sampled from here"):
        engine(folder)


def test_logits_that_are_no_numbers_are_told(
    tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = engine(tiny_lm)
    whole = broken._model.forward

    def forward(**inputs: Any) -> Any:
        output = whole(**inputs)
        output.logits[0, -1, 5] = float("nan")
        return output

    monkeypatch.setattr(broken._model, "forward", forward)
    with pytest.raises(ValueError, match="logits are not finite"):
        broken.sample(PROMPTS[:1])


def test_the_smallest_temperature_is_the_likeliest_token(tiny_lm: Path) -> None:
    greedy, cold = (engine(tiny_lm, temperature=t).sample(PROMPTS) for t in (0.0, 1e-308))
    assert [[s.token_ids for s in group] for group in cold] == [
        [s.token_ids for s in group] for group in greedy
    ]


def test_a_sample_stops_at_the_end_of_the_turn_or_is_cut(tiny_lm: Path) -> None:
    config = GeneratorConfig(model=str(tiny_lm), n=40, max_new_tokens=6)
    ends = list(range(100))  # a third of the vocabulary, so that many samples end
    (samples,) = SamplingEngine(config, "float32", ends).sample(PROMPTS[:1])
    for sample in samples:
        assert all(token not in ends for token in sample.token_ids[:-1])
        assert sample.ended == (sample.token_ids[-1] in ends)
        assert sample.ended or len(sample.token_ids) == 6
    assert {sample.ended for sample in samples} == {True, False}


def test_texts_and_counts(tiny_lm: Path) -> None:
    generator = rmc.Generator(model=str(tiny_lm), n=2, max_new_tokens=5, temperature=0.5)
    prompts: list[Any] = [[{"role": "user", "content": text}] for text in ("Hi", "Hello there")]
    found = generator.sample(prompts)
    assert [len(group) for group in found] == [2, 2]
    for completion in (c for group in found for c in group):
        assert isinstance(completion.text, str)
        assert 1 <= completion.num_tokens <= 5
        assert completion.logprob < 0
    assert generator.sample([]) == []


def test_a_prompt_that_leaves_no_room(tiny_lm: Path) -> None:
    generator = rmc.Generator(model=str(tiny_lm), max_length=20, max_new_tokens=15)
    with pytest.raises(DataFormatError, match="Prompt 0: it makes 13 tokens"):
        generator.sample([[{"role": "user", "content": "ten chars!"}]])


def test_a_prompt_that_is_no_unicode_fails_alone(tiny_lm: Path) -> None:
    generator = rmc.Generator(model=str(tiny_lm), max_new_tokens=2)
    broken, good = generator.encode([[{"role": "user", "content": c}] for c in ("a\ud83d", "a")])
    assert broken.error == "the content of a message of the prompt is not valid Unicode"
    assert good.error is None


def test_a_prompt_as_text_is_a_users_turn(tiny_lm: Path) -> None:
    generator = rmc.Generator(model=str(tiny_lm), max_new_tokens=2)
    turns: list[Any] = [[{"role": "user", "content": "Hello"}], "Hello"]
    first, second = generator.sample(turns)
    assert first == second
    with pytest.raises(DataFormatError, match="got a text"):
        generator.sample("Hello")
