"""How much of a device a reward model of 8B parameters uses, without Ray.

    python bench/gpu.py [size=8b|1b|tiny] [prompts=64] [dtype=bfloat16] [tokens_per_batch=16384]

A Llama-shaped reward model and a language model of 150k tokens of vocabulary, both with random
weights, on texts of RM-Bench's lengths (six completions to a prompt). Measured: the device's own
matmul rate; `ours`, the engine as it is; `static`, padded batches of 8 in file order, completions
of each style in calls of their own, as RM-Bench makes them; and the peak of memory for log-probs.
Model FLOP utilisation counts the operations of the tokens that each side must at least compute: for
`ours` those that differ, for `static` those of all texts, padding excluded. On a CPU use size=tiny.
Writes `bench/results/gpu.json`.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from options import read_options
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rm_cluster.config import ClassifierConfig, LogprobConfig
from rm_cluster.engines import tree_attention
from rm_cluster.engines.decoder import right_padded
from rm_cluster.engines.device import device
from rm_cluster.engines.packing import filled_up, pack, tree_batches
from rm_cluster.engines.torch_engine import ClassifierEngine, LogprobEngine

SIZES: dict[str, dict[str, int]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8},
    "tiny": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
             "num_attention_heads": 4, "num_key_value_heads": 4},
}  # fmt: skip
PROMPT = (7, 95)
STYLES = ((22, 63), (77, 472), (77, 542), (22, 62), (228, 477), (305, 560))
"""Tokens of RM-Bench chat's prompts and of its six completions, from 5th to 95th percentile: chosen
and rejected, each concise, detailed, and detailed in Markdown."""
VOCABULARY = 150_000
STATIC_BATCH = 8
NUM_REPEATS = 3
PROMPTS_IN_FLOAT32 = 8


def config_of(size: str) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, num_labels=1, pad_token_id=0, max_position_embeddings=8192,
        **SIZES[size],
    )  # fmt: skip


def draw_texts(num_prompts: int) -> list[list[np.ndarray]]:
    """Prompts with six completions, as ids."""
    rng = np.random.default_rng(0)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(1, VOCABULARY, size=rng.integers(low, high)).astype(np.int32)

    return [
        [np.concatenate([prompt, ids(*style)]) for style in STYLES]
        for prompt in (ids(*PROMPT) for _ in range(num_prompts))
    ]


def operations(config: LlamaConfig, tokens: int, contexts: int) -> float:
    """Floating-point operations of `tokens`, which see `contexts` tokens in sum."""
    head = config.hidden_size // config.num_attention_heads
    per_layer = config.hidden_size * (
        2 * config.hidden_size
        + 2 * config.num_key_value_heads * head
        + 3 * config.intermediate_size
    )
    attention = 2 * config.num_attention_heads * head
    return 2.0 * config.num_hidden_layers * (per_layer * tokens + attention * contexts)


def matmul_rate(dtype: torch.dtype) -> float:
    """Floating-point operations per second of large matrix products, the best of several."""
    n = 8192 if device().type == "cuda" else 1024
    a, b = (torch.randn(n, n, dtype=dtype, device=device()) for _ in range(2))
    return 2.0 * n**3 / min(seconds(lambda: a @ b) for _ in range(10))


def seconds(job: Callable[[], Any]) -> float:
    wait()
    started = time.perf_counter()
    job()
    wait()
    return time.perf_counter() - started


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def static(model: Any, groups: list[list[np.ndarray]]) -> np.ndarray:
    """Completions of each style in batches of 8 in file order, as RM-Bench's script takes them."""
    rewards = np.empty((len(groups), len(STYLES)))
    for style in range(len(STYLES)):
        for start in range(0, len(groups), STATIC_BATCH):
            here = slice(start, start + STATIC_BATCH)
            ids, lengths = right_padded([group[style] for group in groups[here]])
            mask = (torch.arange(ids.shape[1], device=device()) < lengths[:, None]).long()
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            rewards[here, style] = logits.flatten().float().cpu().numpy()
    return rewards.flatten()


@torch.inference_mode()
def side_by_side(
    engine: ClassifierEngine, padded: Any, groups: list[list[np.ndarray]]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median seconds of both sides, which take turns, after a warm-up; their rewards."""
    texts = [text for group in groups for text in group]
    rewards = {"ours": engine.rewards(texts), "static": static(padded, groups)}
    runs: dict[str, list[float]] = {"ours": [], "static": []}
    for _ in range(NUM_REPEATS):
        runs["ours"].append(seconds(lambda: engine.rewards(texts)))
        runs["static"].append(seconds(lambda: static(padded, groups)))
    return {name: float(np.median(times)) for name, times in runs.items()}, rewards


@torch.inference_mode()
def errors(
    rewards: dict[str, np.ndarray], padded: Any, groups: list[list[np.ndarray]]
) -> dict[str, float]:
    """Root mean square error of each side on the first prompts.

    Against the same weights in float32, one text at a time; `spread` is the deviation of those.
    """
    exact = padded.float()
    texts = [text for group in groups[:PROMPTS_IN_FLOAT32] for text in group]
    inputs = (torch.from_numpy(text.astype(np.int64))[None].to(device()) for text in texts)
    true = np.array([exact(input_ids=ids, use_cache=False).logits.item() for ids in inputs])
    found = {
        name: float(np.sqrt(np.mean((here[: len(true)] - true) ** 2)))
        for name, here in rewards.items()
    }
    return {name: round(x, 7) for name, x in {**found, "spread": float(true.std())}.items()}


def attention(
    config: LlamaConfig, groups: list[list[np.ndarray]], dtype: torch.dtype, budget: int
) -> dict[str, float] | None:
    """Median milliseconds of a layer's attention over one batch, in small blocks and usual ones."""
    if device().type != "cuda":
        return None
    texts = [text for group in groups for text in group]
    batch = tree_batches(texts, budget)[0]
    packing = filled_up(pack([texts[i] for i in batch]), tree_attention._BLOCK)
    num_heads, num_key_heads = config.num_attention_heads, config.num_key_value_heads
    shape = len(packing.token_ids), config.hidden_size // num_heads
    query, key, value = (
        torch.randn(1, heads, *shape, dtype=dtype, device=device())
        for heads in (num_heads, num_key_heads, num_key_heads)
    )
    found = {}
    for name, most in (("usual_blocks", 0), ("small_blocks", tree_attention._MOST_DIM)):
        tree_attention._MOST_DIM = most
        tree = tree_attention.Tree(packing, device())
        attend = partial(
            tree_attention.tree_attention, None, query, key, value, None, scaling=0.1, tree=tree
        )
        attend()
        found[name] = round(1e3 * float(np.median([seconds(attend) for _ in range(20)])), 3)
    return found


def save(kind: Any, config: LlamaConfig, folder: Path, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    with torch.device(device()):
        model = kind(config).to(dtype)
    model.save_pretrained(folder)
    return folder


def measure(folder: Path, size: str, num_prompts: int, dtype: str, budget: int) -> dict[str, Any]:
    kind, config = getattr(torch, dtype), config_of(size)
    groups = draw_texts(num_prompts)
    texts = [text for group in groups for text in group]
    lengths = np.array([len(text) for text in texts])
    unique = [pack(group) for group in groups]
    rate = matmul_rate(kind)
    path = save(LlamaForSequenceClassification, config, folder / "rm", kind)
    engine = ClassifierEngine(
        ClassifierConfig(model=str(path), name="rm", tokens_per_batch=budget), dtype
    )
    padded = LlamaForSequenceClassification.from_pretrained(path, dtype=kind).to(device()).eval()
    medians, rewards = side_by_side(engine, padded, groups)
    work = {
        "ours": operations(
            config,
            sum(len(packing.token_ids) for packing in unique),
            sum(int((packing.position_ids + 1).sum()) for packing in unique),
        ),
        "static": operations(config, lengths.sum(), (lengths * (lengths + 1) // 2).sum()),
    }
    del engine
    error = errors(rewards, padded, groups)
    del padded
    return {
        "texts": len(texts),
        "tokens": int(lengths.sum()),
        "tokens_that_differ": sum(len(packing.token_ids) for packing in unique),
        "matmul_tflops": round(rate / 1e12, 3),
        "seconds": {name: round(median, 4) for name, median in medians.items()},
        "tokens_per_s": {n: round(lengths.sum() / median) for n, median in medians.items()},
        "utilisation": {n: round(work[n] / median / rate, 3) for n, median in medians.items()},
        "static_over_ours": round(medians["static"] / medians["ours"], 2),
        "error_to_float32": error,
        "attention_ms": attention(config, groups, kind, budget),
        "logprob_memory": logprob_memory(folder, config, groups, dtype, budget),
    }


def logprob_memory(
    folder: Path, config: LlamaConfig, groups: list[list[np.ndarray]], dtype: str, budget: int
) -> dict[str, float] | None:
    """Peak of device memory over the weights, and what all logits of one batch would take, in GB.

    Only a GPU tells its peak.
    """
    if device().type != "cuda":
        return None
    path = save(LlamaForCausalLM, config, folder / "lm", getattr(torch, dtype))
    engine = LogprobEngine(
        LogprobConfig(model=str(path), name="lm", tokens_per_batch=budget), dtype
    )
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    texts = [text for group in groups for text in group]
    engine.logprobs(texts, [len(text) // 2 for text in texts])
    return {
        "peak_gb": round((torch.cuda.max_memory_allocated() - before) / 1e9, 2),
        "all_logits_gb": round(budget * VOCABULARY * 4 / 1e9, 2),
    }


def main() -> None:
    options = read_options("size", "prompts", "dtype", "tokens_per_batch")
    size = options.get("size", "8b")
    if size not in SIZES:
        sys.exit(f"size is one of {', '.join(SIZES)}.")
    dtype = options.get("dtype", "bfloat16")
    folder = Path(tempfile.mkdtemp(prefix="gpu-bench-"))
    try:
        found = measure(
            folder,
            size,
            int(options.get("prompts", 64)),
            dtype,
            int(options.get("tokens_per_batch", 16384)),
        )
    finally:
        shutil.rmtree(folder)
    name = torch.cuda.get_device_name() if device().type == "cuda" else platform.machine()
    result = {"size": size, "dtype": dtype, "device": name, "torch": torch.__version__, **found}
    target = Path(__file__).parent / "results" / "gpu.json"
    if device().type == "cuda":
        target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
