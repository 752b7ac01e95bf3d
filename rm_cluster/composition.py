"""Which reward models are measured, and which are algebra on what was measured.

A language model that several density ratios share is measured once; so is one that is also listed
as a reward model itself. What is measured for others only has no place in leaderboards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from rm_cluster.config import (
    EnsembleConfig,
    ImportedConfig,
    LogprobConfig,
    LogRatioConfig,
    PairSweepConfig,
    RewardModelConfig,
)
from rm_cluster.config.listing import measured_members
from rm_cluster.derived import ensemble_table, log_ratio_table, logprob_table
from rm_cluster.rewards import Scale
from rm_cluster.scorers import AnyScorerConfig


class Derived(NamedTuple):
    """The rewards of one benchmark.

    Attributes:
        tables: By reward model, in the order of the list; a sweep has no rewards of its own.
        scales: By ensemble and member, what made its rewards comparable.
    """

    tables: dict[str, pa.Table]
    scales: dict[str, dict[str, Scale]]


class Composition(NamedTuple):
    """What a list of reward models comes down to.

    Attributes:
        models: The list.
        measured: What is run, each model once, by a name that is a reward model's where it can be.
        parts: By reward model that is computed from log-probs, the names of its measurements.
    """

    models: Sequence[RewardModelConfig]
    measured: dict[str, AnyScorerConfig]
    parts: dict[str, list[str]]

    @property
    def imported(self) -> list[ImportedConfig]:
        return [model for model in self.models if isinstance(model, ImportedConfig)]

    @property
    def sweeps(self) -> list[PairSweepConfig]:
        return [model for model in self.models if isinstance(model, PairSweepConfig)]

    @property
    def ensembles(self) -> dict[str, list[str]]:
        """Members by ensemble."""
        return {m.name: m.members for m in self.models if isinstance(m, EnsembleConfig)}

    def benchmarks(self, name: str, everything: Sequence[str]) -> list[str]:
        """Those of all benchmarks on which a measurement is needed."""
        swept_only: set[str] = set()
        for model in self.models:
            used = name in self.parts.get(model.name, ()) or model.name == name
            if used and not (isinstance(model, PairSweepConfig) and model.benchmarks is not None):
                return list(everything)
            if used and isinstance(model, PairSweepConfig):
                swept_only.update(model.benchmarks or ())
        return [benchmark for benchmark in everything if benchmark in swept_only]

    def derive(self, tables: Mapping[str, pa.Table]) -> Derived:
        """Compute the rewards of every reward model on one benchmark.

        Args:
            tables: By name of what was measured or imported, rows in the benchmark's order.
        """
        found: dict[str, pa.Table] = {}
        scales = {}
        for model in self.models:
            parts = [tables[name] for name in self.parts.get(model.name, ())]
            match model:
                case LogprobConfig():
                    found[model.name] = logprob_table(model, *parts)
                case LogRatioConfig():
                    found[model.name] = log_ratio_table(model, *parts)
                case EnsembleConfig() | PairSweepConfig():
                    pass
                case _:
                    found[model.name] = tables[model.name]
        for model in self.models:
            if isinstance(model, EnsembleConfig):
                members = {name: found[name] for name in model.members}
                found[model.name], scales[model.name] = ensemble_table(model, members)
        order = [model.name for model in self.models if model.name in found]
        return Derived({name: found[name] for name in order}, scales)


def compose(models: Sequence[RewardModelConfig]) -> Composition:
    """Find what is to be measured for a list of reward models.

    Args:
        models: As `EvaluateConfig` checked them.
    """
    named = {model.name: model for model in models}
    measured: dict[str, AnyScorerConfig] = {}
    parts: dict[str, list[str]] = {}
    for model in models:
        match model:
            case LogprobConfig():
                parts[model.name] = [_add(measured, model.measurement(), model.name)]
            case ImportedConfig() | EnsembleConfig() | LogRatioConfig() | PairSweepConfig():
                pass
            case _:
                measured[model.name] = model
    for model in models:  # after those that are listed themselves, whose names come first
        if isinstance(model, LogRatioConfig | PairSweepConfig):
            parts[model.name] = [
                _add(measured, member, f"{model.name}/{member.name}")
                for member in measured_members(model, named)
            ]
    return Composition(models, measured, parts)


def _add(measured: dict[str, AnyScorerConfig], config: LogprobConfig, name: str) -> str:
    """Add a measurement unless it is there; return what it is called.

    Two checkpoints may be called alike, such as `a/final` and `b/final`; then they are numbered.
    """
    wanted = config.model_copy(update={"name": ""})
    for known, other in measured.items():
        if other.model_copy(update={"name": ""}) == wanted:
            return known
    names = (name, *(f"{name}-{number}" for number in range(2, len(measured) + 3)))
    free = next(one for one in names if one not in measured)
    measured[free] = config.model_copy(update={"name": free})
    return free
