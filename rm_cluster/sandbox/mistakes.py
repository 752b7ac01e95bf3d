"""A benchmark of pairs: the right answer against the family's common mistake.

Both are written in a style drawn for each, so that style says nothing. Small language models have
read such mistakes, some more than others, and so differ in how surely they tell them apart.
"""

from __future__ import annotations

import random

from rm_cluster.sandbox.tasks import FAMILIES, STYLES, draw_distinct, package
from rm_cluster.types import Record


def mistake_pairs(num_prompts: int, seed: int) -> list[Record]:
    """Return `num_prompts` pairs of each family, on tasks that nobody was trained on."""
    rng = random.Random(seed)
    tasks = [task for family in FAMILIES for task in draw_distinct(rng, "ppe", family, num_prompts)]
    return [
        {
            "id": f"mistake-{i}",
            "domain": task.family,
            "prompt": task.prompt,
            **{
                side: package(text, task.language, rng.randrange(len(STYLES[task.language])))
                for side, text in (("chosen", task.answer), ("rejected", task.mistake))
            },
        }
        for i, task in enumerate(tasks)
    ]
