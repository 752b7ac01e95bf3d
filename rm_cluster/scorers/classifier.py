"""Reward models with a head: sequence classifiers, and language models with a value head."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rm_cluster.config import ClassifierConfig, ScoringConfig
from rm_cluster.conversation import listed_rows, num_completions
from rm_cluster.engines import engine_module
from rm_cluster.errors import ConfigError
from rm_cluster.rewards import head_weights
from rm_cluster.scorers.pretrained import open_pretrained
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds, score_rows
from rm_cluster.scorers.template import Template
from rm_cluster.types import Row

if TYPE_CHECKING:
    from rm_cluster.engines.torch_engine import ClassifierEngine


logger = logging.getLogger(__name__)


class Classifier:
    """A sequence classifier whose logit, or weighted sum of logits, is the reward.

    Takes the fields of `ClassifierConfig` as keywords, and `truncation` as in `ScoringConfig`:

        Classifier(model="path/or/hub-id", dtype="bfloat16").score(rows)

    The reward of a text is the float32 head on the last hidden state of its last token (decoders),
    or the model's own pooling (encoders); it depends on nothing else in the batch. A decoder's head
    is one linear layer, under any name in `engines.heads.HEADS`. Several outputs are summed with
    `head_weights`; of two labels without weights the reward is the second less the first.

    Raises:
        ConfigError: No such model, more labels than weights, no reward head, or no safetensors
            weights.
    """

    uses_gpu = True

    def __init__(self, *, truncation: str = ScoringConfig().truncation, **options: Any) -> None:
        self.config = ClassifierConfig(**options)
        self.pretrained = open_pretrained(self.config)
        self._weights = self._known_weights()
        self._template = Template(
            self.pretrained.tokenizer,
            self.config.template,
            self.pretrained.max_length,
            truncation,
            self.config.name,
        )
        self._engine: ClassifierEngine | None = None

    @cached_property
    def contract(self) -> dict[str, Any]:
        """What decides the rewards; made when asked for, because it reads all the weights."""
        contract = {
            "type": "classifier",
            **self.pretrained.contract(),
            **self._template.contract,
            "padding_side": "right",
            "pooling": "last token by the mask; encoders pool themselves",
            "head_dtype": "float32",
            "batching": self.pretrained.batching,
        }
        one = self._weights is None or self._weights == [1.0]
        return contract if one else {**contract, "head_weights": self._weights}

    @property
    def notice(self) -> str | None:
        """What the user should know of the contract before it runs."""
        labels = self.pretrained.hf.id2label
        two = (
            f"{self.config.name}: of two labels the reward is the logit of {labels[1]!r} less that "
            f"of {labels[0]!r}; set head_weights: [1, -1] for the reverse."
            if self.config.head_weights is None and self._weights == [-1.0, 1.0]
            else None
        )
        return " ".join(filter(None, [self._template.notice, two])) or None

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        return self._template.encode(rows)

    def load(self, num_threads: int | None = None) -> None:
        if self._engine is None:
            self._engine = engine_module(self.config).ClassifierEngine(
                self.config, self.pretrained.dtype, num_threads
            )

    def score_encoded(self, groups: Sequence[Sequence[TokenIds]]) -> list[npt.NDArray[np.float64]]:
        self.load()
        assert self._engine is not None
        flat = self._engine.rewards([ids for group in groups for ids in group])
        return np.split(flat, np.cumsum([len(group) for group in groups])[:-1])

    def objectives(self, prompt_groups: Iterable[Row]) -> list[npt.NDArray[np.float64]]:
        """Return [K, H] outputs of the head for each prompt group; nan where a group failed.

        `metrics.search_head_weights` finds weights for them.
        """
        self.load()
        assert self._engine is not None
        rows, found = listed_rows(prompt_groups), []
        for row, group in zip(rows, self.encode(rows), strict=True):
            if group.error is None:
                found.append(self._engine.objectives(group.token_ids))
            else:
                logger.warning("Prompt %r failed: %s", row.get("id", len(found)), group.error)
                found.append(np.full((num_completions(row), self._engine.num_outputs), np.nan))
        return found

    def score(self, prompt_groups: Iterable[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where a group failed."""
        return score_rows(self, prompt_groups)

    def _known_weights(self) -> list[float] | None:
        """The weights of the head's outputs, checked as far as the config tells their number.

        A language model saved with a value head does not; its engine checks them.
        """
        hf = self.pretrained.hf
        given = self.config.head_weights
        if not any("SequenceClassification" in name for name in hf.architectures or ()):
            return given
        weights: list[float] = head_weights(given, hf.num_labels, self.config.name).tolist()
        if self.config.engine == "vllm" and weights != [1.0]:
            raise ConfigError(
                f"{self.config.name} has a head of {hf.num_labels} outputs, or head_weights; "
                "engine: vllm takes one output as it is. Set engine: torch."
            )
        return weights
