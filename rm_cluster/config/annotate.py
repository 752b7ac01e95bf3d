"""What the annotate job is asked to do: which completions become preference pairs, and by what."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from rm_cluster.config.base import Config
from rm_cluster.config.derived import PairSweepConfig
from rm_cluster.config.judges import JudgeConfig
from rm_cluster.config.listing import RewardModelConfig, check_members
from rm_cluster.config.pretrained import EmbeddingConfig, GeneratorConfig
from rm_cluster.config.runs import BenchmarkConfig, ScoringConfig, ServingConfig, unique_names

PairRule = Literal["best_vs_random", "best_vs_worst", "best_vs_uniform_rank", "mbr_bon_vs_worst"]


class AnnotateConfig(Config):
    """Candidates, the reward model that judges them, and how pairs are made of its rewards."""

    reward_models: list[RewardModelConfig] = Field(min_length=1)
    """The one that annotates, and before it whatever it is derived from."""
    annotator: str | None = None
    """Whose rewards decide, by name; the last of `reward_models` where None."""
    candidates: BenchmarkConfig
    """Prompts with their completions: anything that is a benchmark, or a generated pool."""
    policy: GeneratorConfig | None = None
    """A model to sample completions from, `n` for each prompt, instead of those in `candidates`."""
    pair_rule: PairRule = "best_vs_random"
    """Which completion is chosen against which (`rm_cluster.pairing`)."""
    beta: NonNegativeFloat = 0.0
    """Of `mbr_bon_vs_worst`: the weight of the mean similarity to the pool, in units of reward."""
    similarity: EmbeddingConfig | None = None
    """Of `mbr_bon_vs_worst`: the encoder to compare completions by; their words where None."""
    min_margin: NonNegativeFloat = 0.0
    """Pairs whose rewards differ by less are left out; those that tie always are."""
    max_words: PositiveInt | None = None
    """Pairs with a longer completion are left out."""
    max_length_ratio: float | None = Field(default=None, ge=1.0)
    """Pairs whose one completion has over so many times the words of the other are left out."""
    held_out_fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of prompts whose pairs are kept apart from those to train on, told by their ids."""
    format: Literal["conversational", "standard"] = "conversational"
    """Messages, or plain texts, as TRL calls them."""
    limit: PositiveInt | None = None
    """Prompts; a limited run is stamped PARTIAL."""
    serving: ServingConfig = ServingConfig()
    scoring: ScoringConfig = ScoringConfig()
    output_dir: str = Field(default="results/annotate", min_length=1)
    """Folder or fsspec URL that every node can reach."""
    seed: NonNegativeInt = 0
    """Of what is drawn: partners and ranks by the row's id, and the split by its prompt."""

    _unique_names = unique_names("reward_models")

    @field_validator("reward_models")
    @classmethod
    def _members_are_there(cls, models: list[RewardModelConfig]) -> list[RewardModelConfig]:
        check_members(models)
        return models

    @model_validator(mode="after")
    def _annotator_has_rewards(self) -> AnnotateConfig:
        names = [model.name for model in self.reward_models]
        if self.annotator is not None and self.annotator not in names:
            raise ValueError(
                f"annotator must be one of reward_models, {', '.join(names)}; got "
                f"{self.annotator!r}"
            )
        if self.policy is None and self.candidates.type == "prompts":
            raise ValueError(
                f"{self.candidates.name} has prompts and no completions; give a policy to sample "
                "some, or write type: preferences where it has"
            )
        if self.policy is not None and self.policy.n < 2:
            raise ValueError(f"policy.n must be 2 or more to make pairs of, got {self.policy.n}")
        by = next(model for model in self.reward_models if model.name == self.annotator_name)
        if isinstance(by, PairSweepConfig):
            raise ValueError(
                f"{by.name} is a sweep, which has no rewards of its own to annotate by"
            )
        if isinstance(by, JudgeConfig) and by.only_compares:
            raise ValueError(
                f"{by.name} only compares the pairs that a benchmark has; write compare: "
                "round_robin, which rates every completion"
            )
        return self

    @property
    def annotator_name(self) -> str:
        """The name of the reward model that annotates."""
        return self.annotator or self.reward_models[-1].name
