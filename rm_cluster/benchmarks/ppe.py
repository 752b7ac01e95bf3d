"""PPE: human preferences between 20 models, and five sets of 32 verified samples per prompt.

Source: Frick et al., "How to Evaluate Reward Models for RLHF", arXiv 2410.14872, and the authors'
data sets on the hub. A file is told by its name or its folder's; the data set's name or that of the
benchmark in the authors' result archive (`math_best_of_k`) will do.

Groups: `overall` and the human slices, then the five correctness benchmarks and their `mean`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa

from rm_cluster.benchmarks.benchmark import Benchmark, HubSplit
from rm_cluster.benchmarks.rows import make_row, number, pair
from rm_cluster.benchmarks.source import Place
from rm_cluster.columns import strings
from rm_cluster.conversation import messages, text
from rm_cluster.errors import DataFormatError
from rm_cluster.metrics.correctness import correctness_metrics, mean_accuracy
from rm_cluster.metrics.estimate import Joint, Official
from rm_cluster.metrics.judged import Bools, Judged, slices
from rm_cluster.metrics.pairwise import OVERALL
from rm_cluster.metrics.policies import policy_rankings
from rm_cluster.types import Pair, Record, Row

HUMAN = "human_preference"
CORRECTNESS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
MEAN = "mean"
CATEGORIES = {
    "hard_prompt": "hard",
    "easy_prompt": "easy",
    "if_prompt": "instruction_following",
    "is_code": "coding",
    "math_prompt": "math",
    "similar_response": "similar_response",
}
"""Flags of the human data set, and what the paper's figures call them."""
MIN_BATTLES = 300
"""A slice beside the paper's own ranks policies only if it has so many battles."""
SIMILAR = 0.5
_KNOWN = ("humanpreference", "mmlupro", "gpqa", "ifeval", "mbppplus", "math")
_NAMES = dict(zip(_KNOWN, (HUMAN, "MMLU-Pro", "GPQA", "IFEval", "MBPP-Plus", "MATH"), strict=True))
_BY = " by "
_RESPONSE = re.compile(r"response_(\d+)")


def parse(record: Record, place: Place) -> Row:
    """Read a row of the human set (`winner`) or of a Best-of-K set (`scores`)."""
    if "winner" in record:
        return _battle(record, place)
    if "scores" in record:
        return _samples(record, place)
    raise DataFormatError("neither a `winner` (human preference) nor `scores` (Best-of-K)")


def row_id(record: Record, place: Place) -> str:
    """The id that a row, or a score computed elsewhere for it, has; it may come more than once.

    A question comes once for each of its generators (`model_name`).
    """
    domain = _domain(record, place)
    id = f"{domain}/{record.get('question_id', place.line)}"
    generator = record.get("model_name")
    return id if domain == HUMAN or generator is None else f"{id}{_BY}{generator}"


def cluster(id: str) -> str:
    """The samples of one question by different generators are drawn together."""
    return id.rpartition(_BY)[0] or id


def groups(rows: pa.Table) -> dict[str, Bools]:
    """[P] membership of the paper's twelve domains, `mean`, and further slices."""
    domain, tagged = strings(rows["domain"]), slices(rows)
    members: dict[str, Bools] = {}
    if (domain == HUMAN).any():
        members[OVERALL] = domain == HUMAN
        members |= {name: tagged[name] for name in CATEGORIES.values() if name in tagged}
    members |= {name: domain == name for name in CORRECTNESS if (domain == name).any()}
    if (domain != HUMAN).any():
        members[MEAN] = domain != HUMAN
    return members | {name: inside for name, inside in tagged.items() if name not in members}


def official(judged: Judged) -> Official:
    """Accuracy of the correctness side: the plain mean of the five."""
    return {(MEAN, "accuracy"): terms} if (terms := mean_accuracy(judged, CORRECTNESS)) else {}


def joint(judged: Judged, members: Mapping[str, Bools], seed: int) -> list[Joint]:
    """The other eleven metrics: six on rankings of policies, and five on verified samples."""
    human = judged.domain == HUMAN
    ranked = {
        name: inside & human
        for name, inside in members.items()
        if (inside & human).sum() >= (1 if name in (OVERALL, *CATEGORIES.values()) else MIN_BATTLES)
    }
    found = policy_rankings(judged, ranked, seed)
    return found + correctness_metrics(judged, CORRECTNESS, MEAN)


def _battle(record: Record, place: Place) -> Row:
    winner = text(record["winner"], "winner")
    replies = [text(record.get(f"response_{i}"), f"response_{i}") for i in (1, 2)]
    policies = [text(record.get(name), name) for name in ("model_a", "model_b")]
    if policies[0] == policies[1]:
        raise DataFormatError(f"model_a and model_b are both {policies[0][:40]!r}")
    choice = {"model_a": pair(0, 1), "model_b": pair(1, 0)}.get(winner, pair(0, 1, tie=True))
    return make_row(
        id=row_id(record, place),
        domain=HUMAN,
        slices=_slices(record, replies, choice),
        prompt=messages(record.get("prompt"), "prompt"),
        completions=replies,
        policies=policies,
        pairs=[choice],
        metadata=_rest(record),
    )


def _slices(record: Record, replies: list[str], choice: Pair) -> list[str]:
    """The paper's categories, the language, and whether the shorter reply won.

    How PPE tells similar replies is not published; without a flag in the record, replies are
    similar here when they share at least half of the words that either has (Jaccard).
    """
    similar = record.get("similar_response")
    flags = record if similar is not None else {**record, "similar_response": _alike(*replies)}
    tags = [name for flag, name in CATEGORIES.items() if _is_true(flags.get(flag))]
    language = record.get("language")
    if isinstance(language, str) and language:
        tags.append(language)
        tags += ["non_english"] if language.lower() not in ("english", "en") else []
    counted = [record.get(f"length_{side}") for side in "ab"]
    lengths = [length for length in counted if isinstance(length, int | float)]
    if len(lengths) < len(replies):
        lengths = [len(reply) for reply in replies]
    if not choice["tie"] and lengths[choice["chosen"]] < lengths[choice["rejected"]]:
        tags.append("shorter_won")
    return tags


def _alike(first: str, second: str) -> bool:
    words = set(first.lower().split()), set(second.lower().split())
    either = len(words[0] | words[1])
    return not either or len(words[0] & words[1]) / either >= SIMILAR


def _samples(record: Record, place: Place) -> Row:
    domain = _domain(record, place)
    if domain == HUMAN:
        raise DataFormatError("a Best-of-K row in a file of human preferences")
    numbers = sorted(int(found[1]) for key in record if (found := _RESPONSE.fullmatch(key)))
    responses = [record[f"response_{i}"] for i in numbers]
    scores = record["scores"]
    if not isinstance(scores, list) or not responses or len(scores) != len(responses):
        raise DataFormatError(
            f"{len(responses)} responses and "
            f"{len(scores) if isinstance(scores, list) else 'no list of'} scores"
        )
    labels = [number(score, "a score") for score in scores]
    if set(labels) - {0.0, 1.0}:
        raise DataFormatError("scores must be true or false")
    policy = record.get("model_name")
    return make_row(
        id=row_id(record, place),
        domain=domain,
        prompt=messages(record.get("prompt"), "prompt"),
        completions=[text(response, "a response") for response in responses],
        labels=labels,
        policies=[policy] * len(responses) if isinstance(policy, str) else None,
        pairs=_conflicts(record.get("sampled_conflict_pairs"), labels),
        metadata=_rest(record),
    )


def _conflicts(positions: object, labels: list[float]) -> list[Pair]:
    """Conflict pairs as listed, repeated ones too; positions count from 0."""
    if not isinstance(positions, list):
        raise DataFormatError("sampled_conflict_pairs must be a list of pairs of positions")
    pairs = []
    for item in positions:
        if not (isinstance(item, list | tuple) and len(item) == 2):
            raise DataFormatError(f"a conflict pair must be two positions, got {str(item)[:40]}")
        i, j = (int(number(position, "a position")) for position in item)
        if not (0 <= i < len(labels) and 0 <= j < len(labels)):
            raise DataFormatError(f"positions run from 0 to {len(labels) - 1}, got {i} and {j}")
        pairs.append(pair(i, j) if labels[i] > labels[j] else pair(j, i, labels[i] == labels[j]))
    return pairs


def _domain(record: Record, place: Place) -> str:
    """Which of the six sets: by a column `benchmark`, the file's name, or a folder's."""
    if "winner" in record:
        return HUMAN
    parts = place.file.split("::")[0].split("/")
    for part in (str(record.get("benchmark", "")), *reversed(parts)):
        plain = re.sub(r"[^a-z]", "", part.lower())
        for known in _KNOWN:
            if known in plain:
                return _NAMES[known]
    raise DataFormatError(
        f"neither the file's name nor a column `benchmark` says one of {', '.join(CORRECTNESS)}"
    )


def _rest(record: Record) -> Record:
    known = ("prompt", "scores", "winner", "model_a", "model_b")
    return {
        key: value
        for key, value in record.items()
        if key not in known and not _RESPONSE.fullmatch(key)
    }


def _is_true(flag: object) -> bool:
    return flag is True or flag == 1 or (isinstance(flag, str) and flag.lower() == "true")


def _hub(name: str, split: str) -> HubSplit:
    return HubSplit(f"lmarena-ai/PPE-{name}", split)


BENCHMARK = Benchmark(
    name="ppe",
    hub=(
        _hub("Human-Preference-V1", "test"),
        *(_hub(f"{name}-Best-of-K", "train") for name in CORRECTNESS),
    ),
    parse=parse,
    official=official,
    joint=joint,
    groups=groups,
    headlines=(OVERALL, MEAN),
    cluster=cluster,
    row_id=row_id,
    partial_rows=True,
)
