r"""Preferences in the user's own files, in the shapes that the field has in use.

The first shape whose columns are all there decides:

| columns | shape |
|---|---|
| `chosen`, `rejected`: lists of texts (one of them may be a text) | N x M replies to `prompt` |
| `chosen`, `rejected`: lists of messages | TRL; the shared turns are the prompt |
| `chosen`, `rejected`: texts, `prompt` | TRL, RewardBench, pref-test-sets |
| `chosen`, `rejected`: texts with "\n\nHuman:" and "\n\nAssistant:" turns | HH transcripts |
| `chosen`, `rejected`: other texts | TRL's implicit prompt: the shared beginning |
| two responses, `overall_preference` (negative: the first is better; 0: a tie) | HelpSteer3 |
| two responses, `preference_strength` (positive: the second is better; 0: a tie) | HelpSteer2 |
| `prompt`, `response`, `helpfulness`, in consecutive rows of one prompt | HelpSteer2's ratings |
| two responses, `winner` or `winner_model_a`, `winner_model_b`, `winner_tie` | arena battles |
| `prompt`, `completions` | a pool; with `labels`, a gold value each, all unequal pairs |
| `prompt`, `completion`, `label` | TRL's unpaired preference; scored, never compared |
| `messages` | scored, never compared |

Two responses are `response1` / `response_1` / `response_a` / `conversation_a` and their seconds.
The prompt may also be called `context`, `conversation`, `instruction`, `question` or `query`;
beside a `question` a text `system` is its system message (Orca's pairs).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, TypeGuard

from rm_cluster.benchmarks.benchmark import Benchmark
from rm_cluster.benchmarks.conversations import (
    helpsteer2_turns,
    split_conversations,
    split_texts,
)
from rm_cluster.benchmarks.rows import all_pairs, make_row, number, pair
from rm_cluster.benchmarks.source import Place, Unreadable
from rm_cluster.conversation import messages, text, texts
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.pairwise import OVERALL
from rm_cluster.types import Message, Pair, Record, Row

_PROMPTS = ("prompt", "context", "conversation", "instruction", "question", "query")
_IDS = ("id", "prompt_id", "uid", "bon_uid", "question_id")
_DOMAINS = ("domain", "category", "subset")
_FIRST = ("response1", "response_1", "response_a", "conversation_a")
_SECOND = ("response2", "response_2", "response_b", "conversation_b")
_WINNERS = {
    "model_a": -1, "a": -1, "response_a": -1, "1": -1, "response1": -1, "response_1": -1,
    "model_b": 1, "b": 1, "response_b": 1, "2": 1, "response2": 1, "response_2": 1,
    "tie": 0, "tie (bothbad)": 0, "both_bad": 0, "bothbad": 0, "equal": 0,
}  # fmt: skip
_TEXT_COLUMNS = frozenset(
    (*_PROMPTS, *_FIRST, *_SECOND, "chosen", "rejected", "completion", "completions", "messages")
)

_RATED = frozenset({"prompt", "response", "helpfulness"})

Comparison = tuple[list[Message], list[str], list[Pair]]


def parse(record: Record, place: Place) -> Row:
    """Read a row of any of the shapes above."""
    prompt, completions, pairs = compare(record)
    return make_row(
        prompt=prompt,
        completions=completions,
        pairs=pairs,
        labels=_labels(record),
        policies=_policies(record),
        **description(record, place),
    )


def description(record: Record, place: Place) -> dict[str, Any]:
    """What a record says beside prompt and completions, as arguments of `make_row`."""
    tags = record.get("slices") or record.get("tags") or []
    languages = [record["language"]] if isinstance(record.get("language"), str) else []
    domain = str(_first(record, _DOMAINS, default=place.stem))
    if domain == OVERALL:
        raise DataFormatError(
            f"its domain is {OVERALL!r}, which means all rows; give it another (where a row has "
            "none, it is the file's name)"
        )
    return {
        "id": _first(record, _IDS, default=f"{place.stem}:{place.line}"),
        "domain": domain,
        "slices": texts(tags if isinstance(tags, list) else [tags], "slices") + languages,
        "metadata": {key: value for key, value in record.items() if key not in _TEXT_COLUMNS},
    }


def compare(record: Record) -> Comparison:
    """The prompt, the completions and the pairs of a record, by the first shape that it has.

    Raises:
        DataFormatError: It has none of them.
    """
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if chosen is not None and rejected is not None:
        return _chosen_rejected(record, chosen, rejected)
    first, second = (_first(record, names, None) for names in (_FIRST, _SECOND))
    if first is not None and second is not None:
        return _two_responses(record, first, second)
    if "completions" in record:
        return _pool(record)
    if "completion" in record:
        return prompt_of(record), _replies(record["completion"], "completion"), []
    if "messages" in record:
        prompt, (last,) = split_conversations(messages(record["messages"], "messages"), [])
        return prompt, [last], []
    raise DataFormatError(
        "no known shape: wanted chosen and rejected, two responses with a preference, completions, "
        f"completion or messages; got {', '.join(sorted(map(str, record)))[:200]}"
    )


def _chosen_rejected(record: Record, chosen: Any, rejected: Any) -> Comparison:
    if _is_messages(chosen) and _is_messages(rejected):
        # a prompt beside whole conversations repeats their beginning (ultrafeedback_binarized)
        first, second = messages(chosen, "chosen"), messages(rejected, "rejected")
        explicit = record.get("prompt")
        prompt = messages(explicit, "prompt") if explicit else []
        repeated = first[: len(prompt)] == prompt if _is_messages(explicit) else len(first) > 1
        if not repeated:
            first, second = prompt + first, prompt + second
        shared, replies = split_conversations(first, second)
        return shared, replies, all_pairs(1, 1)
    if isinstance(chosen, str) and isinstance(rejected, str) and not _has_prompt(record):
        shared, replies = split_texts(text(chosen, "chosen"), text(rejected, "rejected"))
        return shared, replies, all_pairs(1, 1)
    good, bad = _replies(chosen, "chosen"), _replies(rejected, "rejected")
    return prompt_of(record), good + bad, all_pairs(len(good), len(bad))


def _two_responses(record: Record, first: Any, second: Any) -> Comparison:
    if record.get("overall_preference") is not None:
        sign = number(record["overall_preference"], "overall_preference")
    elif record.get("preference_strength") is not None:
        sign = number(record["preference_strength"], "preference_strength")
    else:
        sign = _winner(record)
    if "winner_tie" in record:
        prompt, replies = _arena_55k(record, first, second)
    elif _is_messages(first) and _is_messages(second) and not _has_prompt(record):
        prompt, replies = split_conversations(
            messages(first, "response 1"), messages(second, "response 2")
        )
    else:
        prompt = prompt_of(record)
        replies = [_reply(first, "response 1"), _reply(second, "response 2")]
    return prompt, replies, [pair(1, 0) if sign > 0 else pair(0, 1, tie=sign == 0)]


def _winner(record: Record) -> int:
    if "winner" in record:
        winner = str(record["winner"]).strip().lower()
        if winner not in _WINNERS:
            raise DataFormatError(f"winner must be model_a, model_b or tie, got {winner[:40]!r}")
        return _WINNERS[winner]
    flags = [record.get(f"winner_{name}") for name in ("model_a", "model_b", "tie")]
    if [number(flag, "winner_*") for flag in flags if flag is not None].count(1) != 1:
        raise DataFormatError(
            "two responses need overall_preference, preference_strength or winner"
        )
    return (-1, 1, 0)[[number(flag or 0, "winner_*") for flag in flags].index(1)]


def _arena_55k(record: Record, first: Any, second: Any) -> tuple[list[Message], list[str]]:
    """Arena-human-preference-55k holds the turns of each side as a JSON list in a text."""
    turns = []
    for value in (record.get("prompt"), first, second):
        try:
            decoded = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            decoded = value
        turns.append(decoded if isinstance(decoded, list) else [decoded])
    if {len(side) for side in turns} != {1}:
        raise DataFormatError("battles of several turns have no shared prompt")
    prompt, *replies = (side[0] for side in turns)
    return messages(prompt, "prompt"), [text(reply, "a response") for reply in replies]


def _pool(record: Record) -> Comparison:
    """Every pair of completions whose gold values differ, the better one chosen."""
    completions = texts(record["completions"], "completions")
    labels = _labels(record)
    if labels is None:
        if record.get("labels") is not None:
            raise DataFormatError(f"labels must be a list, got {str(record['labels'])[:40]!r}")
        return prompt_of(record), completions, []
    if len(labels) != len(completions):
        raise DataFormatError(f"{len(labels)} labels for {len(completions)} completions")
    pairs = [
        pair(i, j) for i in range(len(labels)) for j in range(len(labels)) if labels[i] > labels[j]
    ]
    return prompt_of(record), completions, pairs


def prompt_of(record: Record) -> list[Message]:
    """The prompt under any of its names.

    Raises:
        DataFormatError: There is none.
    """
    name = next((name for name in _PROMPTS if record.get(name) not in (None, "")), None)
    if name is None:
        raise DataFormatError(f"there is no prompt; it may be called {', '.join(_PROMPTS)}")
    prompt = record[name]
    if isinstance(prompt, str) and "<extra_id_1>" in prompt:
        return helpsteer2_turns(prompt)
    system = record.get("system")
    if name == "question" and isinstance(system, str) and system.strip():
        return [{"role": "system", "content": system}, *messages(prompt, "prompt")]
    return messages(prompt, "prompt")


def _replies(value: Any, what: str) -> list[str]:
    """One reply, as text or messages, or a list of texts."""
    if isinstance(value, list) and not _is_messages(value):
        if not value:
            raise DataFormatError(f"{what} must hold at least one reply, got an empty list")
        return texts(value, what)
    return [_reply(value, what)]


def _reply(value: Any, what: str) -> str:
    if _is_messages(value):
        if len(value) != 1:
            raise DataFormatError(f"{what} must be one assistant message, got {len(value)}")
        return messages(value, what)[0]["content"]
    return text(value, what)


def _labels(record: Record) -> list[float] | None:
    if isinstance(record.get("labels"), list):
        return [number(label, "a label") for label in record["labels"]]
    if "completion" in record and record.get("label") is not None:
        return [number(record["label"], "label")]
    scores = [record.get("score_chosen"), record.get("score_rejected")]
    if isinstance(record.get("chosen"), list) and not _is_messages(record["chosen"]):
        return None
    if any(score is None for score in scores):
        return None
    return [number(score, "score_*") for score in scores]


def _policies(record: Record) -> list[str] | None:
    if isinstance(record.get("policies"), list) and "completions" in record:
        return texts(record["policies"], "policies")
    for names in (("chosen_model", "rejected_model"), ("model_a", "model_b")):
        found = [record.get(name) for name in names]
        if all(isinstance(name, str) for name in found) and not isinstance(
            record.get("chosen"), list
        ):
            return [str(name) for name in found]
    return None


def _has_prompt(record: Record) -> bool:
    return _first(record, _PROMPTS, None) is not None


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _first(record: Record, names: tuple[str, ...], default: Any) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), default)


def join_ratings(
    records: Iterator[tuple[Place, Record | Unreadable]],
) -> Iterator[tuple[Place, Record | Unreadable]]:
    """Join consecutive rated responses to one prompt into one pool; hand on all the rest."""

    def rated_prompt(item: tuple[Place, Record | Unreadable]) -> Any:
        _, record = item
        return json.dumps(record["prompt"], default=str) if _is_rated(record) else object()

    for _, together in itertools.groupby(records, key=rated_prompt):
        rated: list[tuple[Place, Any]] = []
        for place, record in together:
            if not _is_rated(record):
                yield place, record
            elif record["helpfulness"] is None:
                yield place, Unreadable("its helpfulness is missing", str(record)[:1000])
            else:
                rated.append((place, record))
        if rated:
            place, first = rated[0]
            yield (
                place,
                {
                    **{key: first[key] for key in first.keys() - _RATED - _TEXT_COLUMNS},
                    "prompt": first["prompt"],
                    "completions": [record["response"] for _, record in rated],
                    "labels": [record["helpfulness"] for _, record in rated],
                },
            )


def _is_rated(record: Record | Unreadable) -> TypeGuard[Record]:
    return isinstance(record, dict) and record.keys() >= _RATED


def scored_id(record: Record, place: Place) -> str:
    """The id that a score computed elsewhere gives, under any of its names, or its line."""
    return str(_first(record, _IDS, default=place.line))


BENCHMARK = Benchmark(name="preferences", hub=(), parse=parse, join=join_ratings, row_id=scored_id)
