"""Every ordered pair of language models as a density ratio: the accuracy of strong over weak.

Shapes: n models, P prompts, T completions of all prompts, R comparisons, c clusters of prompts that
have any, S bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rm_cluster.columns import any_of
from rm_cluster.config import Normalize
from rm_cluster.metrics.estimate import CONFIDENCE, Mean
from rm_cluster.metrics.judged import Bools, Floats, Ints, Judged
from rm_cluster.metrics.table import BenchmarkRewards
from rm_cluster.rewards import log_ratio, logprob_reward

PAIR_COLUMNS = (
    "benchmark", "domain", "strong", "weak", "accuracy", "stderr", "ci_low", "ci_high",
    "n", "n_tied", "n_failed", "n_truncated",
)  # fmt: skip


class Swept(NamedTuple):
    """All ordered pairs of the models that were measured on one benchmark.

    Attributes:
        pairs: `PAIR_COLUMNS`, a row per domain and ordered pair, self pairs included.
        own_accuracy: Of each model as a log-prob reward model, over all comparisons.
    """

    pairs: pd.DataFrame
    own_accuracy: dict[str, float]


class _Comparisons(NamedTuple):
    """Comparisons that are no ties in the gold data, those of a cluster side by side.

    Attributes:
        row: [R] the prompt each belongs to.
        cluster: [R] its cluster, ascending.
        chosen: [R] position among the T completions.
        rejected: [R] the same of the other.
    """

    row: Ints
    cluster: Ints
    chosen: Ints
    rejected: Ints

    @classmethod
    def of(cls, judged: Judged, cluster_of_prompt: Ints) -> _Comparisons:
        pairs = judged.comparisons.only(~judged.comparisons.tie)
        start = (np.cumsum(judged.num_completions) - judged.num_completions)[pairs.row]
        cluster = cluster_of_prompt[pairs.row]
        order = np.argsort(cluster, kind="stable")
        return cls(
            pairs.row[order],
            cluster[order],
            (start + pairs.chosen)[order],
            (start + pairs.rejected)[order],
        )

    def correct(self, rewards: Floats) -> Floats:
        """[..., R] 1 where the chosen of [..., T] rewards is higher, 0.5 for a tie, or nan."""
        return (np.sign(rewards[..., self.chosen] - rewards[..., self.rejected]) + 1) / 2


class _Tally(NamedTuple):
    """What some comparisons come to for every ordered pair of models.

    Attributes:
        clusters: [c] those that the comparisons are of.
        wins: [n, n, c] summed over the comparisons of a cluster.
        counts: [n, n, c] comparisons that both models scored.
        num_tied: [n, n]
    """

    clusters: Ints
    wins: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float32]
    num_tied: Ints

    def accuracy(self, drawn_SC: npt.NDArray[np.float32] | None = None) -> Floats:
        """[n, n], or [S, n, n] where each cluster is counted as often as it was drawn."""
        n, _, c = self.wins.shape
        if drawn_SC is None:
            wins, counts = (array.sum(axis=-1, dtype=float) for array in (self.wins, self.counts))
        else:
            drawn = drawn_SC[:, self.clusters]
            wins, counts = (
                (drawn @ array.reshape(-1, c).T).reshape(-1, n, n).astype(np.float64)
                for array in (self.wins, self.counts)
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            shares: Floats = wins / counts
        return shares


def sweep_pairs(benchmark: BenchmarkRewards, normalize: Normalize, seed: int) -> Swept:
    """Evaluate all n * n ordered pairs on what was measured once for each model.

    The reward is that of `rewards.log_ratio`; beta is 1, as it changes no comparison. Equal rewards
    count half, so under `sum` a swapped pair has 1 - accuracy, and a model over itself ties
    everywhere. (`mean` divides by the strong model's tokens: there a swapped pair mirrors where
    both tokenize alike.) Domains are the benchmark's own and its headlines, with its own rule of
    accuracy. Intervals are percentiles of the bootstrap, on the draws of all its other metrics.

    Args:
        benchmark: `scores` are the models' sums of log-probs.
        normalize: As in `rewards.log_ratio`.
        seed: Of the draws.
    """
    names, rows = list(benchmark.scores), benchmark.rows
    measured = _Measured.of(rows, benchmark.scores, normalize)
    judged = Judged.of(rows, _zeros(rows))
    compared = _Comparisons.of(judged, benchmark.resampling.cluster)
    members = benchmark.groups(rows)
    domains = _domains(benchmark, judged)
    masks = {_key(mean): mean.counts > 0 for means in domains.values() for mean in means}
    tallies = _tallies(measured, compared, normalize, masks)
    draws: dict[bytes, list[Floats]] = {key: [] for key in masks}
    for drawn in benchmark.resampling.draws(seed):
        counts = drawn.astype(np.float32)
        for key, tally in tallies.items():
            draws[key].append(tally.accuracy(counts))
    drawn_of = {key: np.concatenate(drawn) for key, drawn in draws.items()}
    frames = [
        _frame(names, [(mean.weight, tallies[_key(mean)], drawn_of[_key(mean)]) for mean in means])
        .assign(benchmark=benchmark.name, domain=domain)
        .assign(**measured.num_lost(members[domain]))
        for domain, means in domains.items()
    ]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    own = compared.correct(logprob_reward(measured.sums, measured.num_tokens, normalize))
    shares = [float(won[~np.isnan(won)].mean()) if (won >= 0).any() else np.nan for won in own]
    return Swept(table.reindex(columns=list(PAIR_COLUMNS)), dict(zip(names, shares, strict=True)))


class _Measured(NamedTuple):
    """What was measured of n models; nan and 0 where a prompt failed.

    Attributes:
        sums: [n, T] sums of log-probs.
        num_tokens: [n, T]
        failed: [n, P]
        failed_as_strong: [n, P] those and, under `mean`, prompts with a completion without tokens.
        truncated: [n, P]
    """

    sums: Floats
    num_tokens: Floats
    failed: Bools
    failed_as_strong: Bools
    truncated: Bools

    @classmethod
    def of(cls, rows: pa.Table, scores: Mapping[str, pa.Table], normalize: Normalize) -> _Measured:
        lengths = rows["num_completions"].to_numpy().astype(np.int64)
        sums = np.full((len(scores), int(lengths.sum())), np.nan)
        num_tokens = np.zeros_like(sums)
        prompt = np.repeat(np.arange(len(rows)), lengths)
        failed, truncated = np.zeros((2, len(scores), len(rows)), dtype=bool)
        for model, table in enumerate(scores.values()):
            scored = table["values"].is_valid().to_numpy()
            where, taken = np.repeat(scored, lengths), table.filter(scored)
            sums[model, where] = taken["values"].combine_chunks().flatten()
            num_tokens[model, where] = taken["num_tokens"].combine_chunks().flatten()
            failed[model] = ~scored
            truncated[model] = any_of(table["truncated"])
        failed_as_strong = failed.copy()
        if normalize == "mean":
            for model, counts in enumerate(num_tokens):
                failed_as_strong[model, prompt[counts == 0]] = True
            num_tokens[failed_as_strong[:, prompt]] = 0  # as a prompt fails as a whole
        return cls(sums, num_tokens, failed, failed_as_strong, truncated)

    def num_lost(self, inside: Bools) -> dict[str, Ints]:
        """By ordered pair, prompts (of those in [P] `inside`) that either model failed or cut."""
        failed = self.failed_as_strong[:, None] | self.failed[None]
        truncated = self.truncated[:, None] | self.truncated[None]
        return {
            name: lost[..., inside].sum(axis=-1).ravel()
            for name, lost in (("n_failed", failed), ("n_truncated", truncated))
        }


def _domains(benchmark: BenchmarkRewards, judged: Judged) -> dict[str, list[Mean]]:
    """The terms of each domain's accuracy, of which weights and membership count here."""
    wanted = {*benchmark.headlines, *judged.domain.tolist()}
    return {
        domain: list(means)
        for (domain, metric), means in benchmark.terms(judged).items()
        if metric == "accuracy" and domain in wanted
    }


def _key(mean: Mean) -> bytes:
    return mean.counts.tobytes()


def _zeros(rows: pa.Table) -> pa.Table:
    """Rewards that say nothing, by which the comparisons are found."""
    lengths = rows["num_completions"].to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.table({"values": pa.ListArray.from_arrays(offsets, np.zeros(offsets[-1]))})


def _tallies(
    measured: _Measured,
    compared: _Comparisons,
    normalize: Normalize,
    masks: Mapping[bytes, Bools],
) -> dict[bytes, _Tally]:
    """Tally the comparisons of the prompts in each mask ([P])."""
    n = len(measured.sums)
    places, tallies = {}, {}
    for key, mask in masks.items():
        inside = np.flatnonzero(mask[compared.row])
        clusters, starts = np.unique(compared.cluster[inside], return_index=True)
        places[key] = inside, starts
        # halves and counts below 2**23, in which float32 is exact and half the work
        wins, counts = np.zeros((2, n, n, len(clusters)), dtype=np.float32)
        tallies[key] = _Tally(clusters, wins, counts, np.zeros((n, n), dtype=np.int64))
    for strong in range(n):
        ratio = log_ratio(
            measured.sums[strong], measured.sums, measured.num_tokens[strong], normalize
        )
        correct = compared.correct(ratio)
        known = ~np.isnan(correct)
        for key, (inside, starts) in places.items():
            won, counted = np.where(known, correct, 0.0)[:, inside], known[:, inside]
            tallies[key].wins[strong] = np.add.reduceat(won, starts, axis=1)
            tallies[key].counts[strong] = np.add.reduceat(counted, starts, axis=1, dtype=np.float32)
            tallies[key].num_tied[strong] = (won == 0.5).sum(axis=1)
    return tallies


def _frame(names: Sequence[str], terms: Sequence[tuple[float, _Tally, Floats]]) -> pd.DataFrame:
    """The ordered pairs of one domain, from its terms: weight, tally and draws."""
    value = sum(weight * tally.accuracy() for weight, tally, _ in terms)
    drawn = np.asarray(sum(weight * draws for weight, _, draws in terms))
    drawn = drawn.reshape(len(drawn), -1)
    usable = np.isfinite(drawn).any(axis=0) & (sum(len(t.clusters) for _, t, _ in terms) > 1)
    stderr, low, high = np.full((3, len(names) ** 2), np.nan)
    tail = (1 - CONFIDENCE) / 2
    if usable.any():
        stderr[usable] = np.nanstd(drawn[:, usable], axis=0, ddof=1)
        low[usable], high[usable] = np.nanquantile(drawn[:, usable], (tail, 1 - tail), axis=0)
    return pd.DataFrame(
        {
            "strong": np.repeat(names, len(names)),
            "weak": np.tile(names, len(names)),
            "accuracy": np.asarray(value, dtype=np.float64).ravel(),
            "stderr": stderr,
            "ci_low": low,
            "ci_high": high,
            "n": np.sum([t.counts.sum(axis=-1) for _, t, _ in terms], axis=0).astype(int).ravel(),
            "n_tied": np.sum([t.num_tied for _, t, _ in terms], axis=0).ravel(),
        }
    )
