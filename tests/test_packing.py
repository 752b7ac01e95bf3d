from __future__ import annotations

import random

import numpy as np
import pytest

from rm_cluster.engines.packing import (
    MIN_SAVED,
    TokenIds,
    filled_up,
    num_computed,
    pack,
    tree_batches,
)


def ids(*tokens: int) -> TokenIds:
    return np.array(tokens, dtype=np.int32)


def random_texts(seed: int) -> list[TokenIds]:
    """Different texts that branch often and late, some of which begin others."""
    rng = random.Random(seed)
    texts = [[rng.randint(0, 2) for _ in range(rng.randint(1, 60))]]
    for _ in range(60):
        parent = rng.choice(texts)
        stem = parent[: rng.randint(0, len(parent))]
        texts.append(stem + [rng.randint(0, 2) for _ in range(rng.randint(0, 40))])
    different = {tuple(text) for text in texts if text}
    return [ids(*text) for text in sorted(different, key=lambda _: rng.random())]


@pytest.mark.parametrize("seed", range(20))
def test_every_text_is_in_the_row_in_order(seed: int) -> None:
    texts = random_texts(seed)
    order = tree_batches(texts, 10**9)[0]
    texts = [texts[i] for i in order]
    packing = pack(texts)
    for text, where in zip(texts, packing.where, strict=True):
        assert packing.token_ids[where].tolist() == text.tolist()
        assert packing.position_ids[where].tolist() == list(range(len(text)))
        assert (np.diff(where) > 0).all()
    assert len(packing.token_ids) <= sum(map(len, texts))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_below_a_segment_is_what_has_it_in_its_path(seed: int) -> None:
    texts = random_texts(seed)
    packing = pack([texts[i] for i in tree_batches(texts, 10**9)[0]])
    bounds = [(s.start, s.end) for s in packing.segments]
    assert bounds[0][0] == 0
    assert [end for _, end in bounds] == [
        *[start for start, _ in bounds[1:]],
        len(packing.token_ids),
    ]
    for segment in packing.segments:
        below = [
            s for s in packing.segments if s.start != segment.start and segment.start in s.path
        ]
        inside = [s for s in packing.segments if segment.end <= s.start < segment.stop]
        assert below == inside


def test_a_prompt_and_its_completions() -> None:
    prompt = [7] * 20
    packing = pack([ids(*prompt, 1, 5), ids(*prompt, 2), ids(*prompt, 3, 3, 3)])
    assert [(s.start, s.end, s.stop) for s in packing.segments] == [
        (0, 20, 26), (20, 22, 22), (22, 23, 23), (23, 26, 26),
    ]  # fmt: skip
    assert packing.position_ids[20:].tolist() == [20, 21, 20, 20, 21, 22]


def test_a_prefix_that_saves_little_is_not_shared() -> None:
    short = [7] * (MIN_SAVED - 1)
    packing = pack([ids(*short, 1), ids(*short, 2)])
    assert len(packing.token_ids) == 2 * MIN_SAVED
    # with one more text it saves twice as much
    packing = pack([ids(*short, 1), ids(*short, 2), ids(*short, 3)])
    assert len(packing.token_ids) == len(short) + 3


def test_batches_count_what_is_shared_once_and_lose_nothing() -> None:
    texts = [ids(*[7] * 100, i, i) for i in range(10)] + [ids(*[8] * 500)]
    found = tree_batches(texts, 120)
    assert sorted(i for batch in found for i in batch) == list(range(11))
    # 102 + 9 * 2 = 120
    assert sorted(map(len, found)) == [1, 10]


def test_a_chain_of_texts_that_begin_each_other() -> None:
    texts = [ids(*[1] * n) for n in range(1, 3000)]
    packing = pack(texts)
    assert packing.position_ids.max() == 2998


def test_a_batch_with_enough_ends_where_little_would_be_computed_again() -> None:
    groups = [[ids(*[p] * 50, *[9] * k, k) for k in range(10)] for p in (1, 2, 3)]
    texts = [text for group in groups for text in group]
    found = tree_batches(texts, 10_000, enough=60)
    assert [sorted(batch) for batch in found] == [
        list(range(10)), list(range(10, 20)), list(range(20, 30))
    ]  # fmt: skip
    # the limit holds all the same
    found = tree_batches(texts, 62, enough=60)
    assert sorted(i for batch in found for i in batch) == list(range(30))
    assert len(found) > 3
    # texts that share nothing are cut as soon as there is enough
    apart = [ids(*[p] * 30) for p in range(6)]
    assert [len(batch) for batch in tree_batches(apart, 10_000, enough=60)] == [2, 2, 2]


@pytest.mark.parametrize("num_tokens", [1, 63, 64, 65])
def test_a_row_is_filled_up_by_a_text_of_its_own(num_tokens: int) -> None:
    packing = pack([np.arange(num_tokens, dtype=np.int32)])
    filled = filled_up(packing, 64)
    size = len(filled.token_ids)
    assert size == len(filled.position_ids) == (128 if num_tokens == 65 else 64)
    np.testing.assert_array_equal(filled.token_ids[:num_tokens], packing.token_ids)
    assert filled.segments[0].stop == num_tokens
    assert filled.segments[-1].end == filled.segments[-1].stop == size
    np.testing.assert_array_equal(filled.where[0], packing.where[0])
    np.testing.assert_array_equal(filled.position_ids[num_tokens:], np.arange(size - num_tokens))


def test_tokens_are_computed_once_for_texts_that_begin_alike() -> None:
    texts = [ids(7), ids(1, 2, 5), ids(1, 2, 3, 4), ids(), ids(1, 2, 5)]
    assert num_computed(texts) == 4 + 1 + 1
    assert num_computed([]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_is_computed_is_what_a_row_holds(seed: int) -> None:
    texts = random_texts(seed)
    in_order = [texts[i] for i in tree_batches(texts, 10**9)[0]]
    # a row does not share prefixes that would save little
    assert num_computed(texts) <= len(pack(in_order).token_ids)
    assert num_computed(texts) == len({tuple(t[:n]) for t in texts for n in range(1, len(t) + 1)})
