"""How alike the candidates of each prompt of a search are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rm_cluster.best_of_n import cosine_similarity, token_overlap
from rm_cluster.config import EmbeddingConfig, SearchConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.judged import Floats
from rm_cluster.scorers import Embedding
from rm_cluster.searching.pool import Columns, Kept
from rm_cluster.types import Row


def similarity(run: SearchConfig, rows: Sequence[Row], columns: Columns, kept: Kept) -> Floats:
    """[P, N, N] of the candidates that take part."""
    texts = [rows[row]["completions"] for row in kept.rows]
    if "embeddings" in columns.values:
        vectors = [columns.values["embeddings"][row] for row in kept.rows]
        return _cosines(columns, kept, vectors)
    if isinstance(run.similarity, EmbeddingConfig):
        embedding = Embedding(**run.similarity.model_dump())
        flat = embedding.embed([text for pool in texts for text in pool])
        ends = np.cumsum([len(pool) for pool in texts])[:-1]
        return _cosines(columns, kept, np.split(flat, ends))
    overlap = token_overlap(texts)
    width = max(columns.sizes) - overlap.shape[1]
    return _kept_pairs(kept, np.pad(overlap, ((0, 0), (0, width), (0, width))))


def _kept_pairs(kept: Kept, values_PNN: Floats) -> Floats:
    """What `Kept.take_pairs` gives for values of the kept rows alone."""
    return kept._replace(rows=np.arange(len(kept.rows))).take_pairs(values_PNN)


def _cosines(columns: Columns, kept: Kept, vectors: Sequence[Any]) -> Floats:
    """[P, N, N] of the candidates that take part, from the kept rows' vectors."""
    found = np.zeros((*kept.order_PN.shape, kept.order_PN.shape[1]))
    for place, (row, given) in enumerate(zip(kept.rows, vectors, strict=True)):
        here = kept.present_PN[place]
        num = int(here.sum())
        try:
            if len(given) != columns.sizes[row]:
                raise ValueError
            array = np.array([given[k] for k in kept.order_PN[place, here]], dtype=np.float64)
            found[place, :num, :num] = cosine_similarity(array[None])[0]
        except (TypeError, ValueError):
            raise DataFormatError(
                f"{columns.ids[row]!r} must have one embedding for each of its "
                f"{columns.sizes[row]} completions: finite numbers, not all 0, as many in each."
            ) from None
    return found
