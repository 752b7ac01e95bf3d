"""What holds for every benchmark."""

from __future__ import annotations

import string
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rm_cluster.benchmarks import BENCHMARKS, Benchmark
from rm_cluster.benchmarks.source import Place
from rm_cluster.config import BENCHMARK_TYPES
from rm_cluster.errors import DataFormatError
from rm_cluster.types import ROW_SCHEMA

COLUMNS = [
    *("id", "prompt", "chosen", "rejected", "domain", "subset", "context", "conversation"),
    *("messages", "completion", "completions", "label", "labels", "response1", "response2"),
    *("response_a", "response_b", "conversation_a", "conversation_b", "winner", "winner_tie"),
    *("winner_model_a", "winner_model_b", "overall_preference", "preference_strength", "slices"),
    *("tags", "language", "score_chosen", "score_rejected", "models", "chosen_model"),
    *("rejected_model", "additional_metadata"),
]
WORDS = ["chat", "math-prm", "Ties", "ref:1", "tie", "model_a", "user", "assistant", "\ud800", ""]
TEXTS = st.sampled_from(WORDS) | st.text(string.printable, max_size=6)
MESSAGES = st.fixed_dictionaries(
    {}, optional={"role": TEXTS, "content": TEXTS | st.none(), "tool_calls": st.integers()}
)
VALUES = st.recursive(
    TEXTS | MESSAGES | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=6,
)


def test_the_config_knows_every_benchmark() -> None:
    assert tuple(sorted(BENCHMARKS)) == BENCHMARK_TYPES


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=list(BENCHMARKS))
@settings(max_examples=200, deadline=None)
@given(record=st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=8))
def test_any_record_is_a_row_or_says_why_not(benchmark: Benchmark, record: dict[str, Any]) -> None:
    try:
        row = benchmark.parse(record, Place("chat_filtered.json", 1))
    except DataFormatError:
        return
    pa.Table.from_pylist([row], schema=ROW_SCHEMA)
    num_completions = len(row["completions"])
    for pair in row["pairs"]:
        assert 0 <= pair["chosen"] < num_completions
        assert 0 <= pair["rejected"] < num_completions
