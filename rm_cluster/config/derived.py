"""Reward models that are algebra on what others measured: ratios, ensembles, sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    Tag,
    model_validator,
)

from rm_cluster.config.base import Config, with_default_name
from rm_cluster.config.customize import CustomizeConfig
from rm_cluster.config.reward_models import CausalConfig, Normalize

EnsembleRule = Literal["mean", "worst_case", "uncertainty_weighted", "lower_confidence_bound"]


def _member_kind(value: Any) -> str:
    return "member_name" if isinstance(value, str) else "member"


MemberConfig = Annotated[
    Annotated[str, Tag("member_name"), Field(min_length=1)]
    | Annotated[CausalConfig, Tag("member")],
    Discriminator(_member_kind),
]
"""A `logprob` reward model of the same list by name, else a folder or hub id, or more of it."""


class RatioConfig(Config):
    """What density ratios have in common."""

    normalize: Normalize = "sum"
    """`mean` divides by the tokens of the strong model."""
    rendering: Literal["shared", "own"] = "shared"
    """One template for all models, in one model's writing, or each model its own."""
    template: str | None = None
    """The shared one, as for a classifier; that of the first model named where None."""
    customize: CustomizeConfig | None = None
    """What all models are told of each prompt's domain before it; nothing where None."""

    @model_validator(mode="after")
    def _one_rule(self) -> RatioConfig:
        if self.rendering == "own" and self.template is not None:
            raise ValueError(
                "rendering: own takes no template here; give each model its own, or none"
            )
        return self


class LogRatioConfig(RatioConfig):
    """beta * (log strong(y|x) - log weak(y|x)): density ratios, and DPO's implicit reward."""

    type: Literal["log_ratio"] = "log_ratio"
    name: str = Field(min_length=1)
    """How reports call it; STRONG-over-WEAK where not given."""
    strong: MemberConfig
    """The aligned model; of a DPO reward the policy. Its template is the one that is shared."""
    weak: MemberConfig
    """The model below it; of a DPO reward the reference."""
    beta: PositiveFloat = 1.0

    @model_validator(mode="before")
    @classmethod
    def _name_after_members(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("name"):
            return data
        names = [member_name(data.get(side)) for side in ("strong", "weak")]
        return {**data, "name": "-over-".join(names)}


class EnsembleConfig(Config):
    """Several reward models of the same list made one."""

    type: Literal["ensemble"] = "ensemble"
    name: str = Field(min_length=1)
    members: list[str] = Field(min_length=2)
    """Names of reward models."""
    rule: EnsembleRule = "mean"
    weight: NonNegativeFloat = 0.5
    """Of the variance or deviation that uncertainty_weighted or lower_confidence_bound take off."""
    scale: Literal["z_score", "none"] = "z_score"
    """z-scores over all completions of a benchmark, or rewards as they are, which compare."""


class PairSweepConfig(RatioConfig):
    """Every ordered pair of several language models as a density ratio (arXiv 2411.02481)."""

    type: Literal["pair_sweep"] = "pair_sweep"
    name: str = Field(default="pair_sweep", min_length=1)
    models: list[MemberConfig] = Field(min_length=2)
    """Each is measured once; the template of the first is the one that is shared."""
    benchmarks: list[str] | None = None
    """Names of the run's benchmarks to sweep; all where None."""
    gap: str | None = Field(default=None, min_length=1)
    """Table (`model` and `gap_column`) of how good each model is; where None its own accuracy."""
    gap_column: str = Field(default="value", min_length=1)


def member_name(member: Any) -> str:
    """What a member is called: its name, or the last part of where it lies; empty if unknown."""
    if isinstance(member, CausalConfig):
        return member.name
    data = with_default_name({"model": member} if isinstance(member, str) else member, "model")
    return str(data.get("name", "")) if isinstance(data, Mapping) else ""
