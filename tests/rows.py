"""Rows for tests."""

from __future__ import annotations

import random
from typing import Any

from rm_cluster.benchmarks.rows import all_pairs, make_row
from rm_cluster.conversation import messages
from rm_cluster.types import Row


def row(prompt: Any = "Hi", completions: list[str] | None = None, **fields: Any) -> Row:
    completions = ["good", "bad"] if completions is None else completions
    base = {
        "id": "0",
        "domain": "d",
        "prompt": messages(prompt, "prompt"),
        "completions": completions,
        "pairs": all_pairs(1, len(completions) - 1),
    }
    return make_row(**{**base, **fields})


def random_rows(num_rows: int, seed: int) -> list[Row]:
    """Prompts and completions of very different lengths, some empty, some not ASCII."""
    rng = random.Random(seed)
    letters = "abcdefgh ijklm nop\n\tqrstuvwxyz.?!<>{}é語🙂"

    def text(longest: int) -> str:
        return "".join(rng.choices(letters, k=rng.choice((0, 1, rng.randint(2, longest)))))

    rows = []
    for index in range(num_rows):
        prompt = [{"role": "system", "content": text(40)}] if rng.random() < 0.3 else []
        prompt.append({"role": "user", "content": text(200)})
        completions = [text(rng.choice((5, 60, 400))) for _ in range(rng.randint(1, 7))]
        rows.append(row(prompt, completions, id=index, pairs=[]))
    return rows
