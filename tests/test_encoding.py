from __future__ import annotations

import random

import numpy as np
import pytest

from rm_cluster.encoding import Prompt, requests
from rm_cluster.engines.packing import num_computed
from rm_cluster.scorers.scorer import EncodedGroup


def prompt(number: int, texts: list[list[int]], error: str | None = None) -> Prompt:
    encoded = [np.array(text, dtype=np.int32) for text in texts]
    group = EncodedGroup(encoded, [len(text) for text in texts], [False] * len(texts), error)
    return Prompt(f"key-{number}", str(number), "mine", group, 0)


def pool(number: int, num_prompt: int, lengths: list[int]) -> Prompt:
    """Completions that differ in their first token."""
    stem = [number] * num_prompt
    return prompt(number, [[*stem, 1000 + i, *[5] * (n - 1)] for i, n in enumerate(lengths)])


def test_a_prompt_counts_once_for_all_of_its_completions() -> None:
    # 500 tokens of a prompt and 32 of completions: 532 to compute, 16,032 with every copy
    pools = [pool(i, 500, [1] * 32) for i in range(8)]
    assert [len(request) for request in requests(pools, 2 * 532)] == [2, 2, 2, 2]
    assert [len(request) for request in requests(pools, 2 * 532 - 1)] == [1] * 8


@pytest.mark.parametrize("seed", range(5))
def test_requests_hold_every_prompt_once_within_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    prompts = [
        pool(i, rng.randint(0, 300), [rng.randint(1, 60) for _ in range(rng.randint(1, 9))])
        for i in range(60)
    ]
    prompts.append(prompt(60, [], "too long"))
    found = requests(prompts, 400)
    assert sorted(int(one.id) for request in found for one in request) == list(range(61))
    sizes = [sum(num_computed(one.group.token_ids) for one in request) for request in found]
    assert all(n <= 400 or len(request) == 1 for n, request in zip(sizes, found, strict=True))
    # no request could take the first prompt of the next one, too
    firsts = [num_computed(request[0].group.token_ids) for request in found]
    assert all(a + b > 400 for a, b in zip(sizes, firsts[1:], strict=False))


def test_requests_of_nothing() -> None:
    assert requests([], 100) == []
