"""Prompts alone: what policies are to reply to.

Any file of preferences will do, its replies are left out; and so will records that hold nothing but
a prompt (`prompt`, `context`, `conversation`, `instruction`, or `messages` that end with the user).
"""

from __future__ import annotations

from rm_cluster.benchmarks import preferences
from rm_cluster.benchmarks.benchmark import Benchmark
from rm_cluster.benchmarks.rows import make_row, without_replies
from rm_cluster.benchmarks.source import Place
from rm_cluster.conversation import messages
from rm_cluster.errors import DataFormatError
from rm_cluster.types import Message, Record, Row


def parse(record: Record, place: Place) -> Row:
    """Read the prompt of a record."""
    described = preferences.description(record, place)
    return without_replies(
        make_row(prompt=_prompt(record), completions=[""], pairs=[], **described)
    )


def _prompt(record: Record) -> list[Message]:
    try:
        return preferences.compare(record)[0]
    except DataFormatError:
        if record.get("messages"):
            return messages(record["messages"], "messages")
        return preferences.prompt_of(record)


BENCHMARK = Benchmark(name="prompts", hub=(), parse=parse)
