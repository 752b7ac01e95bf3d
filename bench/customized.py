"""Time log-probs of customized prompts, whose templates are computed once where they are shared.

    python bench/customized.py [num_repeats=3]

A Llama-shaped model with random weights and the sandbox's byte tokenizer measures two completions
of each prompt, with our own criteria and exemplars before it: none, exemplars drawn for each row,
and exemplars drawn once for each domain. `padded` are length-sorted batches on the attention that
transformers would take, `packed` are the engine's own. The two take turns; a ratio is of neighbors,
and its median and range over the repeats are told. Writes `bench/results/customized.json`.
"""

from __future__ import annotations

import json
import platform
import random
import string
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from options import read_options

import rm_cluster as rmc
from rm_cluster.benchmarks.rows import make_row
from rm_cluster.config import CustomizeConfig
from rm_cluster.conversation import messages
from rm_cluster.engines.decoder import enough
from rm_cluster.engines.packing import pack, tree_batches
from rm_cluster.sandbox.tokenizer import byte_tokenizer
from rm_cluster.scorers.continuation import unmark
from rm_cluster.scorers.customization import Customizer
from rm_cluster.types import Row

NUM_THREADS = 2
NUM_PROMPTS = 12
PADDED_TOKENS, PACKED_TOKENS = 1024, 8192
MODEL = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
CASES: dict[str, dict[str, Any] | None] = {
    "vanilla": None,
    "a row's own exemplar": {"draw": "row"},
    "a domain's exemplar": {"draw": "domain"},
    "three exemplars of a domain": {"draw": "domain", "num_exemplars": 3},
}


def draw_rows(rng: random.Random) -> list[Row]:
    """Prompts and completions of 50 to 150 random letters, by turns of three domains."""

    def text() -> str:
        return "".join(rng.choices(string.ascii_lowercase + " ", k=rng.randint(50, 150)))

    return [
        make_row(
            id=i,
            domain=("safety", "math", "chat")[i % 3],
            prompt=messages(text(), "prompt"),
            completions=[text(), text()],
            pairs=[],
        )
        for i in range(NUM_PROMPTS)
    ]


def save_model(folder: str) -> None:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 8192
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=8192, **MODEL
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(
    padded: rmc.Logprob, packed: rmc.Logprob, rows: list[Row], num_repeats: int
) -> dict[str, object]:
    """Seconds of both in turns, after a round that warms up and compares."""
    groups = [group.token_ids for group in packed.encode(rows)]
    found = [scorer.score_encoded(groups) for scorer in (padded, packed)]
    difference = np.abs(np.concatenate(found[0]) - np.concatenate(found[1])).max()
    seconds: dict[str, list[float]] = {"padded": [], "packed": []}
    for _ in range(num_repeats):
        for name, scorer in (("padded", padded), ("packed", packed)):
            started = time.perf_counter()
            scorer.score_encoded(groups)
            seconds[name].append(time.perf_counter() - started)
    ratios = np.array(seconds["padded"]) / np.array(seconds["packed"])
    texts = [unmark(text)[0] for group in groups for text in group]
    batches = tree_batches(texts, PACKED_TOKENS, enough(PACKED_TOKENS))
    num_packed = sum(len(pack([texts[i] for i in batch]).token_ids) for batch in batches)
    num_tokens = sum(map(len, texts))
    return {
        "num_texts": len(texts),
        "num_tokens": num_tokens,
        "num_tokens_computed": num_packed,
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_range": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        "seconds": {name: [round(s, 3) for s in each] for name, each in seconds.items()},
        "largest_difference": float(difference),
    }


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    options = read_options("num_repeats")
    num_repeats = int(options.get("num_repeats", 3))
    rows = draw_rows(random.Random(0))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        padded = rmc.Logprob(
            model=folder, attn_implementation="sdpa", tokens_per_batch=PADDED_TOKENS
        )
        packed = rmc.Logprob(model=folder, tokens_per_batch=PACKED_TOKENS)
        for scorer in (padded, packed):
            scorer.load(NUM_THREADS)
        for name, customize in CASES.items():
            told = rows
            if customize is not None:
                told = Customizer(CustomizeConfig(**customize)).routed(rows)
            found = measure(padded, packed, told, num_repeats)
            results[name] = found
            low, high = found["ratio_range"]
            print(
                f"{name:28} {found['num_tokens']:6} tokens, {found['num_tokens_computed']:6} "
                f"computed, {found['ratio']:5.2f}x as fast ({low:.2f} to {high:.2f}, "
                f"n={num_repeats})"
            )
    machine = (
        f"{platform.machine()}, {NUM_THREADS} threads, float32, {platform.python_implementation()} "
        f"{platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    target = Path(__file__).parent / "results" / "customized.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
