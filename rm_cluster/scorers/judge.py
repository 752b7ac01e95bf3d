"""A language model as a judge of replies: by the logits of its answer, or by its words.

Two replies are shown in both orders, because judges prefer a place: what a judge says is stored for
each order, and put together afterwards (`metrics/verdicts.py`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rm_cluster.config import JudgeConfig, ScoringConfig
from rm_cluster.conversation import listed_rows, num_completions, readable
from rm_cluster.errors import DataFormatError
from rm_cluster.scorers.asking import NOTHING_ELSE, Asker, Endpoint, Logits, Reading, Words
from rm_cluster.scorers.judge_prompt import OPTIONS, JudgePrompt
from rm_cluster.scorers.scorer import (
    EncodedGroup,
    GroupRewards,
    TokenIds,
    score_encoded_groups,
)
from rm_cluster.types import Row

logger = logging.getLogger(__name__)


class Judge:
    """Asks a language model which of two replies is better, or how good one is.

    Takes the fields of `JudgeConfig` as keywords:

        Judge(model="path/or/hub-id").score(rows)
        Judge(model="gpt-x", method="rating", endpoint={"base_url": "https://host/v1",
              "api_key_env": "API_KEY"}).score(rows)

    | method | asked about | value |
    |---|---|---|
    | `logits` | two replies, both orders | log-odds of A over B, in nats |
    | `verdict` | two replies, both orders | 1 for A, -1 for B, 0 for a tie, read from its words |
    | `yes` | one reply | probability of Yes, among Yes and No (GenRM, arXiv 2408.15240) |
    | `rating` | one reply | 1 to 10, read from its words |

    An answer without a verdict is an error that begins with `unscored`; it never counts as a tie.

    Raises:
        ConfigError: No such model, or the prompt cannot be used.
    """

    def __init__(self, *, truncation: str = ScoringConfig().truncation, **options: Any) -> None:
        # a question that is cut would no longer be one, so nothing is, whatever `truncation` says
        self.config = JudgeConfig(**options)
        self.uses_gpu = self.config.endpoint is None
        self._prompt = JudgePrompt(self.config)
        self._asker: Asker
        if self.config.endpoint is not None:
            self._asker = Endpoint(self.config)
        elif self.config.method in OPTIONS:
            self._asker = Logits(self.config)
        else:
            self._asker = Words(self.config)

    @cached_property
    def contract(self) -> dict[str, Any]:
        """What decides the verdicts; made when asked for, because it reads all the weights."""
        return {
            "type": "judge",
            "method": self.config.method,
            "judge_prompt_hash": self._prompt.hash,
            "fence_seed": self.config.seed,
            **self._asker.contract,
        }

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        """Ask about the one or two completions of each row; two are asked about in both orders."""
        orders = [list(itertools.permutations(row["completions"])) for row in rows]
        asked = iter(
            self._asker.encode(
                [
                    self._prompt.question(row["prompt"], shown)
                    for row, its in zip(rows, orders, strict=True)
                    for shown in its
                ]
            )
        )
        return [_together([next(asked) for _ in its]) for its in orders]

    def load(self, num_threads: int | None = None) -> None:
        self._asker.load(num_threads)

    def score_encoded(self, groups: Sequence[Sequence[TokenIds]]) -> list[GroupRewards]:
        """Return what the model says to each question of a group, or why that is not known."""
        self.load()
        found = iter(self._asker.readings([text for group in groups for text in group]))
        return [_rewards([next(found) for _ in group]) for group in groups]

    def score(self, prompt_groups: Iterable[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where there is no verdict.

        Two-reply methods compare each two completions: the rewards are those whose differences are
        nearest to the margins, whatever `compare` says.

        Raises:
            ConfigError: The model cannot be loaded, or its endpoint not be asked.
        """
        # a third of a second that encoders, senders and replicas can do without
        from rm_cluster.scorers.questions import answers, question_rows

        self.load()  # here, or what keeps it from loading would be an error of every row
        config = self.config
        if config.is_pairwise:
            config = config.model_copy(update={"compare": "round_robin"})
        rows = listed_rows(prompt_groups)
        rewards = [np.full(num_completions(row), np.nan) for row in rows]
        kept: dict[int, Row] = {}
        for place, row in enumerate(rows):
            try:
                kept[place] = {**NOTHING_ELSE, **readable(row)}
            except DataFormatError as error:
                logger.warning("Prompt %r: %s", row.get("id"), error)
        asked = [question for row in kept.values() for question in question_rows(config, row)]
        said = score_encoded_groups(self, self.encode(asked))
        stored = pa.table({"values": [a.values for a in said], "error": [a.error for a in said]})
        nums = [len(row["completions"]) for row in kept.values()]
        about = pa.table({"pairs": [[] for _ in nums], "num_completions": nums})
        found = answers(config, about, stored).table.to_pylist()
        for place, line in zip(kept, found, strict=True):
            if line["error"] is not None:
                logger.warning("Prompt %r: %s", rows[place].get("id"), line["error"])
            rewards[place][:] = line["values"] or np.nan
        return rewards


def _rewards(readings: Sequence[Reading]) -> GroupRewards:
    """One question in all its orders; it is answered if each of them is."""
    errors = dict.fromkeys(reading.error for reading in readings if reading.value is None)
    if errors:
        return GroupRewards(None, "; ".join(errors))
    return GroupRewards([reading.value for reading in readings if reading.value is not None])


def _together(groups: Sequence[EncodedGroup]) -> EncodedGroup:
    """The orders of a question as one group."""
    error = next((group.error for group in groups if group.error is not None), None)
    if error is not None:
        return EncodedGroup.failed(error)
    return EncodedGroup(
        [ids for group in groups for ids in group.token_ids],
        [num for group in groups for num in group.num_tokens],
        [False] * len(groups),
    )
