"""Sampled completions on torch: each reproducible by its seed, whatever it is batched with.

Shapes: B samples of a batch, T tokens, V vocabulary, R draws for a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from rm_cluster.config import GeneratorConfig
from rm_cluster.engines.decoder import require_known, token_budget
from rm_cluster.engines.device import device
from rm_cluster.engines.loading import load_pretrained
from rm_cluster.engines.logits import float32_head, rows_at_once
from rm_cluster.engines.packing import TokenIds, mixed_length
from rm_cluster.engines.probing import num_known, some_tokens
from rm_cluster.errors import ConfigError

_NUM_DRAWS = 8
"""For each token, where draws may fall outside of what `top_p` keeps."""


class Sample(NamedTuple):
    """What was drawn after a prompt."""

    token_ids: list[int]
    """With the token that ended it, if one did."""
    logprob: float
    """Sum over these tokens, in nats, under the model itself: no temperature, no top_p."""
    ended: bool
    """Whether a token that ends the turn was drawn before `max_new_tokens`."""


class SamplingEngine:
    """A causal language model in memory, asked for samples.

    Args:
        config: Which, and how to sample.
        dtype: Of the weights; probabilities are float32.
        ends: Token ids that end a turn.
        num_threads: Of torch on a CPU; torch's own choice if None.

    Raises:
        ConfigError: Token by token the model says something else than of the whole text, as it does
            where it does not know such a cache, or sees tokens to come.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        dtype: str,
        ends: Sequence[int],
        num_threads: int | None = None,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._config = config
        self._num_draws = 1 if config.top_p == 1 else _NUM_DRAWS
        self._model = load_pretrained(
            AutoModelForCausalLM, config, dtype, "a causal language model"
        )
        self._mixed = mixed_length(self._model.config)
        rope = getattr(self._model.config.get_text_config(), "rope_parameters", None)
        self._is_dynamic = "dynamic" in str(rope)
        self._rows_at_once = rows_at_once(float32_head(self._model))
        # nothing ends while it is checked, or there might be one token to check
        self._ends = torch.empty(0, dtype=torch.long, device=device())
        self._check()
        self._ends = torch.tensor(list(ends), device=device())

    @torch.inference_mode()
    def sample(self, prompts: Sequence[TokenIds], first: int = 0) -> list[list[Sample]]:
        """Draw samples number `first` to `config.n` - 1 after each prompt.

        The draws of a sample are fixed by the seed, its prompt and its number, so that neither
        batches nor the other prompts have a part in it, but for rounding in the logits.
        """
        require_known(prompts, num_known(self._model))
        numbers = range(first, self._config.n)
        requests = [(i, k) for i in range(len(prompts)) for k in numbers]
        requests.sort(key=lambda request: -len(prompts[request[0]]))
        found: dict[tuple[int, int], Sample] = {}
        while requests:
            longest = len(prompts[requests[0][0]])
            batch = requests[: self._most_at_once(longest)]
            if self._mixed is not None and longest + self._config.max_new_tokens > self._mixed:
                batch = [request for request in batch if len(prompts[request[0]]) == longest]
            requests = requests[len(batch) :]
            draws = np.stack([self._draws(prompts[i], k) for i, k in batch])
            samples = self._batch([prompts[i] for i, _ in batch], draws)
            found.update(zip(batch, samples, strict=True))
        return [[found[i, k] for k in numbers] for i in range(len(prompts))]

    def _most_at_once(self, longest: int) -> int:
        """How many samples go together after prompts of at most so many tokens."""
        in_budget = token_budget(self._config) // (longest + self._config.max_new_tokens)
        return max(1, min(in_budget, self._rows_at_once))

    def _draws(self, prompt: TokenIds, number: int) -> npt.NDArray[np.float64]:
        """[T, R] uniform draws, R for each token to come."""
        entropy = (self._config.seed, number, *prompt.tolist())
        return np.random.default_rng(entropy).random((self._config.max_new_tokens, self._num_draws))

    def _batch(self, prompts: Sequence[TokenIds], draws: npt.NDArray[np.float64]) -> list[Sample]:
        inputs = _left_padded(prompts)
        mask = inputs["attention_mask"]
        cache = DynamicCache(config=self._model.config)
        whole = inputs["input_ids"]
        tokens: list[torch.Tensor] = []
        logprobs: list[torch.Tensor] = []
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=device())
        for here in torch.from_numpy(draws).to(device()).transpose(0, 1):
            output = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = output.logits[:, -1]  # [B, V] in float32
            if not torch.isfinite(logits.amax(-1)).all():
                raise ValueError("the model's logits are not finite")
            chosen = self._choose(logits, here)
            logprob = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            # what follows an end is drawn for the batch's sake and left out
            tokens.append(torch.where(ended, -1, chosen))
            logprobs.append(logprob.masked_fill(ended, 0.0))
            ended |= torch.isin(chosen, self._ends)
            if ended.all():
                break
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            whole = torch.cat([whole, chosen[:, None]], dim=1)
            if self._starts_over(whole.shape[1]):
                cache = DynamicCache(config=self._model.config)
                inputs = {"input_ids": whole, "attention_mask": mask, "position_ids": _places(mask)}
            else:
                last = mask.sum(1, keepdim=True) - 1
                inputs = {"input_ids": whole[:, -1:], "attention_mask": mask, "position_ids": last}
        rows = torch.stack(tokens, dim=1).tolist()
        sums = torch.stack(logprobs, dim=1).double().sum(1).tolist()
        return [
            Sample([token for token in row if token >= 0], total, is_ended)
            for row, total, is_ended in zip(rows, sums, ended.tolist(), strict=True)
        ]

    def _starts_over(self, length: int) -> bool:
        """Whether rotary embeddings change with that many tokens, of those before as well."""
        if self._mixed is None or length <= self._mixed:
            return False
        return self._is_dynamic or length == self._mixed + 1

    @torch.inference_mode()
    def _check(self) -> None:
        """Hold a few tokens after two prompts at once against the whole text of each."""
        model, name = self._model, f"{self._config.name}, a {type(self._model).__name__},"
        prompts = [some_tokens(model, size).cpu().numpy().astype(np.int32) for size in (5, 2)]
        try:
            samples = self._batch(prompts, np.full((2, 4, 1), 0.5))
            off = max(map(self._off, prompts, samples))
        except Exception as error:  # whatever the model's code may raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ConfigError(f"{name} cannot be sampled from here: {reason}") from None
        if not off <= (1e-3 if model.dtype == torch.float32 else 0.5):
            raise ConfigError(
                f"{name} is {off:.2g} nats off when it goes token by token; it is not causal, or "
                "keeps what it saw in a way that is not known here."
            )

    def _off(self, prompt: TokenIds, sample: Sample) -> float:
        """By how much a sample's log-prob is off that in a forward pass of everything."""
        ids = torch.tensor([*prompt.tolist(), *sample.token_ids], device=device())
        logits = self._model(input_ids=ids[None], use_cache=False).logits[0].float()
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
        return abs(sample.logprob - float(logprobs.gather(1, ids[len(prompt) :, None]).sum()))

    def _choose(self, logits: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """[B] tokens by inverting the cumulative probabilities, in order of ids, at draws [B, R].

        In order of likelihood, two tokens that are nearly as likely would swap their places by a
        rounding error, and with them the draws that choose them. `top_p` keeps the likeliest tokens
        up to the one with which their probability reaches it (Holtzman et al., arXiv 1904.09751):
        the first draw that falls on one of them decides, so that what rounding keeps or drops at
        the edge moves no other token; the last draw always falls there.
        """
        if self._config.temperature == 0:
            return logits.argmax(-1)
        below = logits.double() - logits.amax(-1, keepdim=True)
        probabilities = (below / self._config.temperature).softmax(-1)
        # stable, so that equal probabilities keep their order
        ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
        kept = ordered.cumsum(-1) - ordered < self._config.top_p
        inside = torch.zeros_like(kept).scatter(1, ids, kept)
        chosen = _inverted(torch.where(inside, probabilities, 0.0), draws[:, -1:])
        for column in reversed(range(draws.shape[1] - 1)):
            place = _inverted(probabilities, draws[:, column : column + 1])
            chosen = torch.where(inside.gather(1, place), place, chosen)
        return chosen[:, 0]


def _inverted(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """[B, 1] where the sums of weights [B, V] pass the draws [B, 1], as a share of all."""
    cumulative = weights.cumsum(-1)
    place = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).long().argmax(-1, keepdim=True)
    return torch.minimum(place, last)


def _left_padded(prompts: Sequence[TokenIds]) -> dict[str, Any]:
    width = max(len(ids) for ids in prompts)
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, seen, ids in zip(input_ids, mask, prompts, strict=True):
        row[width - len(ids) :] = torch.from_numpy(ids.astype(np.int64))
        seen[width - len(ids) :] = 1
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": _places(mask)}
    return {name: tensor.to(device()) for name, tensor in inputs.items()}


def _places(mask: torch.Tensor) -> torch.Tensor:
    """[B, T] positions; that of a padding token does not matter, because it is not seen."""
    return (mask.cumsum(1) - 1).clamp(min=0)
