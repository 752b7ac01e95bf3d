"""Measurements on vLLM, in the classes of `torch_engine`: continuous batches, cached prefixes.

Token ids go in, so that the template and its special tokens are ours. vLLM agrees with one text at
a time to rounding, not better: `parity.doctor` measures how well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from transformers import AutoConfig
from transformers.utils import cached_file

from rm_cluster.config import (
    ClassifierConfig,
    EmbeddingConfig,
    GeneratorConfig,
    LogprobConfig,
    PretrainedConfig,
)
from rm_cluster.engines.classifier import HEADS
from rm_cluster.engines.decoder import distinct
from rm_cluster.engines.packing import TokenIds
from rm_cluster.engines.sampling import Sample
from rm_cluster.engines.vllm_api import Continuation, Vllm
from rm_cluster.errors import ConfigError
from rm_cluster.rewards import head_weights

_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.01, 2.0
_LOGITS_IN_MEMORY = 2**27
"""So many logits at once, 512 MiB in float32: vLLM has those of all tokens of a step, some times
over, and does not reckon with them when it takes memory for its cache (vllm#5907)."""


class ClassifierEngine:
    """As `torch_engine.ClassifierEngine`, for heads of one output."""

    num_outputs = 1

    def __init__(
        self, config: ClassifierConfig, dtype: str, num_threads: int | None = None
    ) -> None:
        self._vllm = Vllm(config, dtype, "classify", num_threads)
        try:
            _check_head(config)
        except ConfigError:
            self.close()
            raise

    def rewards(self, token_ids: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return the reward of each text."""
        texts, index = distinct(token_ids)
        # neighbors begin alike, so that what they share is still cached
        order = sorted(range(len(texts)), key=lambda i: texts[i].tobytes())
        found = np.empty(len(texts))
        if order:
            found[order] = self._vllm.classify([texts[i] for i in order])
        return found[index]

    def objectives(self, token_ids: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return [n, 1] outputs of the head, of which the one is the reward."""
        return self.rewards(token_ids)[:, None]

    def close(self) -> None:
        """Take the model out of memory."""
        self._vllm.close()


class LogprobEngine:
    """As `torch_engine.LogprobEngine`.

    A prompt is computed again for each of its completions: vLLM does not read its cache where it is
    asked for the log-probs of a prompt.
    """

    def __init__(self, config: LogprobConfig, dtype: str, num_threads: int | None = None) -> None:
        hf = _language_model_config(config)
        tokens = min(8192, max(128, _LOGITS_IN_MEMORY // hf.get_text_config().vocab_size))
        self._vllm = Vllm(config, dtype, "generate", num_threads, tokens)

    def logprobs(
        self, token_ids: Sequence[TokenIds], num_prompt: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Return the sum of the log-probs of each text's tokens after its prompt, in nats."""
        texts, index = distinct(token_ids)
        self._vllm.require_known(texts)  # the last ones, too, which are no part of what is asked
        # the last token is drawn, because a text as long as the model's limit leaves no room for
        # one more; a text of one token has nothing to sum
        asked = [i for i, text in enumerate(texts) if len(text) > 1]
        drawn = self._vllm.generate(
            [texts[i][:-1] for i in asked],
            [
                Continuation(max_tokens=1, only=int(texts[i][-1]), prompt_logprobs=True)
                for i in asked
            ],
        )
        tokens = [np.empty(0)] * len(texts)
        for i, one in zip(asked, drawn, strict=True):
            tokens[i] = np.concatenate([one.prompt_logprobs, one.logprobs])
        return np.array([tokens[i][n - 1 :].sum() for i, n in zip(index, num_prompt, strict=True)])

    def close(self) -> None:
        """Take the model out of memory."""
        self._vllm.close()


class EmbeddingEngine:
    """As `torch_engine.EmbeddingEngine`."""

    def __init__(self, config: EmbeddingConfig, dtype: str, num_threads: int | None = None) -> None:
        self._vllm = Vllm(config, dtype, "embed", num_threads)

    def embeddings(self, token_ids: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """Return [n, d] means of the last hidden states over each text's tokens, to length 1."""
        texts, index = distinct(token_ids)
        return self._vllm.embed(texts)[index]


class SamplingEngine:
    """As `sampling.SamplingEngine`, with other draws.

    A sample is fixed by the seed, its prompt and its number; where two tokens are nearly as likely,
    rounding can let it depend on what else is in the batch.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        dtype: str,
        ends: Sequence[int],
        num_threads: int | None = None,
    ) -> None:
        self._config = config
        self._ends = list(ends)
        if 0 < config.temperature < _LEAST_TEMPERATURE:
            raise ConfigError(
                f"{config.name}: vLLM samples at {_LEAST_TEMPERATURE} where temperature is "
                f"{config.temperature:g}; set it to 0, or engine: torch."
            )
        if config.temperature > _MOST_TEMPERATURE:
            raise ConfigError(
                f"{config.name}: vLLM takes a temperature of {_MOST_TEMPERATURE:g} at most, got "
                f"{config.temperature:g}; lower it, or set engine: torch."
            )
        _language_model_config(config)
        self._vllm = Vllm(config, dtype, "generate", num_threads, draws=config.temperature > 0)

    def sample(self, prompts: Sequence[TokenIds], first: int = 0) -> list[list[Sample]]:
        """Draw samples number `first` to `config.n` - 1 after each prompt."""
        config = self._config
        num_drawn = config.n - first
        requests = [(prompt, k) for prompt in prompts for k in range(first, config.n)]
        drawn = self._vllm.generate(
            [prompt for prompt, _ in requests],
            [
                Continuation(
                    config.max_new_tokens,
                    config.temperature,
                    config.top_p,
                    _seed(config.seed, number, prompt),
                    self._ends,
                )
                for prompt, number in requests
            ],
        )
        samples = [Sample(one.token_ids, float(one.logprobs.sum()), one.ended) for one in drawn]
        return [samples[i * num_drawn : (i + 1) * num_drawn] for i in range(len(prompts))]


def _language_model_config(config: PretrainedConfig) -> Any:
    """The Hugging Face config of what is not a classifier, whose lm_head vLLM would make up.

    Raises:
        ConfigError: It is one.
    """
    hf = AutoConfig.from_pretrained(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    kinds = hf.architectures or []
    if any("SequenceClassification" in kind for kind in kinds):
        raise ConfigError(
            f"Cannot load {config.name!r} as a causal language model: it is a {kinds[0]}, whose "
            "weights lack an lm_head."
        )
    return hf


def _seed(seed: int, number: int, prompt: TokenIds) -> int:
    entropy = np.random.SeedSequence((seed, number, *prompt.tolist()))
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _check_head(config: ClassifierConfig) -> None:
    """Look after the head in the checkpoint, which is here now and which vLLM takes as it comes.

    Raises:
        ConfigError: It is not there, or its one output is not the reward.
    """
    shapes = _shapes_of_weights(config)
    if "score.bias" in shapes:
        raise ConfigError(
            f"{config.name} has a head with a bias, which vLLM drops; take engine: torch."
        )
    if not any(part in HEADS for name in shapes for part in name.split(".")):
        raise ConfigError(
            f"{config.name} lacks the weights of a head called {' or '.join(HEADS)}; they "
            "would be random. Is it a sequence classifier with a trained head?"
        )
    outputs = shapes["score.weight"][0] if "score.weight" in shapes else 1
    if head_weights(config.head_weights, outputs, config.name).tolist() != [1.0]:
        raise ConfigError(
            f"{config.name} has a head of {outputs} outputs, or head_weights; engine: vllm takes "
            "one output as it is. Set engine: torch."
        )


def _shapes_of_weights(config: PretrainedConfig) -> dict[str, list[int]]:
    """What a checkpoint holds."""
    file = cached_file(config.model, "config.json", revision=config.revision)
    shapes: dict[str, list[int]] = {}
    for weights_file in Path(str(file)).parent.glob("*.safetensors"):
        with safe_open(weights_file, framework="np") as weights:
            shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return shapes
