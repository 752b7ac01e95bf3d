"""Tables of rewards that are computed from tables of what was measured.

A table holds P rows in the order of a benchmark's: `values` (null where the prompt failed),
`num_tokens`, `truncated`, `error` and, of judges of pairs, `margins`. A prompt that failed for one
member has failed for what is derived from it, with the member's name before its error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rm_cluster.config import EnsembleConfig, LogprobConfig, LogRatioConfig
from rm_cluster.errors import DataFormatError
from rm_cluster.rewards import Floats, Scale, combine, log_ratio, logprob_reward

Errors = list[str | None]
_NO_TOKENS = "a completion has no tokens, so its mean log-prob is not defined; use normalize: sum"


class Members(NamedTuple):
    """What several tables say of the prompts that all of them scored.

    Attributes:
        errors: [P] why a prompt failed; None where it did not.
        lengths: Completions of each prompt that did not fail.
        flat: By member, all rewards of those prompts, one prompt after the other; nan for a
            completion without one.
        num_tokens: Of the first member, as `flat`; 0 where it does not say.
        truncated: Whether any member saw less than the whole text, as `flat`.
    """

    errors: Errors
    lengths: npt.NDArray[np.int64]
    flat: dict[str, Floats]
    num_tokens: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, tables: Mapping[str, pa.Table], *, per_token: bool = False) -> Members:
        """Bring tables of the same prompts in line.

        Args:
            tables: By member.
            per_token: Whether a completion without tokens is an error of its prompt.
        """
        errors = _errors(tables, per_token)
        kept = np.flatnonzero([error is None for error in errors])
        taken = {name: table.take(kept) for name, table in tables.items()}
        first = next(iter(taken.values()))
        lengths = pc.list_value_length(first["values"]).to_numpy().astype(np.int64)
        total = int(lengths.sum())
        cut = [_flat(table["truncated"], total).astype(bool) for table in taken.values()]
        return cls(
            errors=errors,
            lengths=lengths,
            flat={name: _flat(table["values"], total) for name, table in taken.items()},
            num_tokens=_flat(first["num_tokens"], total).astype(np.int64),
            truncated=np.any(cut, axis=0),
        )

    def table(self, rewards: Floats) -> pa.Table:
        """The table of what was derived: `rewards` are as `flat`."""
        failed = np.array([error is not None for error in self.errors], dtype=bool)
        lengths = np.zeros(len(failed), dtype=np.int32)
        lengths[~failed] = self.lengths
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        columns = {
            "values": pa.array(rewards),
            "num_tokens": pa.array(self.num_tokens, pa.int32()),
            "truncated": pa.array(self.truncated),
        }
        lists = {
            name: pa.ListArray.from_arrays(offsets, flat, mask=pa.array(failed))
            for name, flat in columns.items()
        }
        return pa.table({**lists, "error": pa.array(self.errors, pa.string())})


def logprob_table(config: LogprobConfig, sums: pa.Table) -> pa.Table:
    """Rewards of a language model, from its sums of log-probs."""
    if config == config.measurement():
        return sums
    members = Members.of({config.name: sums}, per_token=config.normalize == "mean")
    flat = members.flat[config.name]
    return members.table(logprob_reward(flat, members.num_tokens, config.normalize, config.beta))


def log_ratio_table(config: LogRatioConfig, strong: pa.Table, weak: pa.Table) -> pa.Table:
    """Rewards of a density ratio, from the sums of log-probs of its two models."""
    tables = {"strong": strong, "weak": weak}
    members = Members.of(tables, per_token=config.normalize == "mean")
    sums = members.flat["strong"], members.flat["weak"]
    return members.table(log_ratio(*sums, members.num_tokens, config.normalize, config.beta))


def ensemble_table(
    config: EnsembleConfig, tables: Mapping[str, pa.Table]
) -> tuple[pa.Table, dict[str, Scale]]:
    """Rewards of an ensemble, and how each member was put on the common scale.

    z-scores are over the completions that all members scored. A member whose rewards do not differ
    has no z-scores: every prompt is then an error that names it.
    """
    members = Members.of(tables)
    known = ~np.isnan(np.sum(list(members.flat.values()), axis=0))
    if config.scale == "none":
        return members.table(_combined(config, members.flat)), {}
    scales = {}
    for name, flat in members.flat.items():
        try:
            scales[name] = Scale.of(flat[known])
        except DataFormatError as error:
            return _all_failed(members, f"{name}: {error}"), {}
    z_scores = {name: scales[name].z(flat) for name, flat in members.flat.items()}
    return members.table(_combined(config, z_scores)), scales


def _combined(config: EnsembleConfig, flat: Mapping[str, Floats]) -> Floats:
    return combine(np.stack(list(flat.values())), config.rule, config.weight)


def _all_failed(members: Members, reason: str) -> pa.Table:
    nothing: Any = np.empty(0)
    return Members(
        [error or reason for error in members.errors], nothing, {}, nothing, nothing
    ).table(nothing)


def _errors(tables: Mapping[str, pa.Table], per_token: bool) -> Errors:
    """[P] the error of the first member that has one, named; None where all have rewards."""
    first = next(iter(tables.values()))
    lengths = pc.list_value_length(first["values"])
    errors: Errors = [None] * len(first)
    for name, table in tables.items():
        for i, reason in _reasons(table, lengths).items():
            errors[i] = errors[i] or f"{name}: {reason}"
    if per_token:
        for i, counts in enumerate(first["num_tokens"].to_pylist()):
            if errors[i] is None and 0 in counts:
                errors[i] = _NO_TOKENS
    return errors


def _reasons(table: pa.Table, lengths: pa.ChunkedArray) -> dict[int, str]:
    """By position, why a row of a table has no rewards to compute with."""
    own = pc.list_value_length(table["values"])
    reasons = {
        int(i): f"{own[i]} rewards, where the first member has {lengths[i]}"
        for i in np.flatnonzero(pc.fill_null(pc.not_equal(own, lengths), False))
    }
    for i in np.flatnonzero(table["values"].is_null()):
        reasons[int(i)] = table["error"][int(i)].as_py() or "no reward"
    if "margins" in table.column_names:
        for i in np.flatnonzero(table["margins"].is_valid()):
            if all(np.isnan(table["values"][int(i)].as_py() or ())):
                reasons[int(i)] = "only compared pairs, and has no rewards to compute with"
    return reasons


def _flat(column: pa.ChunkedArray, total: int) -> npt.NDArray[Any]:
    """A column of lists, one after the other; zeros where it says nothing."""
    if column.null_count:
        return np.zeros(total)
    flat: npt.NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat
