"""How a judge's questions travel to a language model, and what its answers say.

A model that runs here says it by the log-probs of two answers or in words, one behind an endpoint
by whichever of them its server gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from rm_cluster.config import JudgeConfig, PretrainedConfig
from rm_cluster.errors import ConfigError
from rm_cluster.scorers.generator import Generator
from rm_cluster.scorers.judge_prompt import (
    OPTIONS,
    UNSCORED,
    disarm,
    log_odds,
    parse_rating,
    parse_verdict,
)
from rm_cluster.scorers.logprob import Logprob
from rm_cluster.scorers.pretrained import special_tokens
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds
from rm_cluster.types import Message, Row

if TYPE_CHECKING:
    from rm_cluster.engines.endpoint import Answer, EndpointEngine


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


NOTHING_ELSE = Row(
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


class Logits:
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
        return {**NOTHING_ELSE, "prompt": [turn], "completions": list(OPTIONS[self._method])}


class Words:
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


class Endpoint:
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
