"""Similarity of completions by the words that they share: for the pool rules, without any model.

Shapes: P prompts, N candidates of the largest pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from rm_cluster.best_of_n.pools import unknown_name
from rm_cluster.metrics.judged import Floats

OverlapMeasure = Literal["f1", "jaccard", "cosine"]


def token_overlap(
    completions_PN: Sequence[Sequence[str]], measure: OverlapMeasure = "f1"
) -> Floats:
    """[P, N, N] how much of their words candidates of a prompt share, for `select`.

    Words and punctuation marks are counted, in lower case, by scikit-learn's CountVectorizer; a
    word that comes twice counts twice. With |A| the words of a completion and |A & B| those that it
    shares with another:

    | measure | similarity |
    |---|---|
    | `f1` | 2 |A & B| / (|A| + |B|), ROUGE-1's F1 and the Dice coefficient |
    | `jaccard` | |A & B| / |A or B| |
    | `cosine` | cosine of the counts |

    Args:
        completions_PN: Pools may differ in size.
        measure: One of the above.

    Returns:
        1 on the diagonal; 0 beside where there is no candidate. Two texts without words are alike,
        one of them and any other share nothing.

    Raises:
        ConfigError: An unknown measure.
    """
    if measure not in get_args(OverlapMeasure):
        raise unknown_name("measure", measure, get_args(OverlapMeasure))
    from sklearn.feature_extraction.text import CountVectorizer

    sizes = [len(pool) for pool in completions_PN]
    similarity = np.zeros((len(sizes), max(sizes, default=0), max(sizes, default=0)))
    words = CountVectorizer(token_pattern=r"\w+|[^\w\s]")
    for pool, texts in enumerate(completions_PN):
        try:
            counts = words.fit_transform(texts).toarray().astype(np.float64)
        except ValueError:  # none of the texts has a word
            counts = np.zeros((len(texts), 1))
        similarity[pool, : len(texts), : len(texts)] = _compare(counts, measure)
    return similarity


def _shared(counts_NW: Floats) -> Floats:
    """[N, N] sum over words of the smaller count, as products of who has a word so often."""
    shared = np.zeros((len(counts_NW), len(counts_NW)))
    often = 1
    while counts_NW.shape[1]:
        has = (counts_NW >= often).astype(np.float64)
        shared += has @ has.T
        often += 1
        counts_NW = counts_NW[:, counts_NW.max(axis=0) >= often]
    return shared


def _compare(counts_NW: Floats, measure: OverlapMeasure) -> Floats:
    """[N, N] of the counts of each word."""
    sizes = counts_NW.sum(axis=1)
    if measure == "cosine":
        squares = (counts_NW**2).sum(axis=1)
        shared = counts_NW @ counts_NW.T
        total = np.sqrt(squares[:, None] * squares)
    else:
        shared = _shared(counts_NW)
        total = sizes[:, None] + sizes
        shared, total = (2 * shared, total) if measure == "f1" else (shared, total - shared)
    with np.errstate(invalid="ignore"):
        alike = np.where(total > 0, shared / total, 0.0).round(12)
    empty = sizes == 0
    compared: Floats = np.where(empty[:, None] & empty, 1.0, alike)
    return compared
