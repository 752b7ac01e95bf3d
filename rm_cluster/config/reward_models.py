"""Reward models, as a configuration names them. Names are those of transformers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    model_validator,
)

from rm_cluster.config.base import Config, with_default_name
from rm_cluster.config.customize import CustomizeConfig
from rm_cluster.config.pretrained import PretrainedConfig


class ClassifierConfig(PretrainedConfig):
    """A Hugging Face sequence classifier, or a causal language model saved with a value head."""

    type: Literal["classifier"] = "classifier"
    template: str | None = None
    """`plain`, `concat`, a .jinja file or Jinja text; the tokenizer's own chat template if None."""
    head_weights: list[float] | None = Field(default=None, min_length=1)
    """Of each output of the head; the reward is their weighted sum. Where None, a single output is
    the reward, of two it is the second less the first, and more need weights."""


class RendererConfig(Config):
    """A tokenizer that writes conversations as text for models other than its own."""

    tokenizer: str = Field(min_length=1)
    """Local folder or hub id."""
    revision: str = "main"
    trust_remote_code: bool = False


class CausalConfig(PretrainedConfig):
    """A causal language model whose log-probabilities are measured."""

    template: str | None = None
    """As for a classifier."""
    renderer: RendererConfig | None = None
    """Whose chat template (where `template` is None) and special tokens; its own where None."""
    include_eos: bool = True
    """Whether the token that ends the turn counts as the last of the completion."""
    customize: CustomizeConfig | None = None
    """What the model is told of each prompt's domain before it; nothing where None."""


Normalize = Literal["sum", "mean"]
"""Log-probs summed over the completion's tokens, or their mean."""


class LogprobConfig(CausalConfig):
    """A causal language model; the reward is beta times the completion's log-prob, in nats."""

    type: Literal["logprob"] = "logprob"
    normalize: Normalize = "sum"
    """`mean` divides by the completion's tokens, as SimPO does (arXiv 2405.14734)."""
    beta: PositiveFloat = 1.0

    def measurement(self) -> LogprobConfig:
        """What is measured for it: sums, from which the reward is computed."""
        return self.model_copy(update={"normalize": "sum", "beta": 1.0})


class LengthConfig(Config):
    """Counts the completion's tokens: the verbosity baseline, and a dry run without weights."""

    type: Literal["length"] = "length"
    name: str = Field(default="length", min_length=1)
    tokenizer: str | None = None
    """Local folder or hub id; words and punctuation marks are counted where None."""
    revision: str = "main"


class ImportedConfig(Config):
    """Scores that were computed elsewhere: nothing is run."""

    type: Literal["imported"] = "imported"
    path: str = Field(min_length=1)
    """File, folder, zip or fsspec URL; in a folder, the files that bear `name`, if any do."""
    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _name_after_path(cls, data: Any) -> Any:
        return with_default_name(data, "path")


class CustomScorerConfig(Config):
    """A scorer of the user's own: `type: package.module:Class`, built as `Class(**options)`."""

    type: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    name: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
