"""The verbosity baseline: the reward is the number of tokens of the completion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rm_cluster.config import LengthConfig
from rm_cluster.conversation import texts
from rm_cluster.errors import DataFormatError
from rm_cluster.scorers.pretrained import fingerprint, load_tokenizer
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds, score_rows
from rm_cluster.types import Row

_WORD = re.compile(r"\w+|[^\w\s]")


class Length:
    """Counts tokens, words and punctuation marks where no tokenizer is given; needs no weights.

    A reward model that does no better has learned that longer is better, if anything.

    >>> row = {"prompt": [{"role": "user", "content": "Hi"}], "completions": ["Hello.", "Go away!"]}
    >>> Length().score([row])
    [array([2., 3.])]
    """

    uses_gpu = False

    def __init__(self, **options: Any) -> None:
        self.config = LengthConfig(**options)
        self._tokenizer = None
        self.contract: dict[str, Any] = {"type": "length", "tokenizer": "words"}
        if self.config.tokenizer is not None:
            name, revision = self.config.tokenizer, self.config.revision
            self._tokenizer = load_tokenizer(name, revision, trust_remote_code=False)
            self.contract["tokenizer"] = fingerprint(name, revision, weights=False)

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        return [self._encode(row) for row in rows]

    def load(self, num_threads: int | None = None) -> None:
        """Nothing to load."""

    def score_encoded(self, groups: Sequence[Sequence[TokenIds]]) -> list[npt.NDArray[np.float64]]:
        return [np.array([float(len(ids)) for ids in group]) for group in groups]

    def score(self, prompt_groups: Iterable[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K token counts for each prompt group."""
        return score_rows(self, prompt_groups)

    def _encode(self, row: Row) -> EncodedGroup:
        try:
            completions = texts(row.get("completions"), "completions")
        except DataFormatError as error:
            return EncodedGroup.failed(str(error))
        if self._tokenizer is None:
            # the count is all that matters, so the ids are zeros
            lengths = [len(_WORD.findall(completion)) for completion in completions]
            token_ids = [np.zeros(length, dtype=np.int32) for length in lengths]
        else:
            ids = self._tokenizer(completions, add_special_tokens=False, verbose=False)["input_ids"]
            token_ids = [np.asarray(one, dtype=np.int32) for one in ids]
        return EncodedGroup(token_ids, [len(ids) for ids in token_ids], [False] * len(token_ids))
