"""A language model as a judge of replies: by the logits of its answer, or by its words.

Two replies are shown in both orders, because judges prefer a place: what a judge says is stored for
each order, and put together afterwards (`metrics/verdicts.py`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rm_cluster.config import JudgeConfig, PretrainedConfig, ScoringConfig
from rm_cluster.errors import ConfigError
from rm_cluster.scorers.generator import Generator
from rm_cluster.scorers.judge_prompt import (
    OPTIONS,
    UNSCORED,
    JudgePrompt,
    disarm,
    log_odds,
    parse_rating,
    parse_verdict,
)
from rm_cluster.scorers.logprob import Logprob
from rm_cluster.scorers.pretrained import special_tokens
from rm_cluster.scorers.questions import answers, question_rows
from rm_cluster.scorers.scorer import (
    EncodedGroup,
    GroupRewards,
    TokenIds,
    score_encoded_groups,
)
from rm_cluster.types import Message, Row

if TYPE_CHECKING:
    from rm_cluster.engines.endpoint import Answer, EndpointEngine

logger = logging.getLogger(__name__)


class Reading(NamedTuple):
    """What one answer says, or why it says nothing."""

    value: float | None
    error: str = ""


class Asker(Protocol):
    """How questions travel to a model, each as one text, and its answers back."""

    @property
    def contract(self) -> dict[str, Any]: ...

    def encode(self, questions: Sequence[str]) -> list[EncodedGroup]:
        """One group per question."""
        ...

    def load(self, num_threads: int | None) -> None: ...

    def readings(self, questions: Sequence[TokenIds]) -> list[Reading]: ...


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
            self._asker = _Endpoint(self.config)
        elif self.config.method in OPTIONS:
            self._asker = _Logits(self.config)
        else:
            self._asker = _Words(self.config)

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

    def score(self, prompt_groups: Sequence[Row]) -> list[npt.NDArray[np.float64]]:
        """Return an array of K rewards for each prompt group; nan where there is no verdict.

        Two-reply methods compare each two completions: the rewards are those whose differences are
        nearest to the margins, whatever `compare` says.
        """
        config = self.config
        if config.is_pairwise:
            config = config.model_copy(update={"compare": "round_robin"})
        asked = [
            question
            for row in prompt_groups
            for question in question_rows(config, {**_NOTHING_ELSE, **row})
        ]
        said = score_encoded_groups(self, self.encode(asked))
        stored = pa.table({"values": [a.values for a in said], "error": [a.error for a in said]})
        nums = [len(row["completions"]) for row in prompt_groups]
        rows = pa.table({"pairs": [[] for _ in nums], "num_completions": nums})
        found = answers(config, rows, stored).table.to_pylist()
        for row, line in zip(prompt_groups, found, strict=True):
            if line["error"] is not None:
                logger.warning("Prompt %r: %s", row.get("id"), line["error"])
        return [
            np.array(line["values"] or [np.nan] * num)
            for line, num in zip(found, nums, strict=True)
        ]


_NOTHING_ELSE = Row(
    id="",
    benchmark="",
    domain="",
    slices=[],
    prompt=[],
    completions=[],
    labels=None,
    policies=None,
    pairs=[],
    metadata=None,
)
"""What a row in this process need not have beside prompt and completions."""


class _Logits:
    """Compares the log-probs of two answers under a model that runs here."""

    def __init__(self, config: JudgeConfig) -> None:
        options = _pretrained(config)
        self._method, self._special = config.method, special_tokens(config)
        self._logprob = Logprob(template=config.template, include_eos=False, **options)
        (probe,) = self._logprob.encode([self._row("")])
        if probe.error is not None:
            raise ConfigError(f"{config.name}: {probe.error}")
        self._tails = [text[text < 0] for text in probe.token_ids]

    @property
    def contract(self) -> dict[str, Any]:
        own = {"type", "reward", "include_eos", "end_of_turn", "truncation"}
        return {k: v for k, v in self._logprob.contract.items() if k not in own}

    def encode(self, questions: Sequence[str]) -> list[EncodedGroup]:
        groups = self._logprob.encode([self._row(question) for question in questions])
        return [
            _one_text(group.token_ids[0][group.token_ids[0] >= 0]) if group.error is None else group
            for group in groups
        ]

    def load(self, num_threads: int | None) -> None:
        self._logprob.load(num_threads)

    def readings(self, questions: Sequence[TokenIds]) -> list[Reading]:
        options = [[np.concatenate([ids, tail]) for tail in self._tails] for ids in questions]
        odds = [first - other for first, other in self._logprob.score_encoded(options)]
        return [_from_log_odds(self._method, value) for value in odds]

    def _row(self, question: str) -> Row:
        turn = Message(role="user", content=disarm(question, self._special))
        return {**_NOTHING_ELSE, "prompt": [turn], "completions": list(OPTIONS[self._method])}


class _Words:
    """Reads what a model that runs here says, at temperature 0."""

    def __init__(self, config: JudgeConfig) -> None:
        self._method, self._special = config.method, special_tokens(config)
        self._generator = Generator(
            template=config.template,
            n=1,
            temperature=0.0,
            max_new_tokens=config.max_new_tokens,
            **_pretrained(config),
        )

    @property
    def contract(self) -> dict[str, Any]:
        return {k: v for k, v in self._generator.contract.items() if k != "type"}

    def encode(self, questions: Sequence[str]) -> list[EncodedGroup]:
        safe = [disarm(question, self._special) for question in questions]
        return self._generator.encode([[Message(role="user", content=text)] for text in safe])

    def load(self, num_threads: int | None) -> None:
        self._generator.load(num_threads)

    def readings(self, questions: Sequence[TokenIds]) -> list[Reading]:
        groups = self._generator.sample_encoded(questions)
        return [_from_words(self._method, said.text, cut=not said.ended) for (said,) in groups]


class _Endpoint:
    """Asks a model behind an endpoint; a question travels as the bytes of its text."""

    def __init__(self, config: JudgeConfig) -> None:
        assert config.endpoint is not None
        self._config, self._endpoint = config, config.endpoint
        self._engine: EndpointEngine | None = None
        self._body: dict[str, Any] = {"temperature": 0.0, "max_tokens": config.max_new_tokens}
        if config.method in OPTIONS:
            self._body |= {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}

    @property
    def contract(self) -> dict[str, Any]:
        return {
            "base_url": self._endpoint.base_url,
            "model": self._config.model,
            "body": {**self._body, **self._endpoint.body},
        }

    def encode(self, questions: Sequence[str]) -> list[EncodedGroup]:
        return [_one_text(_as_ids(disarm(question))) for question in questions]

    def load(self, num_threads: int | None) -> None:
        from rm_cluster.engines.endpoint import EndpointEngine

        if self._engine is None:
            self._engine = EndpointEngine(
                self._endpoint, self._config.model, self._config.name, self._body
            )

    def readings(self, questions: Sequence[TokenIds]) -> list[Reading]:
        self.load(None)
        assert self._engine is not None
        answers = self._engine.ask(
            [[{"role": "user", "content": _as_text(ids)}] for ids in questions]
        )
        return [self._read(answer) for answer in answers]

    def _read(self, answer: Answer) -> Reading:
        method = self._config.method
        if answer.error is not None:
            return Reading(None, answer.error)
        if method not in OPTIONS:
            return _from_words(method, answer.text, cut=answer.finish_reason == "length")
        odds = log_odds(method, answer.logprobs)
        if odds is None:
            options = " or ".join(OPTIONS[method])
            listed = dict(answer.logprobs) or "no tokens at all"
            return Reading(None, f"{UNSCORED}no log-prob of {options} among {listed}"[:300])
        return _from_log_odds(method, odds)


def _from_log_odds(method: str, odds: float) -> Reading:
    return Reading(float(odds) if method == "logits" else float(1 / (1 + np.exp(-odds))))


def _from_words(method: str, answer: str, *, cut: bool) -> Reading:
    value = parse_verdict(answer) if method == "verdict" else parse_rating(answer)
    if value is not None:
        return Reading(value)
    end = " ".join(answer.split())[-160:]
    why = "was cut at max_new_tokens before its" if cut else "does not end with a"
    return Reading(None, f"{UNSCORED}the answer {why} {method}: {end!r}")


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


def _one_text(ids: TokenIds) -> EncodedGroup:
    return EncodedGroup([ids], [len(ids)], [False])


def _as_ids(text: str) -> TokenIds:
    """UTF-8 by four bytes, about as long as the text's tokens are; spaces fill the last."""
    raw = text.encode("utf-8")
    return np.frombuffer(raw + b" " * (-len(raw) % 4), dtype="<i4").astype(np.int32)


def _as_text(ids: TokenIds) -> str:
    return ids.astype("<i4").tobytes().decode("utf-8").rstrip(" ")


def _pretrained(config: JudgeConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in PretrainedConfig.model_fields}
