"""Which domain a prompt is of, asked of a language model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from rm_cluster.config import RouterConfig
from rm_cluster.conversation import listed_rows, readable
from rm_cluster.scorers.customization import load_templates, templates_hash
from rm_cluster.scorers.generator import Generator
from rm_cluster.scorers.judge_prompt import built_in_hash, disarm, last_line, render
from rm_cluster.scorers.pretrained import special_tokens
from rm_cluster.scorers.scorer import EncodedGroup, GroupRewards, TokenIds, score_encoded_groups
from rm_cluster.types import Message, Row

logger = logging.getLogger(__name__)

UNKNOWN = -1.0
"""In the place of a domain's position where the answer names none."""


class Router:
    """Asks for the kind of each prompt, by the definitions of the domains.

    Takes the fields of `RouterConfig` as keywords. It is a scorer like any other, so that its
    answers are stored and no prompt is asked about twice: the one value of a row is the position of
    its domain, -1 where the answer names none. Completions are not looked at.

    Raises:
        ConfigError: No such model, or the templates cannot be read.
    """

    uses_gpu = True

    def __init__(self, **options: Any) -> None:
        self.config = RouterConfig(**options)
        self.templates = load_templates(self.config.templates)
        self.domains = list(self.templates.domains)
        self._generator = Generator(**self.config.model_dump(exclude={"templates"}))
        self._special = special_tokens(self.config)

    @cached_property
    def contract(self) -> dict[str, Any]:
        """What decides the answers; made when asked for, because it reads all the weights."""
        return {
            **self._generator.contract,
            "type": "router",
            "templates_hash": templates_hash(self.templates),
            "prompt_hash": built_in_hash("router"),
        }

    def encode(self, rows: Sequence[Row]) -> list[EncodedGroup]:
        definitions = {name: d.definition for name, d in self.templates.domains.items()}
        questions = [
            disarm(render("router", row["prompt"], [], domains=definitions), self._special)
            for row in rows
        ]
        return self._generator.encode([[Message(role="user", content=q)] for q in questions])

    def load(self, num_threads: int | None = None) -> None:
        self._generator.load(num_threads)

    def score_encoded(self, groups: Sequence[Sequence[TokenIds]]) -> list[GroupRewards]:
        answers = self._generator.sample_encoded([ids for (ids,) in groups])
        return [GroupRewards([self._position(said.text)]) for (said,) in answers]

    def route(self, prompt_groups: Iterable[Row]) -> list[str]:
        """Return the domain of each row; the fallback where the answer names none.

        Raises:
            ConfigError: The model cannot be loaded.
            DataFormatError: A row is none.
        """
        rows = [readable(row) for row in listed_rows(prompt_groups)]
        self.load()  # here, or what keeps it from loading would send all to the fallback
        found = score_encoded_groups(self, self.encode(rows))
        for row, (_, error) in zip(rows, found, strict=True):
            if error is not None:
                logger.warning("Prompt %r is taken for the fallback: %s", row.get("id"), error)
        return [self.domain(values[0] if values else UNKNOWN) for values, _ in found]

    def domain(self, position: float) -> str:
        """The domain at a stored position; the fallback where it is `UNKNOWN`."""
        return self.templates.fallback if position == UNKNOWN else self.domains[int(position)]

    def _position(self, answer: str) -> float:
        names = "|".join(map(re.escape, self.domains))
        line = re.fullmatch(rf"\W*(?:kind\W*)?({names})\W*", last_line(answer), re.IGNORECASE)
        if line is None:
            return UNKNOWN
        return float([name.lower() for name in self.domains].index(line[1].lower()))
