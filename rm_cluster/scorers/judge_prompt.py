"""What a judge is asked, and how its answer is read; pure text.

Whatever was written by others stands between lines that bear a code. The code is a hash of the very
texts and a seed: a text cannot contain it, and so cannot end its own fence and go on as if it were
the judge's instructions. Of an answer only the last line counts, and only if it holds a verdict and
nothing else: what a judge quotes, considers or says on the way decides nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rm_cluster.config import JudgeConfig
from rm_cluster.errors import ConfigError
from rm_cluster.types import Message

LOWEST, HIGHEST = 1.0, 10.0
"""The scale of ratings."""
UNSCORED = "unscored: "
"""Begins the error of an answer that came but holds no verdict."""
OPTIONS = {"logits": ("A", "B"), "yes": ("Yes", "No")}
"""By method, the two answers whose probabilities are compared."""

_DRESS = r"[\s*_`#\"'\[\]().:]*"
_VERDICT = re.compile(rf"{_DRESS}(?:verdict{_DRESS})?(A|B|tie){_DRESS}", re.IGNORECASE)
_RATING = re.compile(
    r"[\s*_`#\"'\[\]():]*(?:rating[\s*_`#\"'\[\]():]*)?(\d+(?:\.\d+)?)(?:\s*/\s*10)?"
    rf"{_DRESS}",
    re.IGNORECASE,
)
_COMMON_SPECIAL = re.compile(
    r"(<)([|\uff5c][^|\uff5c<>\n]{1,40}[|\uff5c]>|/?s>|[be]os>|/?(?:start|end)_of_turn>)"
    r"|(\[)(/?(?:INST|SYSTEM_PROMPT)\])"
)
_NEVER, _ROUNDING, _LEAST = -1000.0, 1e-3, 1e-9
"""Log-probs end above the first and may pass 0 by the second; the third is the least rest."""
_PREFERENCE = {"a": 1.0, "b": -1.0, "tie": 0.0}


class JudgePrompt:
    """Writes the question that a judge is asked.

    A template of the user's own is Jinja and has the variables `prompt` (messages), `completions`
    (two of them to be compared, or one to be judged by itself), `code`, and the function
    `fence(name, text)`, which puts a text between lines that it cannot forge.

    Raises:
        ConfigError: The user's template cannot be read, is no Jinja, or uses an unknown variable.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self._seed = config.seed
        own = config.judge_prompt
        self._source = _built_in(config.method) if own is None else _read(config.name, own)
        self.hash = _hash(self._source, _built_in("material"))
        try:
            self.question([Message(role="user", content="")], ["", ""][: 1 + config.is_pairwise])
        except jinja2.TemplateError as error:
            raise ConfigError(f"{config.name}: judge_prompt is wrong: {error}") from None

    def question(self, prompt: Sequence[Message], completions: Sequence[str]) -> str:
        """Ask about completions, in the order in which they are shown."""
        return _rendered(self._source, prompt, completions, self._seed)


def render(name: str, prompt: Sequence[Message], completions: Sequence[str], **more: Any) -> str:
    """A question of our own about texts of others, which stand in fences."""
    return _rendered(_built_in(name), prompt, completions, seed=0, **more)


def built_in_hash(name: str) -> str:
    """Of all that `render` says by itself."""
    return _hash(_built_in(name), _built_in("material"))


def _rendered(
    source: str, prompt: Sequence[Message], completions: Sequence[str], seed: int, **more: Any
) -> str:
    turns = [[turn["role"], turn["content"]] for turn in prompt]
    # the same for both orders of two completions, so that these begin alike
    code = _hash(json.dumps([seed, turns, sorted(completions)]))[:12]

    def fence(name: str, text: str) -> str:
        name = re.sub(r"[^\w ]", "", name)[:40]  # a role may be any text
        return f"[[begin {name} {code}]]\n{text}\n[[end {name} {code}]]"

    variables = {"prompt": prompt, "completions": completions, "code": code, "fence": fence}
    return _compiled(source).render(**variables, **more).strip()


def disarm(question: str, special_tokens: Iterable[str] | None = None) -> str:
    """Take apart what a tokenizer would read as a special token, such as the end of a turn.

    Args:
        question: With texts of others in it.
        special_tokens: Of the judge's tokenizer; those in common use where it is not known.
    """
    if special_tokens is None:
        return _COMMON_SPECIAL.sub(r"\1\3 \2\4", question)
    for token in sorted(special_tokens, key=len, reverse=True):
        question = question.replace(token, f"{token[:1]} {token[1:]}")
    return question


def parse_verdict(answer: str) -> float | None:
    r"""1 for reply A, -1 for B, 0 for a tie; None where the last line is no verdict.

    >>> parse_verdict("B is wrong.\n**Verdict: A**"), parse_verdict("I would say A, not B")
    (1.0, None)
    """
    found = _VERDICT.fullmatch(last_line(answer))
    return None if found is None else _PREFERENCE[found[1].lower()]


def parse_rating(answer: str) -> float | None:
    r"""The rating; None where the last line is none, or one beyond the scale.

    >>> parse_rating("Fine.\nRating: 7/10"), parse_rating("Rating: 11")
    (7.0, None)
    """
    found = _RATING.fullmatch(last_line(answer))
    if found is None or not LOWEST <= float(found[1]) <= HIGHEST:
        return None
    return float(found[1])


def log_odds(method: str, logprobs: Sequence[tuple[str, float]]) -> float | None:
    """Log-odds of the first option, from the likeliest tokens that an endpoint lists.

    Tokens that are an option but for case and space around it are added up. An option that is not
    listed is no likelier than the last that is, nor than all that are not: the log-odds are then a
    bound. What stands for no probability at all (-inf, -9999, -3.4e38) counts as not listed. None
    where neither is listed, or a number is no log-prob.
    """
    if not all(value <= _ROUNDING for _, value in logprobs):
        return None
    listed = [(token, value) for token, value in logprobs if value > _NEVER]
    sums = [
        _log_sum([value for token, value in listed if token.strip().lower() == option.lower()])
        for option in OPTIONS[method]
    ]
    if all(value is None for value in sums):
        return None
    rest = 1.0 - sum(math.exp(value) for _, value in listed)
    bound = min(*(value for _, value in listed), math.log(max(rest, _LEAST)))
    first, other = (bound if value is None else value for value in sums)
    return first - other


def _log_sum(values: list[float]) -> float | None:
    if not values:
        return None
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def last_line(answer: str) -> str:
    """The last line that is not blank."""
    lines = [line for line in answer.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _read(name: str, template: str) -> str:
    if "{{" in template or "{%" in template:
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{name}: cannot read judge_prompt {template!r}. It may be a .jinja file or Jinja text."
        ) from None


def _built_in(name: str) -> str:
    return files("rm_cluster.scorers").joinpath(f"judge_prompts/{name}.jinja").read_text("utf-8")


@functools.cache
def _compiled(source: str) -> jinja2.Template:
    """Compiled where it is used, because a template cannot travel."""
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FunctionLoader(lambda name: _built_in(name.removesuffix(".jinja"))),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.from_string(source)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
