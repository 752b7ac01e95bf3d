"""Records in the schemas of PPE's data sets, drawn at random."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

NUM_SAMPLES = 8
FILES = {
    "human_preference": "PPE-Human-Preference-V1",
    "MMLU-Pro": "PPE-MMLU-Pro-Best-of-K",
    "MATH": "PPE-MATH-Best-of-K",
    "GPQA": "PPE-GPQA-Best-of-K",
    "MBPP-Plus": "PPE-MBPP-Plus-Best-of-K",
    "IFEval": "PPE-IFEval-Best-of-K",
}


def human_records(num_battles: int, num_policies: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    records = []
    for index in range(num_battles):
        a, b = rng.sample(range(num_policies), 2)
        replies = [" ".join(rng.choices("abcdefg", k=rng.randint(1, 9))) for _ in range(2)]
        records.append(
            {
                "question_id": f"q{index // 2}",  # ids repeat, as they may in the real set
                "model_a": f"policy-{a}",
                "model_b": f"policy-{b}",
                "winner": rng.choice(["model_a", "model_b", "tie", "tie (bothbad)"]),
                "prompt": f"prompt {index}",
                "response_1": replies[0],
                "response_2": replies[1],
                "language": rng.choice(["English", "Chinese"]),
                "is_code": rng.random() < 0.3,
                "is_refusal": False,
                "hard_prompt": rng.random() < 0.4,
                "easy_prompt": rng.random() < 0.4,
                "if_prompt": rng.random() < 0.4,
                "math_prompt": rng.random() < 0.3,
            }
        )
    return records


def sample_records(num_prompts: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    records = []
    for index in range(num_prompts):
        scores = [rng.random() < 0.5 for _ in range(NUM_SAMPLES)]
        scores[0], scores[1] = True, False
        conflicts = [
            [i, j] for i in range(NUM_SAMPLES) for j in range(NUM_SAMPLES) if scores[i] != scores[j]
        ]
        records.append(
            {
                "question_id": index // 2,  # each question comes from two generators
                "prompt": f"problem {index // 2}",
                **{
                    f"response_{k + 1}": " ".join(rng.choices("xyz", k=rng.randint(1, 9)))
                    for k in range(NUM_SAMPLES)
                },
                "scores": scores,
                "sampled_conflict_pairs": [rng.choice(conflicts) for _ in range(5)],
                "model_name": ("generator/a", "generator/b")[index % 2],
            }
        )
    return records


def write_ppe(folder: Path, num_battles: int = 200, num_prompts: int = 12, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (domain, name) in enumerate(FILES.items()):
        records = (
            human_records(num_battles, 5, seed)
            if domain == "human_preference"
            else sample_records(num_prompts, seed + number)
        )
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder
