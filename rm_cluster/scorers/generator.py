"""Completions sampled from a causal language model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from rm_cluster.config import GeneratorConfig
from rm_cluster.conversation import messages
from rm_cluster.engines import engine_module
from rm_cluster.errors import DataFormatError
from rm_cluster.scorers.continuation import ContinuationTemplate
from rm_cluster.scorers.pretrained import open_pretrained
from rm_cluster.scorers.scorer import EncodedGroup, TokenIds
from rm_cluster.types import Message

if TYPE_CHECKING:
    from rm_cluster.engines.sampling import Sample, SamplingEngine

logger = logging.getLogger(__name__)


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


class GroupSamples(NamedTuple):
    """The completions of one prompt, or the error that stands in their place."""

    completions: list[Completion] | None
    error: str | None = None


class Generator:
    """Samples completions; the same seed gives the same ones, whatever they are batched with.

    Takes the fields of `GeneratorConfig` as keywords:

        Generator(model="path/or/hub-id", n=4, temperature=0.7, seed=1).sample(prompts)

    Raises:
        ConfigError: No such model, no safetensors weights, or no token that ends a turn.
    """

    uses_gpu = True

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

    @cached_property
    def contract(self) -> dict[str, Any]:
        """What decides the samples, but for their number; reads all the weights."""
        config = self.config
        return {
            "type": "generator",
            **self._pretrained.contract(),
            **self._template.contract,
            "max_new_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": config.seed,
            "logprob": "sum of natural log-probs at temperature 1, nothing cut off",
            **({"draws": "in order of token ids"} if config.engine == "torch" else {}),
        }

    @property
    def notice(self) -> str | None:
        """What the user should know of the contract before it runs."""
        return self._template.notice

    def encode(self, prompts: Sequence[Sequence[Message]]) -> list[EncodedGroup]:
        """Render and tokenize; a group is its prompt, once for each of the `n` samples.

        Raises:
            DataFormatError: One text is given in the place of a list of prompts.
        """
        if isinstance(prompts, str):
            raise DataFormatError("prompts must be a list of conversations or texts, got a text")
        rendered = [self._render(prompt) for prompt in prompts]
        token_ids = self._template.encode_prompts([text for text, error in rendered if not error])
        encoded = iter(token_ids)
        return [
            EncodedGroup.failed(error) if error else self._fit(next(encoded))
            for _, error in rendered
        ]

    def load(self, num_threads: int | None = None) -> None:
        if self._engine is None:
            ends = {self._template.end, self._pretrained.tokenizer.eos_token_id} - {None}
            self._engine = engine_module(self.config).SamplingEngine(
                self.config, self._pretrained.dtype, sorted(ends), num_threads
            )

    def sample_encoded(self, prompts: Sequence[TokenIds], first: int = 0) -> list[list[Completion]]:
        """Return samples number `first` to `n` - 1 of each tokenized prompt."""
        self.load()
        assert self._engine is not None
        groups = self._engine.sample(prompts, first)
        return [[self._completion(sample) for sample in group] for group in groups]

    def sample(self, prompts: Sequence[Sequence[Message]]) -> list[list[Completion]]:
        """Return `n` completions of each prompt, a conversation whose last turn is the user's.

        Raises:
            DataFormatError: A prompt is empty, or leaves no room for `max_new_tokens`.
        """
        groups = self.encode(prompts)
        for index, group in enumerate(groups):
            if group.error is not None:
                raise DataFormatError(f"Prompt {index}: {group.error}")
        return self.sample_encoded([group.token_ids[0] for group in groups])

    def _render(self, prompt: Sequence[Message]) -> tuple[str, str]:
        """The rendered prompt, or why there is none."""
        try:
            text = self._template.render_prompt(messages(prompt, "the prompt"))
        except DataFormatError as error:
            return "", str(error)
        except Exception as error:  # a template raises what it likes
            return "", f"the chat template refuses the conversation: {error}"[:500]
        return text, ""

    def _fit(self, ids: TokenIds) -> EncodedGroup:
        limit, longest = self._pretrained.max_length, self.config.max_new_tokens
        if not len(ids) or (limit is not None and len(ids) + longest > limit):
            return EncodedGroup.failed(
                f"it makes {len(ids)} tokens; there must be 1 or more, and with max_new_tokens="
                f"{longest} at most {limit} in all"
            )
        n = self.config.n
        return EncodedGroup([ids] * n, [len(ids)] * n, [False] * n)

    def _completion(self, sample: Sample) -> Completion:
        text = self._pretrained.tokenizer.decode(sample.token_ids, skip_special_tokens=True)
        return Completion(text, len(sample.token_ids), sample.logprob, sample.ended)


def sample_groups(
    generator: Generator, groups: Sequence[Sequence[TokenIds]], first: int
) -> list[GroupSamples]:
    """Sample groups together; if that fails, one by one, so that only the culprit gets an error."""
    if not groups:
        return []
    try:
        found = generator.sample_encoded([group[0] for group in groups], first)
    except Exception as error:  # whatever a model's code may raise, it is the prompt's error
        if len(groups) == 1:
            return [GroupSamples(None, f"{type(error).__name__}: {error}"[:500])]
        logger.warning("Sampling %d prompts together failed: %s", len(groups), error)
        return [sample_groups(generator, [group], first)[0] for group in groups]
    return [GroupSamples(completions) for completions in found]
