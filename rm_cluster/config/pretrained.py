"""Models of Hugging Face, as a configuration names them. Names are those of transformers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from rm_cluster.config.base import Config, with_default_name


class ExtrapolationConfig(Config):
    """Weights further along the way from one checkpoint to another (ExPO, arXiv 2404.16792)."""

    base: str = Field(min_length=1)
    """Local folder or hub id of the checkpoint that `model` was tuned from."""
    revision: str = "main"
    alpha: float = Field(ge=-1.0)
    """Every weight becomes model + alpha * (model - base): -1 is the base, 0 the model itself."""


class PretrainedConfig(Config):
    """What all pretrained models of Hugging Face have in common here."""

    model: str = Field(min_length=1)
    """Local folder or hub id; weights in safetensors."""
    name: str = ""
    """How reports call it; the last part of `model` where not given."""
    revision: str = "main"
    tokenizer: str | None = None
    """Local folder or hub id of the tokenizer; `model` where not given."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: PositiveInt | None = None
    """Tokens; the model's own limit where None."""
    engine: Literal["torch", "vllm"] = "torch"
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's, passed through, such as tensor_parallel_size."""
    attn_implementation: str | None = None
    """One of transformers', for padded batches; our own, with shared prefixes, where None."""
    trust_remote_code: bool = False
    tokens_per_batch: PositiveInt | None = None
    """At most so many tokens in one forward pass, padding included; 8192 where None, and vLLM's own
    choice with that engine, always so where it samples on a CPU. For torch on a CPU 1024 are enough
    where more would share no beginnings. A packed row is then filled up to a multiple of 64."""
    extrapolate: ExtrapolationConfig | None = None
    """From another checkpoint through `model` and on; made where the model is loaded, by torch."""

    @model_validator(mode="before")
    @classmethod
    def _name_after_model(cls, data: Any) -> Any:
        named = with_default_name(data, "model")
        if named is data:
            return data
        match data.get("extrapolate"):
            case {"alpha": alpha} | ExtrapolationConfig(alpha=alpha):
                return {**named, "name": f"{named['name']}-expo{alpha}"}
        return named

    @model_validator(mode="after")
    def _options_of_the_engine(self) -> PretrainedConfig:
        if self.engine == "torch" and self.engine_args:
            raise ValueError("engine_args are vLLM's and go with engine: vllm")
        if self.engine == "vllm" and self.attn_implementation is not None:
            raise ValueError(
                "attn_implementation goes with engine: torch; for vLLM there is "
                "engine_args.attention_backend"
            )
        if self.engine == "vllm" and self.extrapolate is not None:
            raise ValueError("extrapolate goes with engine: torch; vLLM reads weights by itself")
        return self


class GeneratorConfig(PretrainedConfig):
    """A causal language model, and how completions are sampled from it."""

    template: str | None = None
    """As for a classifier."""
    n: PositiveInt = 1
    """Samples of each prompt."""
    max_new_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 1.0
    """0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: NonNegativeInt = 0


class EmbeddingConfig(PretrainedConfig):
    """An encoder whose mean-pooled states are embeddings."""

    truncate: bool = False
    """Whether a text over max_length loses its end; it is an error if not."""
