"""What the doctor examines when it is given nothing else: tiny models with random weights."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

SEED = 0
NUM_ROWS = 64


def doctor_config() -> dict[str, Any]:
    """Return the embedded default of the doctor, made on the spot in a temporary folder.

    A reward head, whose own dtype is bfloat16, and a language model; pairs of very different
    lengths, some completions empty, that begin alike.
    """
    folder = Path(tempfile.mkdtemp(prefix="rm-cluster-doctor-"))
    for name in ("reward-head", "language-model"):
        _save(folder / name)
    _write_pairs(folder / "pairs.jsonl")
    return {
        "reward_models": [
            {
                "type": "classifier",
                "model": str(folder / "reward-head"),
                "dtype": "bfloat16",
            },
            {"type": "logprob", "model": str(folder / "language-model")},
        ],
        "benchmarks": [{"name": "pairs", "path": str(folder / "pairs.jsonl")}],
        "num_rows": NUM_ROWS,
    }


def _save(folder: Path) -> None:
    # torch is needed only here
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedModel,
    )

    from rm_cluster.sandbox.tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 2048
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(SEED)
    kind: type[PreTrainedModel] = (
        LlamaForCausalLM if folder.name == "language-model" else LlamaForSequenceClassification
    )
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_pairs(file: Path) -> None:
    rng = random.Random(SEED)
    letters = "etaoin shrdlu ETAOIN 0123456789.,?!\n"

    def text(longest: int) -> str:
        return "".join(rng.choices(letters, k=rng.choice((0, 1, rng.randint(2, longest)))))

    records = []
    for number in range(NUM_ROWS):
        shared = text(100)
        records.append(
            {
                "id": number,
                "prompt": "Answer in one line. " + text(200),
                "chosen": shared + text(200),
                "rejected": shared + text(200) + "?",
            }
        )
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
