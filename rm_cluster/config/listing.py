"""The list of reward models: what may stand in it, and what its members say of each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from rm_cluster.config.base import Config
from rm_cluster.config.derived import (
    EnsembleConfig,
    LogRatioConfig,
    PairSweepConfig,
    RatioConfig,
    member_name,
)
from rm_cluster.config.judges import JudgeConfig
from rm_cluster.config.reward_models import (
    CausalConfig,
    ClassifierConfig,
    CustomScorerConfig,
    ImportedConfig,
    LengthConfig,
    LogprobConfig,
    RendererConfig,
)


def scorer_type(value: Any) -> str:
    """Of what stands in a list of reward models, before or after it was read."""
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "custom" if isinstance(kind, str) and ":" in kind else str(kind)


RewardModelConfig = Annotated[
    Annotated[ClassifierConfig, Tag("classifier")]
    | Annotated[LogprobConfig, Tag("logprob")]
    | Annotated[LogRatioConfig, Tag("log_ratio")]
    | Annotated[EnsembleConfig, Tag("ensemble")]
    | Annotated[PairSweepConfig, Tag("pair_sweep")]
    | Annotated[JudgeConfig, Tag("judge")]
    | Annotated[LengthConfig, Tag("length")]
    | Annotated[ImportedConfig, Tag("imported")]
    | Annotated[CustomScorerConfig, Tag("custom")],
    Discriminator(scorer_type),
]


def check_members(models: Sequence[RewardModelConfig]) -> None:
    """Hold what reward models say of each other against the list that they stand in.

    Raises:
        ValueError: A member is not there, is of another type, or cannot be shared.
    """
    named = {model.name: model for model in models}
    for model in models:
        if isinstance(model, EnsembleConfig):
            _check_ensemble(model, named)
        elif isinstance(model, LogRatioConfig):
            check_ratio(model, named)
        elif isinstance(model, PairSweepConfig):
            check_ratio(model, named)
            names = sweep_names(model)
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{model.name} has two models {name!r}; give them names")


def _check_ensemble(ensemble: EnsembleConfig, named: Mapping[str, Any]) -> None:
    for name in ensemble.members:
        if name not in named:
            raise ValueError(
                f"{ensemble.name} has a member {name!r} that is no reward model here; there are "
                f"{', '.join(named)}"
            )
        member = named[name]
        if isinstance(member, EnsembleConfig | PairSweepConfig):
            raise ValueError(
                f"{ensemble.name} has a member {name!r} of type {member.type}; members are reward "
                "models that are measured or a ratio of two"
            )
        if isinstance(member, JudgeConfig) and member.only_compares:
            raise ValueError(
                f"{ensemble.name} has a member {name!r} that only compares the pairs of a "
                f"benchmark; write compare: round_robin at {name}, which rates every completion"
            )
    if len(set(ensemble.members)) < len(ensemble.members):
        raise ValueError(f"{ensemble.name} names a member more than once")


def check_ratio(ratio: LogRatioConfig | PairSweepConfig, named: Mapping[str, Any]) -> None:
    """Hold a ratio's models against each other; `named` are the reward models of the list.

    Raises:
        ValueError: One is of another type, or what they score would not be the same.
    """
    name, members = ratio.name, _members(ratio)
    for member in members:
        listed = named.get(member) if isinstance(member, str) else None
        if listed is not None and not isinstance(listed, LogprobConfig):
            raise ValueError(
                f"{name} names {member!r}, which is of type {listed.type}; it takes logprob "
                f"reward models. If a folder or hub id is meant, write {{model: {member}}}"
            )
    found = [resolve_member(member, named) for member in members]
    if len({member.include_eos for member in found}) > 1:
        raise ValueError(f"{name} needs the same include_eos for all its models")
    shared = ratio.template or found[0].template
    told = ratio.customize or found[0].customize
    for member in found:
        if (ratio.customize or member.customize) != told or member.customize not in (None, told):
            raise ValueError(
                f"{name} customizes prompts alike for all its models, but {member.name} has a "
                f"customize of its own; write it at {name}"
            )
        own = member.renderer is not None or member.template not in (None, shared)
        if own and ratio.rendering == "shared":
            raise ValueError(
                f"{name} shares one template, but {member.name} has its own; write rendering: own "
                "to let each have its own"
            )


def sweep_names(sweep: PairSweepConfig) -> list[str]:
    """What the models of a sweep are called in its tables."""
    return [member_name(member) for member in sweep.models]


def resolve_member(member: str | CausalConfig, named: Mapping[str, Any]) -> LogprobConfig:
    """The measurement that a member stands for; `named` are the reward models of the list."""
    if isinstance(member, str):
        listed = named.get(member)
        if isinstance(listed, LogprobConfig):
            return listed.measurement()
        return LogprobConfig(model=member)
    return LogprobConfig(**member.model_dump())


def measured_members(
    ratio: LogRatioConfig | PairSweepConfig, named: Mapping[str, Any]
) -> list[LogprobConfig]:
    """The measurements of a ratio's models, with the template that they share written in."""
    found = [_told_the_same(resolve_member(member, named), ratio) for member in _members(ratio)]
    if ratio.rendering == "own":
        return found
    first = found[0]
    writer = RendererConfig(
        tokenizer=first.tokenizer or first.model,
        revision=first.revision,
        trust_remote_code=first.trust_remote_code,
    )
    return [
        member.model_copy(
            update={
                "template": ratio.template or first.template,
                "renderer": None if _writes_itself(member, writer) else writer,
            }
        )
        for member in found
    ]


def _members(ratio: LogRatioConfig | PairSweepConfig) -> Sequence[str | CausalConfig]:
    return [ratio.strong, ratio.weak] if isinstance(ratio, LogRatioConfig) else ratio.models


def _told_the_same(member: LogprobConfig, ratio: RatioConfig) -> LogprobConfig:
    return member.model_copy(update={"customize": ratio.customize or member.customize})


def _writes_itself(member: LogprobConfig, writer: RendererConfig) -> bool:
    own = member.tokenizer or member.model
    return (own, member.revision) == (writer.tokenizer, writer.revision)


_PATHS = ("model", "base", "tokenizer", "template", "judge_prompt", "templates", "path", "gap")
_MEMBERS = ("strong", "weak", "models")


def located(models: Sequence[RewardModelConfig]) -> list[RewardModelConfig]:
    """The same with local paths as they are seen from here, for processes that run elsewhere."""
    names = {model.name for model in models}
    return [_located(model, names) for model in models]


def _located(config: Config, names: set[str]) -> Any:
    return config.model_copy(
        update={
            field: _located_value(field, getattr(config, field), names)
            for field in type(config).model_fields
        }
    )


def _located_value(field: str, value: Any, names: set[str]) -> Any:
    if isinstance(value, Config):
        return _located(value, names)
    if isinstance(value, list) and field in _MEMBERS:
        return [_located_value(field, item, names) for item in value]
    is_path = field in _PATHS or (field in _MEMBERS and value not in names)
    return absolute(value) if is_path else value


def absolute(path: str | None) -> str | None:
    """A path that is there as it is seen from anywhere on this machine; anything else as it is."""
    expanded = None if path is None else os.path.expanduser(path)
    return os.path.abspath(expanded) if expanded and os.path.exists(expanded) else path
