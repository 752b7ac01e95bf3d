"""RewardBench 2: best-of-4 in five domains, and Ties, where several replies are equally right.

Source: Malik et al., arXiv 2506.01937; `scripts/run_v2.py` and `utils.process_single_model` of the
authors' repository (split `test`, 1,865 rows).
"""

from __future__ import annotations

import numpy as np

from rm_cluster.benchmarks.benchmark import Benchmark, HubSplit
from rm_cluster.benchmarks.rows import all_pairs, make_row
from rm_cluster.benchmarks.source import Place
from rm_cluster.conversation import messages, text, texts
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.estimate import Mean, Official
from rm_cluster.metrics.judged import Bools, Floats, Judged
from rm_cluster.types import Record, Row

DOMAINS = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")


def parse(record: Record, place: Place) -> Row:
    """Read a row of `allenai/reward-bench-2`; labels are 1 for chosen, 0 for rejected."""
    domain = text(record.get("subset"), "subset")
    if domain not in DOMAINS:
        raise DataFormatError(f"unknown subset {domain[:40]!r}; wanted {', '.join(DOMAINS)}")
    chosen, rejected = (
        texts(record.get("chosen"), "chosen"),
        texts(record.get("rejected"), "rejected"),
    )
    if not chosen or not rejected:
        raise DataFormatError("chosen and rejected must hold at least one reply each")
    id = str(record.get("id", place.line))
    if domain == "Ties" and not id.startswith(("ref:", "tied:")):
        raise DataFormatError(
            f"the id of a Ties row must start with ref: or tied:, got {id[:40]!r}"
        )
    models = record.get("models")
    num_completions = len(chosen) + len(rejected)
    return make_row(
        id=f"{domain}/{id}",
        domain=domain,
        prompt=messages(record.get("prompt"), "prompt"),
        completions=chosen + rejected,
        labels=[1.0] * len(chosen) + [0.0] * len(rejected),
        policies=models if isinstance(models, list) and len(models) == num_completions else None,
        pairs=all_pairs(len(chosen), len(rejected)),
        metadata=record.get("additional_metadata"),
    )


def official(judged: Judged) -> Official:
    """Return `score` per domain, and overall as the unweighted mean of those present.

    Prompts with a completion that a judge did not decide on are left out. Of a judge that compares
    right replies with wrong ones alone nothing tells how far right ones differ, so that the scores
    of Ties and overall are nan.
    """
    best = np.array([_best_of_k(rewards) for rewards in _relative(judged)])
    decided = {domain: (judged.domain == domain) & ~np.isnan(best) for domain in DOMAINS[:-1]}
    means: Official = {
        (domain, "score"): [Mean.of(best, inside)]
        for domain, inside in decided.items()
        if inside.any()
    }
    if (judged.domain == "Ties").any():
        means["Ties", "score"] = _ties(judged)
    if not means:
        return {}
    means["overall", "score"] = [
        mean.scaled(mean.weight / len(means)) for domain in means.values() for mean in domain
    ]
    return means


def _relative(judged: Judged) -> list[Floats]:
    """[P] arrays of K rewards; where only pairs were compared, from the first completion's on."""
    flat, compared = judged.flat.copy(), judged.comparisons
    first = np.cumsum(judged.num_completions) - judged.num_completions
    flat[first[~judged.rated]] = 0.0
    stated = compared.only(~judged.rated[compared.row] & (compared.chosen == 0))
    flat[first[stated.row] + stated.rejected] = -stated.margin
    # of a comparison that is left out, the reply that lost or won it
    lost = compared.only(judged.undecided)
    flat[first[lost.row] + lost.rejected] = np.nan
    return np.split(flat, first[1:])


def _best_of_k(rewards: Floats) -> float:
    """1/k when the first completion, the right one, is among the k of highest reward, else 0."""
    if np.isnan(rewards).any():
        return float("nan")
    top = rewards == rewards.max()
    return float(top[0] / top.sum())


def _ties(judged: Judged) -> list[Mean]:
    """The Ties score: is every right reply above every wrong one, and by more than they differ?

    0.30 tied accuracy + 0.30 ref accuracy + 0.20 preferred + 0.20 preferred with ref + 0.01 margin.
    The last three are means over the prompts that have both a `ref:` and a `tied:` row; their
    values stand on the tied row.
    """
    is_ref = np.char.startswith(judged.id, "Ties/ref:")
    is_tied = np.char.startswith(judged.id, "Ties/tied:")
    gap, spread = np.full(len(judged), np.nan), np.full(len(judged), np.nan)
    for i in np.flatnonzero(is_ref | is_tied):
        right = judged.rewards[i][judged.labels[i] == 1]
        gap[i] = right.min() - judged.rewards[i][judged.labels[i] == 0].max()
        spread[i] = right.max() - right.min() if len(right) > 1 else np.nan
    is_ref, is_tied = is_ref & ~np.isnan(gap), is_tied & ~np.isnan(gap)
    partner = {cluster(str(judged.id[i])): gap[i] for i in np.flatnonzero(is_ref)}
    gap_ref = np.array([partner.get(cluster(str(id)), np.nan) for id in judged.id])
    paired: Bools = is_tied & ~np.isnan(gap_ref)
    if not paired.any():
        return [Mean.of(gap, paired)]  # nan: what is left would look like a low score
    lesser = np.minimum(gap_ref, gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(lesser / spread - 1))
    return [
        Mean.of(gap > 0, is_tied).scaled(0.30),
        Mean.of(gap > 0, is_ref).scaled(0.30),
        Mean.of(gap > spread, paired).scaled(0.20),
        Mean.of(lesser > spread, paired).scaled(0.20),
        Mean.of(margin, paired).scaled(0.01),
    ]


def cluster(id: str) -> str:
    """The two rows of a Ties prompt are drawn together."""
    return id.replace("Ties/ref:", "Ties/").replace("Ties/tied:", "Ties/")


BENCHMARK = Benchmark(
    name="rewardbench2",
    hub=(HubSplit("allenai/reward-bench-2", "test"),),
    parse=parse,
    official=official,
    cluster=cluster,
)
