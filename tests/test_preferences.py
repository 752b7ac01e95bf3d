from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rm_cluster.benchmarks import RejectedRow, read_rows
from rm_cluster.benchmarks.preferences import parse
from rm_cluster.benchmarks.source import Place
from rm_cluster.config import BenchmarkConfig
from rm_cluster.errors import DataFormatError

PLACE = Place("data/mine.jsonl", 3)
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be kind."}


def say(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ONE_PAIR = [{"chosen": 0, "rejected": 1, "tie": False}]

SHAPES: dict[str, tuple[dict[str, Any], list[Any], list[str], list[Any]]] = {
    "explicit texts": (
        {"prompt": "Hi", "chosen": "a", "rejected": "b"}, [USER], ["a", "b"], ONE_PAIR,
    ),
    "explicit messages": (
        {"prompt": [SYSTEM, USER], "chosen": [say("a")], "rejected": [say("b")]},
        [SYSTEM, USER], ["a", "b"], ONE_PAIR,
    ),
    "messages prompt, text replies": (
        {"prompt": [SYSTEM, USER], "chosen": "a", "rejected": "b"},
        [SYSTEM, USER], ["a", "b"], ONE_PAIR,
    ),
    "implicit messages": (
        {"chosen": [SYSTEM, USER, say("a")], "rejected": [SYSTEM, USER, say("b")]},
        [SYSTEM, USER], ["a", "b"], ONE_PAIR,
    ),
    "whole conversations beside a text prompt": (
        {"prompt": "Hi", "chosen": [USER, say("a")], "rejected": [USER, say("b")]},
        [USER], ["a", "b"], ONE_PAIR,
    ),
    "text prompt, one message each": (
        {"prompt": "Hi", "chosen": [say("a")], "rejected": [say("b")]},
        [USER], ["a", "b"], ONE_PAIR,
    ),
    "implicit text, a space goes with the reply": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        [{"role": "user", "content": "The sky is"}], [" blue.", " green."], ONE_PAIR,
    ),
    "transcripts": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Sing\n\nAssistant: La",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Sing\n\nAssistant: No",
        },
        [USER, say("Yes?"), {"role": "user", "content": "Sing"}], ["La", "No"], ONE_PAIR,
    ),
    "transcripts of which one reply comes in two goes": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: One\n\nAssistant: two",
            "rejected": "\n\nHuman: Hi\n\nAssistant: No",
        },
        [USER], ["One\n\nAssistant: two", "No"], ONE_PAIR,
    ),
    "lists": (
        {"prompt": "Hi", "chosen": ["a", "b"], "rejected": ["c"]}, [USER], ["a", "b", "c"],
        [{"chosen": 0, "rejected": 2, "tie": False}, {"chosen": 1, "rejected": 2, "tie": False}],
    ),
    "one chosen, a list of rejected": (
        {"conversation": [USER], "chosen": "a", "rejected": ["b", "c"]}, [USER], ["a", "b", "c"],
        [{"chosen": 0, "rejected": 1, "tie": False}, {"chosen": 0, "rejected": 2, "tie": False}],
    ),
    "HelpSteer3, negative: the first": (
        {"context": [USER], "response1": "a", "response2": "b", "overall_preference": -2},
        [USER], ["a", "b"], ONE_PAIR,
    ),
    "HelpSteer3, positive: the second": (
        {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 1},
        [USER], ["a", "b"], [{"chosen": 1, "rejected": 0, "tie": False}],
    ),
    "HelpSteer3, zero: a tie": (
        {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 0},
        [USER], ["a", "b"], [{"chosen": 0, "rejected": 1, "tie": True}],
    ),
    "HelpSteer2, several turns": (
        {
            "prompt": "Hi<extra_id_1>Assistant\nYes?<extra_id_1>User\nSing",
            "response_1": "a", "response_2": "b", "preference_strength": 3,
        },
        [USER, say("Yes?"), {"role": "user", "content": "Sing"}], ["a", "b"],
        [{"chosen": 1, "rejected": 0, "tie": False}],
    ),
    "arena, 55k": (
        {
            "prompt": '["Hi"]', "response_a": '["a"]', "response_b": '["b"]',
            "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0,
        },
        [USER], ["a", "b"], [{"chosen": 1, "rejected": 0, "tie": False}],
    ),
    "arena, conversations": (
        {
            "conversation_a": [USER, say("a")], "conversation_b": [USER, say("b")],
            "winner": "tie (bothbad)",
        },
        [USER], ["a", "b"], [{"chosen": 0, "rejected": 1, "tie": True}],
    ),
    "a pool with gold values": (
        {"prompt": "Hi", "completions": ["a", "b", "c"], "labels": [1, 0, 1]},
        [USER], ["a", "b", "c"],
        [{"chosen": 0, "rejected": 1, "tie": False}, {"chosen": 2, "rejected": 1, "tie": False}],
    ),
    "unpaired": ({"prompt": "Hi", "completion": "a", "label": True}, [USER], ["a"], []),
    "messages only": ({"messages": [SYSTEM, USER, say("a")]}, [SYSTEM, USER], ["a"], []),
    "ShareGPT and parts": (
        {
            "chosen": [
                {"from": "human", "value": "Hi"},
                {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
            ],
            "rejected": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "b"}],
        },
        [USER], ["a", "b"], ONE_PAIR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape: str) -> None:
    record, prompt, completions, pairs = SHAPES[shape]
    row = parse(record, PLACE)
    assert row["prompt"] == prompt
    assert row["completions"] == completions
    assert row["pairs"] == pairs


MALFORMED: list[dict[str, Any]] = [
    {},
    {"prompt": "Hi"},
    {"prompt": "Hi", "chosen": "a"},
    {"prompt": "Hi", "chosen": "a", "rejected": None},
    {"prompt": "Hi", "chosen": "a", "rejected": 3},
    {"prompt": "Hi", "chosen": "a", "rejected": []},
    {"prompt": "Hi", "chosen": [], "rejected": ["b"]},
    {"prompt": "Hi", "chosen": ["a", None], "rejected": ["b"]},
    {"prompt": "Hi", "chosen": {"a": 1}, "rejected": "b"},
    {"prompt": 5, "chosen": "a", "rejected": "b"},
    {"prompt": [], "chosen": "a", "rejected": "b"},
    {"prompt": ["Hi"], "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"},
    {"prompt": [{"content": "Hi"}], "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": 1, "content": "Hi"}], "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": "a", "rejected": "b"},
    {"prompt": "Hi", "chosen": "a\ud800", "rejected": "b"},
    {"chosen": "x", "rejected": "y"},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Ho\n\nAssistant: b"},
    {"chosen": [USER], "rejected": [USER]},
    {"chosen": [say("a")], "rejected": [say("b")]},
    {"chosen": [USER, say("a"), USER, say("b")], "rejected": [USER, say("c")]},
    {"prompt": "Hi", "response1": "a", "response2": "b"},
    {"prompt": "Hi", "response1": "a", "response2": "b", "overall_preference": "much"},
    {"prompt": "Hi", "response1": "a", "response2": "b", "overall_preference": float("nan")},
    {"prompt": "Hi", "response_a": "a", "response_b": "b", "winner": "C"},
    {"prompt": "Hi", "response_a": "a", "response_b": "b", "winner_tie": 0, "winner_model_a": 0},
    {"prompt": "Hi", "response_a": "a", "response_b": "b", "winner_tie": "x"},
    {"prompt": "Hi", "completions": ["a"], "labels": [1, 2]},
    {"prompt": "Hi", "completions": "a", "labels": [1]},
    {"prompt": "Hi", "completions": ["a"], "labels": ["good"]},
    {"messages": []},
    {"messages": [USER]},
    {"messages": "Hi"},
    {"prompt": "Hi", "chosen": "a", "rejected": "b", "slices": [1]},
    {"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": "x", "score_rejected": 1},
]


@pytest.mark.parametrize("record", MALFORMED, ids=range(len(MALFORMED)))
def test_a_record_that_fits_no_shape_says_why(record: dict[str, Any]) -> None:
    with pytest.raises(DataFormatError) as caught:
        parse(record, PLACE)
    assert 5 < len(str(caught.value)) < 400


def test_names_and_groups() -> None:
    row = parse(
        {
            "prompt_id": "p9", "category": "code", "tags": ["b", "a"], "language": "English",
            "prompt": "Hi", "chosen": "a", "rejected": "b", "chosen_model": "m1",
            "rejected_model": "m2", "score_chosen": 9.0, "score_rejected": 2.5, "margin": 1.5,
        },
        PLACE,
    )  # fmt: skip
    assert (row["id"], row["domain"]) == ("p9", "code")
    assert row["slices"] == ["English", "a", "b"]
    assert row["policies"] == ["m1", "m2"]
    assert row["labels"] == [9.0, 2.5]
    assert json.loads(row["metadata"] or "")["margin"] == 1.5


def test_without_id_and_domain_the_place_names_them() -> None:
    row = parse({"prompt": "Hi", "chosen": "a", "rejected": "b"}, PLACE)
    assert (row["id"], row["domain"]) == ("mine:3", "mine")


def test_helpsteer2_ratings_of_one_prompt_become_one_pool(tmp_path: Path) -> None:
    file = tmp_path / "ratings.jsonl"
    rated = [("p", "a", 4), ("p", "b", 1), ("q", "c", 2), ("q", "d", 2)]
    records = [
        {
            "id": f"of {p}",
            "domain": "d",
            "prompt": p,
            "response": r,
            "helpfulness": h,
            "verbosity": 1,
        }
        for p, r, h in rated
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    first, second = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["completions"] == ["a", "b"]
    assert first["labels"] == [4, 1]
    assert first["pairs"] == ONE_PAIR
    assert second["pairs"] == []
    assert [(one["id"], one["domain"]) for one in (first, second)] == [("of p", "d"), ("of q", "d")]
    records[1]["helpfulness"] = None
    records.insert(1, {**records[0], "response": "c", "helpfulness": 2})
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    unrated, first, _ = read_rows(BenchmarkConfig.model_validate(str(file)))
    assert isinstance(unrated, RejectedRow)
    assert (unrated.line, unrated.reason) == (3, "its helpfulness is missing")
    assert isinstance(first, dict)
    assert first["completions"] == ["a", "c"]


def test_hh_transcripts(shared_data: Path) -> None:
    path = shared_data / "hh_harmless" / "dev.jsonl.gz"
    rows = list(read_rows(BenchmarkConfig.model_validate(str(path))))
    assert len(rows) == 1500
    assert not any(isinstance(row, RejectedRow) for row in rows)
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        records = [json.loads(line) for line in stream]
    for row, record in zip(rows, records, strict=True):
        for side, reply in zip(("chosen", "rejected"), row["completions"], strict=True):
            assert record[side].strip().endswith(reply)
            assert record[side].count("\n\nHuman:") == sum(
                m["role"] == "user" for m in row["prompt"]
            )


def test_no_domain_takes_the_name_of_all_rows(tmp_path: Path) -> None:
    records = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "domain": d} for d in ("overall", "x")
    ]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    wrong, right = read_rows(BenchmarkConfig.model_validate(str(tmp_path / "f.jsonl")))
    assert isinstance(wrong, RejectedRow)
    assert "its domain is 'overall', which means all rows" in wrong.reason
    assert isinstance(right, dict)


def test_orcas_questions_have_system_messages() -> None:
    record = {"system": "Be brief.", "question": "2+2?", "chosen": "It is 4.", "rejected": "It"}
    row = parse(record, PLACE)
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}
    ]  # fmt: skip
    assert row["completions"] == ["It is 4.", "It"]
    # elsewhere it may name what generated
    row = parse({**record, "prompt": "2+2?"}, PLACE)
    assert [message["role"] for message in row["prompt"]] == ["user"]


def test_flags_of_winners_may_be_booleans_in_text() -> None:
    flags = {"winner_model_a": "False", "winner_model_b": "True", "winner_tie": "False"}
    row = parse({"prompt": "q", "response_a": "a", "response_b": "b c", **flags}, PLACE)
    assert row["pairs"] == [{"chosen": 1, "rejected": 0, "tie": False}]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"chosen": "the same", "rejected": "the same"}, "chosen and rejected are equal"),
        ({"prompt": "p", "completions": ["a", "b"], "labels": "[1, 0]"}, "labels must be a list"),
    ],
)
def test_what_says_nothing_is_refused(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataFormatError, match=said):
        parse(record, PLACE)
