"""How far float32 is from single texts in float64, family by family, without Ray: ours and plain.

    python bench/gpu_exactness.py [families=Llama,Gemma2] [rounds=2]

Small models with random weights on random groups: shared first tokens, one huge completion among
tiny ones, completions of one token, duplicates. The reference is plain transformers with eager
attention on the same device; `plain` is the same in float32, which is rounded, too. Soft caps are
low and windows short, so that they matter. On a GPU it writes `bench/results/gpu_exactness.json`.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from options import read_options

from rm_cluster.config import ClassifierConfig, LogprobConfig
from rm_cluster.engines.device import device
from rm_cluster.engines.torch_engine import ClassifierEngine, LogprobEngine

VOCABULARY = 5000
SIZE = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 4, "max_position_embeddings": 4096, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZE, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": {**GROUPED, "head_dim": 64},
    "Mistral": {**GROUPED, "sliding_window": 100},
    "Gemma2": {
        **GROUPED, "head_dim": 64, "sliding_window": 100, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "Gemma3Text": {**GROUPED, "head_dim": 64, "sliding_window": 100},
    "GPTNeoX": SIZE,
    "Gemma": {**GROUPED, "head_dim": 64},
    "Olmo2": GROUPED,
    "Phi3": {**GROUPED, "sliding_window": 100},
    "SmolLM3": {**GROUPED, "no_rope_layers": [1, 1, 1, 0]},
}  # fmt: skip
NUM_GROUPS = 20


def random_groups(rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Prompts with their completions, as ids."""

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(1, VOCABULARY, size=rng.integers(low, high)).astype(np.int32)

    groups = []
    for _ in range(NUM_GROUPS):
        begin = ids(0, 20)
        completions = [np.append(begin, ids(1, 60)).astype(np.int32) for _ in range(4)]
        groups.append([ids(1, 120), [*completions, completions[0], ids(1, 2), ids(400, 700)]])
    return groups


def load(folder: Path, loader: Any, dtype: torch.dtype) -> Any:
    model = loader.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.to(device()).eval()


def logits(model: Any, text: np.ndarray) -> torch.Tensor:
    inputs = torch.from_numpy(text.astype(np.int64))[None].to(device())
    found: torch.Tensor = model(input_ids=inputs, use_cache=False).logits[0]
    return found


def plain_rewards(model: Any, texts: list[np.ndarray]) -> np.ndarray:
    return np.array([logits(model, text).item() for text in texts])


def plain_logprobs(model: Any, texts: list[np.ndarray], borders: list[int]) -> np.ndarray:
    sums = []
    for text, border in zip(texts, borders, strict=True):
        logprobs = logits(model, text)[border - 1 : -1].log_softmax(-1)
        targets = torch.from_numpy(text[border:].astype(np.int64)).to(device())
        sums.append(logprobs.gather(1, targets[:, None]).double().sum().item())
    return np.array(sums)


def save(family: str, folder: Path, mapping: Any, **options: Any) -> Path:
    config = getattr(transformers, f"{family}Config")(
        **FAMILIES[family], initializer_range=0.1, **options
    )
    torch.manual_seed(0)
    mapping[type(config)](config).save_pretrained(folder)
    return folder


@torch.inference_mode()
def measure(family: str, folder: Path, num_rounds: int) -> dict[str, Any]:
    rm = save(
        family, folder / "rm", transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, num_labels=1
    )
    lm = save(family, folder / "lm", transformers.MODEL_FOR_CAUSAL_LM_MAPPING)
    classifier = ClassifierEngine(ClassifierConfig(model=str(rm), name="rm"), "float32")
    scorer = LogprobEngine(LogprobConfig(model=str(lm), name="lm"), "float32")
    rms, lms = (
        [load(path, loader, dtype) for dtype in (torch.float64, torch.float32)]
        for path, loader in (
            (rm, transformers.AutoModelForSequenceClassification),
            (lm, transformers.AutoModelForCausalLM),
        )
    )
    rng = np.random.default_rng(0)
    rewards, sums = [], []
    for _ in range(num_rounds):
        groups = random_groups(rng)
        texts = [np.concatenate([p, c]) for p, completions in groups for c in completions]
        borders = [len(p) for p, completions in groups for _ in completions]
        rewards.append([*(plain_rewards(m, texts) for m in rms), classifier.rewards(texts)])
        sums.append(
            [*(plain_logprobs(m, texts, borders) for m in lms), scorer.logprobs(texts, borders)]
        )
    return {
        "n": sum(len(each[0]) for each in rewards),
        "rewards": summary(np.concatenate(rewards, axis=1)),
        "logprob_sums": summary(np.concatenate(sums, axis=1)),
    }


def summary(values: np.ndarray) -> dict[str, float]:
    """Of [3, n] true values, plain ones and ours."""
    true, plain, ours = values
    return {
        "ours_max_error": float(f"{np.abs(ours - true).max():.2g}"),
        "plain_max_error": float(f"{np.abs(plain - true).max():.2g}"),
        "spread": round(float(true.std()), 3),
        "largest": round(float(np.abs(true).max()), 3),
    }


def main() -> None:
    options = read_options("families", "rounds")
    names = options["families"].split(",") if "families" in options else list(FAMILIES)
    if unknown := set(names) - set(FAMILIES):
        sys.exit(f"No family is called {', '.join(unknown)}; there are {', '.join(FAMILIES)}.")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device().type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "families": {},
    }
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="gpu-exactness-"))
        try:
            result["families"][name] = measure(name, folder, int(options.get("rounds", 2)))
        finally:
            shutil.rmtree(folder)
        print(name, result["families"][name], flush=True)
    if device().type == "cuda" and len(names) == len(FAMILIES):
        target = Path(__file__).parent / "results" / "gpu_exactness.json"
        target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
