from __future__ import annotations

import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

import rm_cluster as rmc
from rm_cluster.config import EvaluateConfig
from rm_cluster.errors import ConfigError
from rm_cluster.parsing import parse_config
from rm_cluster.scorers import build_scorer
from rm_cluster.scorers.continuation import ContinuationTemplate, unmark
from rm_cluster.scorers.scorer import contract_id
from rm_cluster.types import Row
from tests.families import CAUSAL, attention_of_reference, save_family
from tests.models import tokenizer
from tests.rows import random_rows, row

SHARING = (
    "Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma2", "Gemma3Text", "GPTNeoX", "Olmo2",
    "Phi3", "SmolLM3", "Cohere", "Granite",
)  # fmt: skip
PADDED = ("GPT2", "OPT", "Bloom")


@pytest.fixture(scope="module")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("Llama", tmp_path_factory.mktemp("lm") / "lm", tokenizer(), CAUSAL)


def reference(folder: Path, rows: Sequence[Row], *, include_eos: bool = True) -> list[np.ndarray]:
    """Plain transformers in float64, one text in a batch, all logits at once."""
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation=attention_of_reference(config)
    ).eval()
    found = []
    for one in rows:
        text = tok.apply_chat_template(one["prompt"], tokenize=False, add_generation_prompt=True)
        prompt = tok(text, add_special_tokens=False)["input_ids"]
        sums = []
        for completion in one["completions"]:
            ids = tok(completion, add_special_tokens=False)["input_ids"]
            ids = [*ids, tok.eos_token_id] if include_eos else ids
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
            logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            sums.append(float(logprobs[range(len(ids)), ids].sum()))
        found.append(np.array(sums))
    return found


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", [*SHARING, *PADDED])
def test_equal_to_float64_one_text_at_a_time(tmp_path: Path, family: str) -> None:
    folder = save_family(family, tmp_path / "lm", tokenizer(), CAUSAL)
    rows = random_rows(8, seed=1)
    expected = reference(folder, rows)
    for tokens_per_batch in (1, 700, 100_000):
        scorer = rmc.Logprob(model=str(folder), tokens_per_batch=tokens_per_batch)
        assert_equal(scorer.score(rows), expected)
    assert scorer.contract["batching"].startswith("packed" if family in SHARING else "padded")


def test_without_the_end_of_the_turn(tiny_lm: Path) -> None:
    rows = [row(completions=["", "a", "ab", "ab", "é🙂"]), *random_rows(6, seed=2)]
    scorer = rmc.Logprob(model=str(tiny_lm), include_eos=False)
    found = scorer.score(rows)
    assert_equal(found, reference(tiny_lm, rows, include_eos=False))
    # one token per byte: 2 for the accented letter and 4 for the emoji
    assert scorer.encode(rows)[0].num_tokens == [0, 1, 2, 2, 6]
    assert found[0][0] == 0
    assert found[0][2] == found[0][3]


def test_nothing_to_sum_over(tiny_lm: Path) -> None:
    scorer = rmc.Logprob(model=str(tiny_lm), include_eos=False)
    assert [
        sums.tolist() for sums in scorer.score([row(completions=["", ""]), row("U", [""])])
    ] == [
        [0, 0],
        [0],
    ]


def test_an_empty_completion_with_the_end_is_that_token_alone(tiny_lm: Path) -> None:
    rows = [row(completions=["", "a"])]
    scorer = rmc.Logprob(model=str(tiny_lm))
    assert scorer.encode(rows)[0].num_tokens == [1, 2]
    assert_equal(scorer.score(rows), reference(tiny_lm, rows))


def test_the_same_text_with_another_border(tiny_lm: Path) -> None:
    from rm_cluster.engines.torch_engine import LogprobEngine

    scorer = rmc.Logprob(model=str(tiny_lm))
    engine = LogprobEngine(scorer.config, "float32")
    ids = np.arange(3, 13, dtype=np.int32)
    sums = engine.logprobs([ids, ids, ids, ids[:7]], [2, 7, 10, 2])
    # the chain rule: log p(2..10) = log p(2..7) + log p(7..10)
    assert sums[0] == pytest.approx(sums[1] + sums[3], abs=1e-5)
    assert sums[2] == 0


def test_a_prompt_shared_by_many_prompts(tiny_lm: Path) -> None:
    rows = [row("exemplar " * 30 + f"question {i}", ["yes", "no", "yes, and"]) for i in range(5)]
    assert_equal(rmc.Logprob(model=str(tiny_lm)).score(rows), reference(tiny_lm, rows))


def test_the_logits_are_float32_in_bfloat16(tiny_lm: Path) -> None:
    rows = random_rows(5, seed=3)
    exact = np.concatenate(rmc.Logprob(model=str(tiny_lm)).score(rows))
    rough = np.concatenate(rmc.Logprob(model=str(tiny_lm), dtype="bfloat16").score(rows))
    # states of 8 bits: a few 2^-8 of each token's log-prob
    assert np.abs(exact - rough).max() < 0.02 * np.abs(exact).max()
    assert (exact != rough).any()


def contract(folder: Path, **options: Any) -> dict[str, Any]:
    config = {"type": "logprob", "model": str(folder), **options}
    run = parse_config(EvaluateConfig, {"reward_models": [config], "benchmarks": ["ppe"]})
    found: dict[str, Any] = build_scorer(run.reward_models[0], run.scoring).contract
    return found


def test_what_a_run_stores_by(tiny_lm: Path) -> None:
    plain = contract(tiny_lm)
    assert plain["type"] == "logprob"
    assert plain["end_of_turn"] == "</s>"
    ids = {
        contract_id(contract(tiny_lm, **options))
        for options in ({}, {"include_eos": False}, {"max_length": 50}, {"template": "plain"})
    }
    assert len(ids) == 4
    assert contract_id(plain) == contract_id({**plain, "batching": "padded"})


def test_left_prompt_cuts_the_prompt_alone(tiny_lm: Path) -> None:
    rows = [row("x" * 100, ["abc", "a" * 40])]
    options: dict[str, Any] = {"model": str(tiny_lm), "max_length": 60}
    (failed,) = rmc.Logprob(**options).encode(rows)
    # <s> > x..x < and 40 letters and </s>: 103 + 41
    assert failed.error == "completion 1 makes 144 tokens, max_length is 60"
    (group,) = rmc.Logprob(**options, truncation="left_prompt").encode(rows)
    assert group.truncated == [True, True]
    assert group.num_tokens == [4, 41]
    assert [len(ids) for ids in group.token_ids] == [60, 60]
    assert all(ids[0] == 1 for ids in group.token_ids)  # BOS stays
    (refused,) = rmc.Logprob(**options, truncation="left_prompt").encode([row("x", ["a" * 59])])
    assert "no prompt would be left" in (refused.error or "")


def test_plain_and_tails_of_templates(tiny_lm: Path) -> None:
    tok = tokenizer()
    plain = rmc.Logprob(model=str(tiny_lm), template="plain")
    (group,) = plain.encode([row("Hi", ["yes"])])
    text = group.token_ids[0]
    assert tok.decode(text[text >= 0]) == "\n\nHuman: Hi\n\nAssistant:"
    assert tok.decode(~text[text < 0]) == " yes</s>"
    # what the template writes after the end of the turn is no token that a model would emit
    chatml = (
        "{% for m in messages %}[{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}[{% endif %}"
    )
    (group,) = rmc.Logprob(model=str(tiny_lm), template=chatml).encode([row("Hi", ["yes"])])
    text = group.token_ids[0]
    assert tok.decode(text[text >= 0]) == "[Hi</s>\n["
    assert tok.decode(~text[text < 0]) == "yes</s>"


def parts(scorer: rmc.Logprob, completions: list[str]) -> list[tuple[str, str]]:
    """Prompt and completion of each text, as the model reads them."""
    (group,) = scorer.encode([row("Hi", completions)])
    tok = tokenizer()
    return [(tok.decode(t[t >= 0]), tok.decode(~t[t < 0])) for t in group.token_ids]


def test_what_a_template_writes_before_every_completion_is_the_prompts(tiny_lm: Path) -> None:
    # as Qwen 3's: thoughts that a completion brings along, else empty ones
    thinking = (
        "{% for m in messages %}[{{ m.role }}:"
        "{% if m.role == 'assistant' and '<think>' not in m.content %}<think>\n</think>\n"
        "{% endif %}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant:{% endif %}"
    )
    scorer = rmc.Logprob(model=str(tiny_lm), template=thinking)
    assert parts(scorer, ["yes", "<think>\nhm\n</think>\nyes", ""]) == [
        ("[user:Hi</s>[assistant:<think>\n</think>\n", "yes</s>"),
        ("[user:Hi</s>[assistant:", "<think>\nhm\n</think>\nyes</s>"),
        ("[user:Hi</s>[assistant:<think>\n</think>\n", "</s>"),
    ]
    assert scorer.contract["before_completions"] == "<think>\n</think>\n"
    rows = [row("Hi", ["yes", "no"])]
    (found,) = scorer.score(rows)
    (ids,) = scorer.encode(rows)
    for text, value in zip(ids.token_ids, found, strict=True):
        assert len(text[text < 0]) < 6
        assert value == pytest.approx(sum_of_marked(tiny_lm, text), abs=1e-4)


def test_a_template_without_a_generation_prompt(tiny_lm: Path) -> None:
    scorer = rmc.Logprob(
        model=str(tiny_lm),
        template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    )
    # a space melts into the word that follows, as it would where a model writes
    assert parts(scorer, ["yes"]) == [("user: Hi\nassistant:", " yes</s>")]


def sum_of_marked(folder: Path, text: np.ndarray) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    ids = torch.from_numpy(np.where(text < 0, ~text, text).astype(np.int64))
    with torch.inference_mode():
        logprobs = model(ids[None]).logits[0].log_softmax(-1)
    places = np.flatnonzero(text < 0)
    return float(sum(logprobs[place - 1, ids[place]] for place in places))


def test_prompts_that_have_no_log_probs(tiny_lm: Path) -> None:
    (empty,) = rmc.Logprob(model=str(tiny_lm), template="concat").encode([row("", ["a"])])
    assert "no tokens" in (empty.error or "")
    backwards = "{% for m in messages | reverse %}{{ m.content }}{% endfor %}"
    (group,) = rmc.Logprob(model=str(tiny_lm), template=backwards).encode([row("Hi", ["a"])])
    assert "does not begin" in (group.error or "")


def test_models_that_are_not_causal_or_change_their_logits(tmp_path: Path) -> None:
    tok = tokenizer()
    bert = save_family("Bert", tmp_path / "bert", tok, CAUSAL)
    with pytest.raises(ConfigError, match="tokens to come"):
        rmc.Logprob(model=str(bert)).load()
    capped = transformers.RecurrentGemmaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, lru_width=32,
        num_attention_heads=4, logits_soft_cap=0.5,
    )  # fmt: skip
    transformers.RecurrentGemmaForCausalLM(capped).save_pretrained(tmp_path / "capped")
    tok.save_pretrained(tmp_path / "capped")
    with pytest.raises(ConfigError, match="does more to its logits"):
        rmc.Logprob(model=str(tmp_path / "capped")).load()
    # its body is the whole model, so that the head would be applied twice
    whole = transformers.Llama4TextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, intermediate_size_mlp=64, head_dim=8,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.Llama4ForCausalLM(whole).save_pretrained(tmp_path / "whole")
    tok.save_pretrained(tmp_path / "whole")
    with pytest.raises(ConfigError, match="which cannot be computed here"):
        rmc.Logprob(model=str(tmp_path / "whole")).load()


def test_a_classifier_is_no_language_model(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"lm_head\.weight"):
        rmc.Logprob(model=str(tiny_llama)).load()


MEMORY = """
import resource, sys
import numpy as np
from rm_cluster.config import LogprobConfig
from rm_cluster.engines.torch_engine import LogprobEngine

engine = LogprobEngine(LogprobConfig(model=sys.argv[1]), "float32", num_threads=2)
rng = np.random.default_rng(0)
texts = [rng.integers(3, 150_000, size=500).astype(np.int32) for _ in range(8)]
engine.logprobs([texts[0][:20]], [10])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sums = engine.logprobs(texts, [10] * 8)
assert np.isfinite(sums).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_hold_sequence_times_vocabulary(tmp_path: Path) -> None:
    folder = save_family("Llama", tmp_path / "lm", tokenizer(), CAUSAL, vocab_size=150_000)
    found = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, check=True
    )
    mebibytes = int(found.stdout) / 1024
    # all logits of one batch: 4,000 tokens x 150,000 x 4 bytes = 2,289 MiB
    assert mebibytes < 200


def test_no_space_comes_before_a_completion(tmp_path: Path) -> None:
    """Llama 2's and Mistral's tokenizers write a space before any text they are given."""
    letters = ["\n", "\u2581", *string.ascii_letters, *":.,!"]
    vocab = {token: i for i, token in enumerate([*letters, "</s>", "<unk>", "\u2581h"])}
    model = tokenizers.models.BPE(vocab, [("\u2581", "h")], unk_token="<unk>")
    raw = tokenizers.Tokenizer(model)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tok = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")
    template = ContinuationTemplate(tok, "concat", None, "error", "m", include_eos=False)
    (group,) = template.encode([row("Hi", ["hello", " hello", "", "\nhello"])])
    assert group.token_ids is not None
    marked = [unmark(text) for text in group.token_ids]
    found = ["".join(tok.convert_ids_to_tokens(ids[num:].tolist())) for ids, num in marked]
    assert found == ["hello", "\u2581hello", "", "\nhello"]
    assert "no space added" in template.contract["boundary"]


def test_no_texts_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_family("Llama", tmp_path / "lm", tokenizer(), CAUSAL)
    scorer = rmc.Logprob(model=str(folder))
    assert scorer.score([]) == []
    empty = {**row(), "completions": []}
    (alone,) = scorer.score([empty])
    none, some = scorer.score([empty, row()])
    assert alone.shape == none.shape == (0,)
    assert np.isfinite(some).all()
    assert "failed" not in caplog.text
