"""RewardBench: one chosen and one rejected reply per prompt, 23 subsets in four sections.

Source: Lambert et al., arXiv 2403.13787; `rewardbench/constants.py` and
`utils.calculate_scores_per_section` of the authors' repository (split `filtered`, 2,985 rows). The
legacy "Prior Sets" are a data set of their own and no part of this score.
"""

from __future__ import annotations

import numpy as np

from rm_cluster.benchmarks.benchmark import Benchmark, HubSplit
from rm_cluster.benchmarks.rows import all_pairs, make_row
from rm_cluster.benchmarks.source import Place
from rm_cluster.conversation import messages, text
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.estimate import Mean, Official
from rm_cluster.metrics.judged import Judged
from rm_cluster.types import Record, Row

SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        # 447 rows, weighted as 984 so that mathematics weighs as much as the six code subsets
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
"""Subsets of each section, with their weights in it."""

_SECTION_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}


def parse(record: Record, place: Place) -> Row:
    """Read a row of `allenai/reward-bench`; the subset is a slice, its section the domain."""
    subset = text(record.get("subset"), "subset")
    if subset not in _SECTION_OF:
        raise DataFormatError(f"unknown subset {subset[:40]!r}")
    models = [record[name] for name in ("chosen_model", "rejected_model") if record.get(name)]
    return make_row(
        id=f"{subset}/{record.get('id', place.line)}",
        domain=_SECTION_OF[subset],
        slices=[subset],
        prompt=messages(record.get("prompt"), "prompt"),
        completions=[
            text(record.get("chosen"), "chosen"),
            text(record.get("rejected"), "rejected"),
        ],
        pairs=all_pairs(1, 1),
        policies=models if len(models) == 2 else None,
    )


def official(judged: Judged) -> Official:
    """Return `score` per subset, per section (weighted) and overall (mean of sections).

    Equal rewards count as wrong. Sections and subsets that are absent do not count, nor do
    comparisons that a judge left undecided.
    """
    margin = np.full(len(judged), np.nan)
    margin[judged.comparisons.row] = judged.comparisons.margin
    decided = {name: inside & ~np.isnan(margin) for name, inside in judged.slices.items()}
    means: Official = {}
    sections: list[list[Mean]] = []
    for section, subsets in SECTIONS.items():
        present = {s: w for s, w in subsets.items() if s in decided and decided[s].any()}
        if not present:
            continue
        by_subset = {subset: Mean.of(margin > 0, decided[subset]) for subset in present}
        means |= {(subset, "score"): [mean] for subset, mean in by_subset.items()}
        total = sum(present.values())
        sections.append([by_subset[s].scaled(w / total) for s, w in present.items()])
        means[section, "score"] = sections[-1]
    if not sections:
        return {}
    means["overall", "score"] = [
        mean.scaled(mean.weight / len(sections)) for section in sections for mean in section
    ]
    return means


BENCHMARK = Benchmark(
    name="rewardbench",
    hub=(HubSplit("allenai/reward-bench", "filtered"),),
    parse=parse,
    official=official,
)
