"""The first stage of the pipeline, in actors of Ray Data: windows of rows become requests.

Rows are rendered and tokenized here; nothing of Ray Serve is needed, which takes seconds to import.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rm_cluster.config import ScoringConfig
from rm_cluster.engines.packing import num_computed
from rm_cluster.scorers import AnyModelConfig, Generator, build_model
from rm_cluster.scorers.scorer import EncodedGroup, Scorer
from rm_cluster.store import Folder


class Window(NamedTuple):
    """A file of rows of one benchmark, and which of them are to be measured."""

    benchmark: str
    url: str
    file: str
    positions: list[int]
    first: int = 0
    """The number of the first sample to draw; how many of each prompt are stored."""


class Prompt(NamedTuple):
    """A prompt group on its way to a replica."""

    key: str
    id: str
    benchmark: str
    group: EncodedGroup
    first: int


class Encode:
    """Turns a window of rows into requests: whole prompt groups, alike in length, in token ids."""

    def __init__(
        self, config: AnyModelConfig, scoring: ScoringConfig, built: Scorer | Generator | None
    ) -> None:
        self._model = built or build_model(config, scoring)
        self._tokens_per_request = scoring.tokens_per_request

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for benchmark, url, file, positions, first in zip(
            *(batch[field] for field in Window._fields), strict=True
        ):
            rows = Folder(url).read_table(file).take(positions).to_pylist()
            prompts = [
                Prompt(row["content"], row["id"], benchmark, group, int(first))
                for row, group in zip(rows, self._encode(rows), strict=True)
            ]
            yield {
                "request": [
                    pickle.dumps(request, protocol=5)
                    for request in requests(prompts, self._tokens_per_request)
                ]
            }

    def _encode(self, rows: list[Any]) -> list[EncodedGroup]:
        if isinstance(self._model, Generator):
            return self._model.encode([row["prompt"] for row in rows])
        return self._model.encode(rows)


def requests(prompts: Sequence[Prompt], tokens_per_request: int) -> list[list[Prompt]]:
    """Cut prompts into requests of at most so many tokens, long ones first.

    What the texts of a prompt group begin with alike counts once, because most models compute it
    once. A larger group is a request of its own; prompts with an error weigh nothing.
    """
    found: list[list[Prompt]] = []
    room = 0
    for prompt in sorted(prompts, key=lambda prompt: -_longest(prompt.group)):
        tokens = num_computed(prompt.group.token_ids)
        if found and tokens <= room:
            found[-1].append(prompt)
            room -= tokens
        else:
            found.append([prompt])
            room = tokens_per_request - tokens
    return found


def _longest(group: EncodedGroup) -> int:
    return max(map(len, group.token_ids), default=0)
