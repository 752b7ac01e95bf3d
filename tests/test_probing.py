"""Models whose class or config does not say how they read a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import rm_cluster as rmc
from rm_cluster.config import ClassifierConfig, EmbeddingConfig
from rm_cluster.engines.torch_engine import ClassifierEngine, EmbeddingEngine
from rm_cluster.errors import ConfigError
from tests.families import CAUSAL, CLASSIFIER, save_family
from tests.models import save, tokenizer
from tests.rows import random_rows
from tests.test_classifier import assert_equal, one_at_a_time

SIZES = (5, 40, 12, 33, 7, 64, 20, 5, 40)
ENCODER = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "pad_token_id": 1, "max_position_embeddings": 130,
    "initializer_range": 0.2, "num_labels": 1,
}  # fmt: skip
HEAR_PADDING: dict[str, dict[str, Any]] = {
    "Canine": {},
    "ConvBert": {"embedding_size": 32, "head_ratio": 1},
    "FNet": {},
    "Nystromformer": {"num_landmarks": 8, "segment_means_seq_len": 8},
    "Yoso": {},
}
OTHERS: dict[str, dict[str, Any]] = {
    "Bert": {},
    # its states grow, and rounding with them
    "MobileBert": {
        "intra_bottleneck_size": 32,
        "true_hidden_size": 32,
        "embedding_size": 32,
        "initializer_range": 0.05,
    },
}


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(10, 290, size=size).astype(np.int32) for size in SIZES]


def each(model: Any, of: Callable[[Any], torch.Tensor]) -> np.ndarray:
    """What plain transformers makes of each text alone."""
    found = []
    for text in texts():
        ids = torch.from_numpy(text.astype(np.int64))[None]
        with torch.inference_mode():
            found.append(of(model(input_ids=ids, attention_mask=torch.ones_like(ids)))[0].numpy())
    return np.array(found)


@pytest.mark.parametrize("family", [*HEAR_PADDING, *OTHERS])
def test_company_does_not_matter_to_encoders_that_hear_padding(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {**ENCODER, **(HEAR_PADDING | OTHERS)[family]}
    config = getattr(transformers, f"{family}Config")(**options)
    kind = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    folder = save(kind, config, tmp_path / "m", 0, tokenizer())
    model = kind.from_pretrained(folder).eval()
    engine = ClassifierEngine(ClassifierConfig(model=str(folder)), "float32")
    expected = each(model, lambda out: out.logits)
    np.testing.assert_allclose(engine.objectives(texts()), expected, rtol=0, atol=1e-5)
    assert ("only texts of equal length share a batch" in caplog.text) == (family in HEAR_PADDING)

    plain = transformers.AutoModel.from_pretrained(folder).eval()
    expected = each(plain, lambda out: torch.nn.functional.normalize(out[0].sum(1), dim=-1))
    embedder = EmbeddingEngine(EmbeddingConfig(model=str(folder)), "float32")
    np.testing.assert_allclose(embedder.embeddings(texts()), expected, rtol=0, atol=1e-5)


def test_company_does_not_matter_to_one_that_pools_tokens_in_pairs(tmp_path: Path) -> None:
    config = transformers.FunnelConfig(
        vocab_size=300, block_sizes=[2, 2], d_model=32, n_head=4, d_head=8, d_inner=64,
        initializer_std=1.0, num_labels=1, pad_token_id=1,
    )  # fmt: skip
    kind = transformers.FunnelForSequenceClassification
    folder = save(kind, config, tmp_path / "rm", 0, tokenizer())
    expected = each(kind.from_pretrained(folder).eval(), lambda out: out.logits)
    engine = ClassifierEngine(ClassifierConfig(model=str(folder)), "float32")
    np.testing.assert_allclose(engine.objectives(texts()), expected, rtol=0, atol=1e-5)

    folder = save(transformers.FunnelModel, config, tmp_path / "m", 0, tokenizer())
    plain = transformers.FunnelModel.from_pretrained(folder).eval()
    expected = each(plain, lambda out: torch.nn.functional.normalize(out[0].sum(1), dim=-1))
    embedder = EmbeddingEngine(EmbeddingConfig(model=str(folder)), "float32")
    np.testing.assert_allclose(embedder.embeddings(texts()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pad", ["own", "eos", "none"])
def test_decoders_that_see_what_is_to_come_are_read_at_the_last_token(
    tmp_path: Path, pad: str
) -> None:
    tok = tokenizer()
    id = {"own": tok.pad_token_id, "eos": tok.eos_token_id, "none": None}[pad]
    options = {"use_bidirectional_attention": True, "pad_token_id": id}
    folder = save_family("Gemma3Text", tmp_path / "m", tok, **options)
    scorer = rmc.Classifier(model=str(folder))
    assert scorer.contract["batching"] == "padded"
    rows = random_rows(8, seed=2)
    assert_equal(scorer.score(rows), one_at_a_time(folder, rows))


def test_a_config_that_contradicts_itself_is_padded(tmp_path: Path) -> None:
    options = {
        "use_sliding_window": False, "sliding_window": 9, "no_rope_layers": [1, 1],
        "layer_types": ["full_attention", "sliding_attention"],
    }  # fmt: skip
    folder = save_family("SmolLM3", tmp_path / "m", tokenizer(), **options)
    scorer = rmc.Classifier(model=str(folder))
    assert scorer.contract["batching"] == "padded"
    rows = random_rows(6, seed=2)
    assert_equal(scorer.score(rows), one_at_a_time(folder, rows))


def test_hashes_of_all_tokens_are_not_causal(tmp_path: Path) -> None:
    config = transformers.ReformerConfig(
        vocab_size=300, hidden_size=32, num_attention_heads=4, attention_head_size=8,
        feed_forward_size=64, is_decoder=True, axial_pos_embds_dim=[16, 16],
        axial_pos_shape=[32, 32], attn_layers=["lsh", "lsh"], lsh_attn_chunk_length=8,
        num_buckets=4, max_position_embeddings=1024,
    )  # fmt: skip
    folder = save(transformers.ReformerModelWithLMHead, config, tmp_path / "m", 0, tokenizer())
    with pytest.raises(ConfigError, match="sees tokens to come"):
        rmc.Logprob(model=str(folder)).load()


MEAN_POOLED = """
import torch
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast


class TwoWayConfig(LlamaConfig):
    model_type = "MODEL_TYPE"


class TwoWay(LlamaPreTrainedModel):
    config_class = TwoWayConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.score = torch.nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()
        for layer in self.model.layers:
            layer.self_attn.is_causal = False

    def forward(self, input_ids, attention_mask=None, **options):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = (mask[:, None, None, :] == 1).expand(-1, 1, input_ids.shape[1], -1)
        states = self.model(input_ids=input_ids, attention_mask=seen, use_cache=False)[0]
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return SequenceClassifierOutputWithPast(logits=self.score(pooled))
"""


@pytest.mark.parametrize("model_type", ["two_way", "llama"])
def test_code_of_ones_own_pools_as_it_likes(tmp_path: Path, model_type: str) -> None:
    folder = save_family("Llama", tmp_path / "m", tokenizer())
    (folder / "two_way.py").write_text(MEAN_POOLED.replace("MODEL_TYPE", model_type))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "architectures": ["TwoWay"],
        "auto_map": {
            "AutoConfig": "two_way.TwoWayConfig",
            "AutoModelForSequenceClassification": "two_way.TwoWay",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=True
    ).eval()
    assert type(model).__name__ == "TwoWay"
    expected = each(model, lambda out: out.logits)
    settings = ClassifierConfig(model=str(folder), trust_remote_code=True)
    engine = ClassifierEngine(settings, "float32")
    np.testing.assert_allclose(engine.objectives(texts()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ends", [[2, 7], [5000], None])
def test_a_config_may_name_many_ends_of_a_text_or_one_beyond_the_vocabulary(
    tmp_path: Path, ends: list[int] | None
) -> None:
    # as those of Llama 3.1 do
    tok, rows = tokenizer(), random_rows(4, seed=2)
    plain, named = (
        [
            save_family("Llama", tmp_path / f"{name}{kind is CAUSAL}", tok, kind, **options)
            for kind in (CLASSIFIER, CAUSAL)
        ]
        for name, options in (("plain", {}), ("named", {"eos_token_id": ends}))
    )
    prompts: Any = [row["prompt"] for row in rows]
    texts = ["one", "another one"]
    for folder, same in zip(named, plain, strict=True):
        embedded = [rmc.Embedding(model=str(f)).embed(texts) for f in (folder, same)]
        np.testing.assert_array_equal(*embedded)
    for scorer, folder, same in zip((rmc.Classifier, rmc.Logprob), named, plain, strict=True):
        for found, expected in zip(
            scorer(model=str(folder)).score(rows), scorer(model=str(same)).score(rows), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    drawn = [
        rmc.Generator(model=str(folder), n=1, max_new_tokens=4).sample(prompts)
        for folder in (named[1], plain[1])
    ]
    assert drawn[0] == drawn[1]


def test_rotary_embeddings_that_change_are_those_of_one_caller_at_a_time(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    sizes = {**ENCODER, "num_key_value_heads": 4, "max_position_embeddings": 64}
    config = transformers.EuroBertConfig(
        **sizes, rope_parameters=rope, bos_token_id=1, eos_token_id=2
    )
    model = transformers.EuroBertForSequenceClassification
    folder = save(model, config, tmp_path / "m", 0, tokenizer())
    engine = ClassifierEngine(ClassifierConfig(model=str(folder)), "float32", 2)
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, 300, size=size).astype(np.int32) for size in (*range(20, 200, 9), 150)]
    expected = engine.rewards(texts)

    def off(start: int) -> float:
        here = slice(start, None, 2)
        return float(np.abs(engine.rewards(texts[here]) - expected[here]).max())

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(off, [0, 1] * 30)) < 1e-5


def test_short_texts_do_not_change_how_bigbird_reads_long_ones(tmp_path: Path) -> None:
    config = transformers.BigBirdConfig(**ENCODER, block_size=4, num_random_blocks=1)
    model = transformers.BigBirdForSequenceClassification
    folder = save(model, config, tmp_path / "m", 0, tokenizer())
    engine = ClassifierEngine(ClassifierConfig(model=str(folder)), "float32")
    alone = []
    for text in texts():  # plain, it attends in full for good after a text of 28 tokens or fewer
        ids = torch.from_numpy(text.astype(np.int64))[None]
        with torch.inference_mode():
            alone.append(model.from_pretrained(folder).eval()(input_ids=ids).logits.item())
    np.testing.assert_allclose(engine.rewards(texts()), alone, atol=1e-5)


def test_texts_that_do_not_go_together_go_one_by_one(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=300, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, init_std=0.3,
        num_labels=1, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = transformers.BartForSequenceClassification
    folder = save(model, config, tmp_path / "m", 0, tokenizer())
    engine = ClassifierEngine(ClassifierConfig(model=str(folder)), "float32")
    # Bart wants as many ends in every text of a batch
    texts = [np.array(ids, dtype=np.int32) for ids in ([5, 6, 2], [7, 2, 8, 2], [9, 9, 9, 2])]
    own = model.from_pretrained(folder).eval()
    with torch.inference_mode():
        alone = [own(input_ids=torch.from_numpy(t).long()[None]).logits.item() for t in texts]
    np.testing.assert_allclose(engine.rewards(texts), alone, atol=1e-5)
