"""Time packed batches with shared prefixes against padded batches.

    python bench/shared_prefix.py [dtype=float32] [num_repeats=3]

A Llama-shaped reward model with random weights scores four sets of random token ids of the
lengths that preference benchmarks have, in the same process and on the same threads. `padded` are
length-sorted batches on the attention that transformers would take (SDPA, no mask), `packed` are
the engine's own; each to the token budget that suits it best on two cores. The two take turns,
because other work on the machine slows whoever it meets: a ratio is of neighbors, and its median
and range over the repeats are told. Rewards of both are compared. Writes
`bench/results/shared_prefix_DTYPE.json`.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from options import read_options

from rm_cluster.config import ClassifierConfig
from rm_cluster.engines.decoder import enough
from rm_cluster.engines.packing import pack, tree_batches
from rm_cluster.engines.torch_engine import ClassifierEngine

NUM_THREADS = 2
PADDED_TOKENS, PACKED_TOKENS = 1024, 2048
VOCABULARY = 4096
MODEL = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
"""15M parameters beside the embeddings."""

SETS = {
    # prompts, completions of each, shortest and longest prompt, shortest and longest completion
    "pairs": (6, 2, (50, 300), (50, 300)),
    "rm-bench": (2, 6, (50, 300), (100, 500)),
    "32 completions, long prompts": (1, 32, (400, 600), (10, 40)),
    "32 completions, short prompts": (1, 32, (50, 100), (50, 100)),
}


def draw(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Random token ids in groups that begin alike, as one list of texts."""
    num_prompts, num_completions, prompt_range, completion_range = SETS[name]
    texts = []
    for _ in range(num_prompts):
        prompt = rng.integers(VOCABULARY, size=rng.integers(*prompt_range))
        for _ in range(num_completions):
            completion = rng.integers(VOCABULARY, size=rng.integers(*completion_range))
            texts.append(np.concatenate([prompt, completion]).astype(np.int32))
    return texts


def save_model(folder: str) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, num_labels=1, max_position_embeddings=8192, **MODEL
    )
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)


def measure(
    padded: ClassifierEngine, packed: ClassifierEngine, texts: list[np.ndarray], num_repeats: int
) -> dict[str, object]:
    """Seconds of both in turns, after a round that warms up and compares."""
    difference = np.abs(padded.rewards(texts) - packed.rewards(texts)).max()
    seconds = {"padded": [], "packed": []}
    for _ in range(num_repeats):
        for name, engine in (("padded", padded), ("packed", packed)):
            started = time.perf_counter()
            engine.rewards(texts)
            seconds[name].append(time.perf_counter() - started)
    ratios = np.array(seconds["padded"]) / np.array(seconds["packed"])
    order = tree_batches(texts, PACKED_TOKENS, enough(PACKED_TOKENS))
    num_packed = sum(len(pack([texts[i] for i in batch]).token_ids) for batch in order)
    num_tokens = sum(map(len, texts))
    return {
        "num_texts": len(texts),
        "num_tokens": num_tokens,
        "tokens_saved": round(num_tokens / num_packed, 3),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_range": [round(float(ratios.min()), 3), round(float(ratios.max()), 3)],
        "seconds": {name: [round(s, 3) for s in each] for name, each in seconds.items()},
        "largest_difference": float(difference),
    }


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    options = read_options("dtype", "num_repeats")
    dtype = options.get("dtype", "float32")
    num_repeats = int(options.get("num_repeats", 3))
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        padded, packed = (
            ClassifierEngine(
                ClassifierConfig(
                    model=folder, attn_implementation=attention, tokens_per_batch=budget
                ),
                dtype,
                NUM_THREADS,
            )
            for attention, budget in (("sdpa", PADDED_TOKENS), (None, PACKED_TOKENS))
        )
    results = {}
    for name in SETS:
        found = measure(padded, packed, draw(name, np.random.default_rng(0)), num_repeats)
        results[name] = found
        low, high = found["ratio_range"]
        print(
            f"{name:30} {found['tokens_saved']:5.2f}x fewer tokens, {found['ratio']:5.2f}x as fast "
            f"({low:.2f} to {high:.2f}, n={num_repeats})"
        )
    machine = (
        f"{platform.machine()}, {NUM_THREADS} threads, {dtype}, {platform.python_implementation()} "
        f"{platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    target = Path(__file__).parent / "results" / f"shared_prefix_{dtype}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
