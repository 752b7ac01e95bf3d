"""Completions sampled from a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rm_cluster.config import GeneratorConfig
from rm_cluster.engines import engine_module
from rm_cluster.errors import DataFormatError
from rm_cluster.scorers.continuation import ContinuationTemplate
from rm_cluster.scorers.pretrained import open_pretrained
from rm_cluster.types import Message

if TYPE_CHECKING:
    from rm_cluster.engines.sampling import Sample, SamplingEngine


class Completion(NamedTuple):
    """A sampled completion."""

    text: str
    """Without special tokens."""
    num_tokens: int
    """With the token that ended it, if one did."""
    logprob: float
    """Sum over these tokens, in nats, under the model itself: no temperature, no top_p."""
    ended: bool
    """Whether it ended by itself; else `max_new_tokens` cut it."""


class Generator:
    """Samples completions; the same seed gives the same ones, whatever they are batched with.

    Takes the fields of `GeneratorConfig` as keywords:

        Generator(model="path/or/hub-id", n=4, temperature=0.7, seed=1).sample(prompts)

    Raises:
        ConfigError: No such model, no safetensors weights, or no token that ends a turn.
    """

    def __init__(self, **options: Any) -> None:
        self.config = GeneratorConfig(**options)
        self._pretrained = open_pretrained(self.config)
        self._template = ContinuationTemplate(
            self._pretrained.tokenizer,
            self.config.template,
            self._pretrained.max_length,
            "error",
            self.config.name,
            include_eos=True,
        )
        self._engine: SamplingEngine | None = None

    def load(self) -> None:
        if self._engine is None:
            ends = {self._template.end, self._pretrained.tokenizer.eos_token_id} - {None}
            self._engine = engine_module(self.config).SamplingEngine(
                self.config, self._pretrained.dtype, sorted(ends)
            )

    def sample(self, prompts: Sequence[Sequence[Message]]) -> list[list[Completion]]:
        """Return `n` completions of each prompt, a conversation whose last turn is the user's.

        Raises:
            DataFormatError: A prompt is empty, or leaves no room for `max_new_tokens`.
        """
        token_ids = self._template.encode_prompts(
            [self._template.render_prompt(prompt) for prompt in prompts]
        )
        limit = self._pretrained.max_length
        for index, ids in enumerate(token_ids):
            if not len(ids) or (limit and len(ids) + self.config.max_new_tokens > limit):
                raise DataFormatError(
                    f"Prompt {index} makes {len(ids)} tokens; with max_new_tokens="
                    f"{self.config.max_new_tokens} there must be 1 or more, and at most {limit} "
                    "in all."
                )
        self.load()
        assert self._engine is not None
        return [[self._completion(s) for s in group] for group in self._engine.sample(token_ids)]

    def _completion(self, sample: Sample) -> Completion:
        text = self._pretrained.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        return Completion(text, len(sample.token_ids), sample.logprob, sample.ended)
