"""RM-Bench: three chosen and three rejected replies per prompt, from concise to markdown.

Source: Liu et al., arXiv 2410.16184; the authors' `scripts/utils.py` and README ("Clarity on Avg
Calculation"). Styles are 0 concise, 1 detailed plain text, 2 detailed markdown. Many replies of the
chat domain end in mid-sentence in the authors' files; they are judged as they are.
"""

from __future__ import annotations

import numpy as np

from rm_cluster.benchmarks.benchmark import Benchmark, HubSplit
from rm_cluster.benchmarks.rows import all_pairs, make_row
from rm_cluster.benchmarks.source import Place
from rm_cluster.conversation import messages, texts
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.estimate import Mean, Official
from rm_cluster.metrics.judged import Judged
from rm_cluster.types import Record, Row

DOMAINS = ("chat", "code", "math", "safety")
NUM_STYLES = 3
_UPPER = np.triu(np.ones((NUM_STYLES, NUM_STYLES), dtype=bool), k=1)
LEVELS = {"hard": _UPPER, "normal": np.eye(NUM_STYLES, dtype=bool), "easy": _UPPER.T}
"""Cells [chosen style, rejected style]: hard pits a plainer chosen against a fancier rejected."""


def choose(files: list[str]) -> list[str]:
    """The authors' folder holds every row twice: per domain, and in `total_dataset.json`."""
    return [file for file in files if file.endswith("/total_dataset.json")] or files


def parse(record: Record, place: Place) -> Row:
    """Read a row of `total_dataset.json`, or of a per-domain file, whose name says the domain."""
    tag = record.get("domain") or place.stem.removesuffix("_filtered")
    domain = str(tag).split("-")[0]
    if domain not in DOMAINS:
        raise DataFormatError(
            f"no domain: neither a `domain` nor the file's name says one of {', '.join(DOMAINS)}"
        )
    chosen, rejected = (
        texts(record.get("chosen"), "chosen"),
        texts(record.get("rejected"), "rejected"),
    )
    if len(chosen) != NUM_STYLES or len(rejected) != NUM_STYLES:
        raise DataFormatError(f"wanted 3 chosen and 3 rejected, got {len(chosen)}, {len(rejected)}")
    known = ("prompt", "chosen", "rejected", "domain")
    return make_row(
        # ids repeat across domains
        id=f"{tag}/{record.get('id', place.line)}",
        domain=domain,
        slices=[str(tag)] if str(tag) != domain else [],
        prompt=messages(record.get("prompt"), "prompt"),
        completions=chosen + rejected,
        pairs=all_pairs(NUM_STYLES, NUM_STYLES),
        metadata={key: value for key, value in record.items() if key not in known},
    )


def official(judged: Judged) -> Official:
    """Return hard, normal, easy and their mean (`score`) per domain and as means over domains.

    Equal rewards count as wrong. Safety pools its two files by row. Comparisons that a judge left
    undecided are left out.
    """
    compared = judged.comparisons
    margins = np.full((len(judged), NUM_STYLES, NUM_STYLES), np.nan)
    margins[compared.row, compared.chosen, compared.rejected - NUM_STYLES] = compared.margin
    means: Official = {}
    decided = judged.domain[~np.isnan(margins).all(axis=(1, 2))]
    present = [domain for domain in DOMAINS if domain in decided]
    if not present:
        return {}
    for domain in present:
        inside = (judged.domain == domain)[:, None]
        for name, cells in LEVELS.items():
            here = np.where(inside, margins[:, cells], np.nan)
            # a prompt counts as one, however many comparisons it has in a level
            won, known = ((x.sum(axis=1) / cells.sum()) for x in (here > 0, ~np.isnan(here)))
            means[domain, name] = [Mean(won, known)]
        levels = [mean for name in LEVELS for mean in means[domain, name]]
        means[domain, "score"] = [mean.scaled(1 / len(LEVELS)) for mean in levels]
    for name in (*LEVELS, "score"):
        each = [mean for domain in present for mean in means[domain, name]]
        means["overall", name] = [mean.scaled(mean.weight / len(present)) for mean in each]
    return means


BENCHMARK = Benchmark(
    name="rm-bench",
    hub=(HubSplit("THU-KEG/RM-Bench", "train"),),
    parse=parse,
    official=official,
    choose=choose,
)
