"""What the generate job shows: the summary on the terminal, and a small page."""

from __future__ import annotations

import pandas as pd

from rm_cluster.candidates import MEASURES, GenerateResult
from rm_cluster.report.page import Page, Section, write_page
from rm_cluster.report.table import Table
from rm_cluster.report.wording import interval
from rm_cluster.store import Folder

MAX_FAILED = 50

_COUNTS = {"n": "prompts", "n_completions": "completions", "n_failed": "failed"}
_TITLES = {
    "label": "label",
    "num_tokens": "tokens",
    "logprob_per_token": "log-prob per token",
    "distinct_fraction": "distinct",
    "ended_fraction": "ended",
}


def terminal_summary(result: GenerateResult) -> str:
    """Means over prompts with intervals, by domain."""
    table = result.summary()
    lines = table[["domain", *_COUNTS]].rename(columns=_COUNTS)
    for measure in _known(table):
        ends = table[[measure, f"{measure}_low", f"{measure}_high"]]
        lines[_TITLES[measure]] = [interval(*row) for row in ends.itertuples(index=False)]
    policy = result.config.policy
    head = f"{policy.name}: {policy.n} candidates per prompt [95 % interval over prompts]"
    whole = result.run["n_from_store"]
    counts = f"{result.run['n_sampled']} prompts sampled, {whole} stored whole or equal to another"
    blocks = [_stamp(result), head, lines.to_string(index=False), counts]
    return "\n".join([*filter(None, blocks), f"Saved in {result.config.output_dir}"])


def write_report(result: GenerateResult, summary: pd.DataFrame, folder: Folder) -> None:
    """Write `report.html`."""
    columns = {"domain": "domain", **_COUNTS}
    columns |= {f"{measure} [{measure}]": _TITLES[measure] for measure in _known(summary)}
    text = (
        "Means over prompts with 95 % intervals, by bootstrap over prompts. Log-probabilities are "
        "those of the policy itself, in nats: no temperature, no top_p. A completion that did not "
        "end was cut at max_new_tokens."
    )
    sections = [Section("Candidates", text, table=Table.of(summary, columns, "summary.csv"))]
    failed = result.candidates[result.candidates["error"].notna()]
    if len(failed):
        shown = failed.head(MAX_FAILED)
        text = f"{len(failed):,} in all, the first {len(shown)} here; all in candidates.parquet."
        table = Table.of(shown, {"id": "id", "error": "error"}, "candidates.parquet")
        sections.append(Section("Prompts that failed", text, table=table))
    page = Page(
        f"Candidates of {result.config.policy.name}",
        sections,
        result.config.to_yaml(),
        result.run,
        _stamp(result),
    )
    write_page(page, folder)


def _stamp(result: GenerateResult) -> str:
    return f"PARTIAL: only the first {result.config.limit} prompts" if result.run["partial"] else ""


def _known(summary: pd.DataFrame) -> list[str]:
    return [measure for measure in MEASURES if summary[measure].notna().any()]
