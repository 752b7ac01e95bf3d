"""What `bench/throughput.py` times, each in a process of its own: one way to score the same texts.

    python bench/throughput_arms.py ARM FOLDER DTYPE

FOLDER holds `model/` (a Llama reward model with its tokenizer), `rows.jsonl` (the rows, in file
order) and `token_ids.json` (their texts in token ids, prompt by prompt). Each arm loads the model,
warms up, scores everything once and prints a line of JSON: its seconds, without start-up, and its
rewards. Only `floor`, `engine` and `job` import rm_cluster, so that the others run in environments
of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

BATCH_SIZE = 8
"""Of RewardBench's and RM-Bench's scripts."""
TOKENS_PER_FORWARD = 2048


def floor(folder: Path, dtype: str) -> dict[str, object]:
    """Bare forwards of transformers over as many tokens as are unique, with nothing padded.

    Rows are as long as the texts are on average; no head, no mask, no Ray. Linear layers are ours,
    or it would be no floor.
    """
    from transformers import AutoModel

    from rm_cluster.engines.linear import speed_up

    groups = json.loads((folder / "token_ids.json").read_text())
    texts = [ids for group in groups for ids in group]
    num_unique = unique_tokens(groups)
    length = sum(map(len, texts)) // len(texts)
    model = AutoModel.from_pretrained(folder / "model", dtype=getattr(torch, dtype)).eval()
    speed_up(model)
    rows = max(1, TOKENS_PER_FORWARD // length)
    input_ids = torch.randint(model.config.vocab_size, (rows, length))
    with torch.inference_mode():
        for _ in range(2):
            model(input_ids=input_ids, use_cache=False)
        started = time.perf_counter()
        num_done = 0
        while num_done < num_unique:
            model(input_ids=input_ids, use_cache=False)
            num_done += rows * length
        seconds = time.perf_counter() - started
    return {"seconds": seconds * num_unique / num_done, "num_unique_tokens": num_unique}


def unique_tokens(groups: list[list[list[int]]]) -> int:
    """Tokens that differ from all before them, given those before them in their text."""
    texts = sorted(ids for group in groups for ids in group)
    total, last = 0, []
    for text in texts:
        same = next((i for i, (a, b) in enumerate(zip(last, text, strict=False)) if a != b), None)
        total += len(text) - (min(len(last), len(text)) if same is None else same)
        last = text
    return total


def engine(folder: Path, dtype: str) -> dict[str, object]:
    """The engine alone, in this process, over token ids that are ready."""
    import numpy as np

    from rm_cluster.config import ClassifierConfig
    from rm_cluster.engines.torch_engine import ClassifierEngine

    groups = json.loads((folder / "token_ids.json").read_text())
    texts = [np.array(ids, dtype=np.int32) for group in groups for ids in group]
    scorer = ClassifierEngine(ClassifierConfig(model=str(folder / "model")), dtype)
    scorer.rewards(texts[:8])
    started = time.perf_counter()
    rewards = scorer.rewards(texts)
    return {"seconds": time.perf_counter() - started, "rewards": rewards.tolist()}


def job(folder: Path, dtype: str) -> dict[str, object]:
    """The whole job: rendering, tokenizing, Ray Data, Ray Serve, the store, metrics and report.

    Timed from the first answer in the store to the last, for the texts after the first request: the
    batches of two requests at a time are taken in turn, so little of the second is done when the
    first is answered. `start` is all before that, `end` all after it: metrics and the report.
    """
    import pyarrow.parquet as pq

    output = folder / f"job-{dtype}-{time.time_ns()}"
    settings = {
        "reward_models": [
            {"type": "classifier", "model": str(folder / "model"), "name": "m", "dtype": dtype}
        ],
        "benchmarks": [{"name": "texts", "path": str(folder / "rows.jsonl")}],
        "output_dir": str(output),
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps(settings))
    began = time.time()
    main = Path(__file__).parent.parent / "jobs" / "evaluate.py"
    done = subprocess.run(
        [sys.executable, main, config],
        env={**os.environ, "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    ended = time.time()
    answers = sorted((file.stat().st_mtime, file) for file in output.glob("rewards/*/*.parquet"))
    tokens = [
        sum(map(sum, pq.ParquetFile(file).read(["num_tokens"])["num_tokens"].to_pylist()))
        for _, file in answers
    ]
    if len(answers) < 2:
        raise SystemExit("All texts fit into one request, which times nothing: raise `scale`.")
    first, last = answers[0][0], answers[-1][0]
    return {
        "seconds": (last - first) * sum(tokens) / sum(tokens[1:]),
        "start": first - began,
        "end": ended - last,
        "num_requests": len(answers),
    }


def static(folder: Path, dtype: str) -> dict[str, object]:
    """Padded batches of 8 prompts in file order, each completion of the prompts in a call apart.

    That is how RewardBench and RM-Bench score; texts are tokenized already, which theirs are not.
    """
    from transformers import AutoModelForSequenceClassification

    groups = json.loads((folder / "token_ids.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(
        folder / "model", dtype=getattr(torch, dtype)
    ).eval()
    rewards: list[list[float]] = [[0.0] * len(group) for group in groups]

    def score(first: int) -> None:
        for k in range(len(groups[0])):
            texts = [group[k] for group in groups[first : first + BATCH_SIZE]]
            width = max(map(len, texts))
            ids = torch.zeros(len(texts), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, text in enumerate(texts):
                ids[row, width - len(text) :] = torch.tensor(text)
                mask[row, width - len(text) :] = 1
            logits = model(input_ids=ids, attention_mask=mask).logits
            for row, value in enumerate(logits.float().flatten().tolist()):
                rewards[first + row][k] = value

    with torch.inference_mode():
        score(0)
        started = time.perf_counter()
        for first in range(0, len(groups), BATCH_SIZE):
            score(first)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "rewards": [value for group in rewards for value in group]}


def vllm(folder: Path, dtype: str) -> dict[str, object]:
    """Pooling in vLLM, with its prefix cache on and empty, over token ids that are ready.

    In this process, eager and in small blocks, which suits two cores better than its defaults do.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return _pooled(folder, dtype, enforce_eager=True, block_size=32)


def vllm_defaults(folder: Path, dtype: str) -> dict[str, object]:
    """The same as vLLM sets itself up, but for the size of its cache."""
    return _pooled(folder, dtype)


def _pooled(folder: Path, dtype: str, **options: object) -> dict[str, object]:
    from vllm import LLM, PoolingParams

    groups = json.loads((folder / "token_ids.json").read_text())
    llm = LLM(
        model=str(folder / "model"),
        runner="pooling",
        convert="classify",
        dtype=dtype,
        enable_prefix_caching=True,
        max_model_len=4096,
        kv_cache_memory_bytes=2**30,
        disable_log_stats=True,
        **options,
    )
    params = PoolingParams(use_activation=False)

    def score(texts: list[list[int]]) -> list[float]:
        prompts = [{"prompt_token_ids": text} for text in texts]
        found = llm.encode(prompts, params, pooling_task="classify", use_tqdm=False)
        return [float(one.outputs.data.flatten()[0]) for one in found]

    score([[id + 1 for id in group[0]] for group in groups[:8]])
    started = time.perf_counter()
    rewards = score([ids for group in groups for ids in group])
    return {"seconds": time.perf_counter() - started, "rewards": rewards}


def rewardbench(folder: Path, dtype: str) -> dict[str, object]:
    """RewardBench's own command (0.1.4), its hard-coded "cuda" mapped to the CPU.

    Timed from its first call of its pipeline to the end of the last one.
    """
    import transformers
    from rewardbench.models.pipeline import RewardBenchPipeline
    from rewardbench.rewardbench import main

    to = transformers.BatchEncoding.to
    transformers.BatchEncoding.to = lambda self, *args, **options: to(self, "cpu")
    call = RewardBenchPipeline.__call__
    times: list[float] = []

    def timed(*args: object, **options: object) -> torch.Tensor:
        times.append(time.perf_counter())
        logits = call(*args, **options)
        times.append(time.perf_counter())
        return logits

    RewardBenchPipeline.__call__ = timed
    os.chdir(folder)  # it writes results/ where it stands
    sys.argv = ["rewardbench", "--model", "model", "--dataset", "rows.jsonl", "--load_json"]
    sys.argv += ["--not_quantized", "--torch_dtype", dtype]
    main()
    return {"seconds": times[-1] - times[0]}


ARMS = {arm.__name__: arm for arm in (floor, engine, job, static, vllm, vllm_defaults, rewardbench)}

if __name__ == "__main__":
    arm, folder, dtype = sys.argv[1:]
    torch.set_num_threads(os.cpu_count() or 1)
    print(json.dumps(ARMS[arm](Path(folder), dtype)))
