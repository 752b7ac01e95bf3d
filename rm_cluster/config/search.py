"""What the search job is asked to do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from rm_cluster.config.base import Config
from rm_cluster.config.derived import EnsembleRule, PairSweepConfig
from rm_cluster.config.judges import JudgeConfig
from rm_cluster.config.listing import RewardModelConfig, check_members
from rm_cluster.config.pretrained import EmbeddingConfig
from rm_cluster.config.runs import BenchmarkConfig, ScoringConfig, ServingConfig

Rule = Literal[
    "bon", "mbr", "rbon_kl", "rbon_wd", "rbon_l",
    "srbon_kl", "srbon_wd", "soft_bon", "inference_time_pessimism",
]  # fmt: skip
Objective = Literal["value", "tokens", "kl"]
Normalization = Literal["none", "pool"]


class BetaRange(Config):
    """The strengths that are tried, on a log scale, as Optuna's suggest_float takes them."""

    low: PositiveFloat = 1e-3
    high: PositiveFloat = 100.0

    @model_validator(mode="after")
    def _ordered(self) -> BetaRange:
        if self.low >= self.high:
            raise ValueError(f"low < high must hold, got {self.low:g} and {self.high:g}")
        return self


class SearchSpace(Config):
    """What is tried. What a rule has no use for is not asked of it."""

    reward_models: list[str] | None = Field(default=None, min_length=1)
    """Names; all that serve for nothing else where None. The first is plain Best-of-N's."""
    ensembles: list[EnsembleRule] = Field(default=["mean", "worst_case", "uncertainty_weighted"])
    """Rules that make one reward of all these reward models, if they are several."""
    rules: list[Rule] | None = Field(default=None, min_length=1)
    """`bon` and those of `mbr, rbon_kl, rbon_wd, rbon_l` whose inputs are there, where None."""
    n: list[PositiveInt] | None = Field(default=None, min_length=1)
    """Candidates to pick from, the first so many; 2, 4, 8 ... and the whole pool where None."""
    beta: BetaRange = BetaRange()
    normalize: list[Normalization] = Field(default=["none", "pool"], min_length=1)
    """Rewards as they are, or as z-scores within each pool, which the ensembles always are."""


class CallbackConfig(Config):
    """One of Ray Tune's callbacks."""

    type: str = Field(pattern=r"^(tensorboard|mlflow|wandb|csv|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")
    """`tensorboard`, `mlflow`, `wandb`, `csv`, or `package.module:Class`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to it."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return {"type": data} if isinstance(data, str) else data


class SearchConfig(Config):
    """A search over base models, rules and strengths for Best-of-N."""

    pool: BenchmarkConfig
    """Candidates: `prompt`, `completions`, and if there are `labels`, `logprobs`, `num_tokens`,
    `embeddings`, `rewards` (lists by name of the reward model)."""
    reward_models: list[RewardModelConfig] = Field(default_factory=list)
    """Trained ones, which score the pool as jobs/evaluate.py does; nothing is scored twice."""
    gold: str = Field(default="labels", min_length=1)
    """What is judged by: the pool's labels, or a reward model by name."""
    criterion: str = Field(default="gold", min_length=1)
    """What is maximized on the development prompts: `gold`; without gold a reward model by name,
    held out for this; or `worst_case`, the lowest z-score among all that are searched."""
    ref_logprobs: str | None = Field(default=None, min_length=1)
    """A `logprob` reward model by name, the policy; the pool's own `logprobs` where None."""
    similarity: Literal["token_overlap"] | EmbeddingConfig = "token_overlap"
    """Of candidates, where the pool has no `embeddings`: shared words, or an encoder's cosine."""
    space: SearchSpace = SearchSpace()
    objectives: list[Objective] = Field(default=["value"], min_length=1)
    """`value`, the mean criterion, is maximized; beside it `tokens` or `kl` may be minimized."""
    num_trials: PositiveInt = 200
    """In all: what the storage holds of this search counts."""
    max_concurrent_trials: PositiveInt = 1
    """One is fastest for trials of milliseconds, and tries the same for the same seed."""
    scheduler: Literal["asha"] | None = None
    """Stops trials that fall behind on growing parts of the development prompts."""
    storage: str | None = Field(default=None, min_length=1)
    """Optuna's: a URL such as sqlite:///search.db, or a journal file; one in output_dir if None."""
    callbacks: list[CallbackConfig] = Field(default_factory=list)
    dev_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the prompts that choose; the others judge."""
    limit: PositiveInt | None = None
    """Prompts of the pool; a limited run is stamped PARTIAL."""
    serving: ServingConfig = ServingConfig()
    scoring: ScoringConfig = ScoringConfig()
    output_dir: str = Field(default="results/search", min_length=1)
    """Folder or fsspec URL that every node can reach."""
    seed: NonNegativeInt = 0

    @field_validator("pool")
    @classmethod
    def _has_completions(cls, pool: BenchmarkConfig) -> BenchmarkConfig:
        if pool.type == "prompts":
            raise ValueError("prompts have no completions; jobs/generate.py makes some")
        return pool

    @field_validator("reward_models")
    @classmethod
    def _have_rewards(cls, models: list[RewardModelConfig]) -> list[RewardModelConfig]:
        check_members(models)
        for model in models:
            if isinstance(model, PairSweepConfig):
                raise ValueError(f"{model.name} is a sweep, which has no reward of its own")
            if isinstance(model, JudgeConfig) and model.only_compares:
                raise ValueError(
                    f"{model.name} only compares the pairs of a benchmark; write compare: "
                    "round_robin, which rates every completion"
                )
        return models

    @model_validator(mode="after")
    def _objectives_are_few(self) -> SearchConfig:
        if self.objectives[0] != "value" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives must begin with value, and name each once")
        if self.scheduler is not None and len(self.objectives) > 1:
            raise ValueError("the scheduler asha goes by one objective; leave value alone")
        if "://" in self.output_dir and self.storage is None:
            raise ValueError(
                "Optuna's storage cannot lie in a remote output_dir; set storage to a database "
                "URL or a local file"
            )
        return self
