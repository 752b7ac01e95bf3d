"""A model in vLLM: started, asked and ended; with `vllm_arguments` all that is vLLM's own.

The model runs in this process, so that nothing outlives it and requests are batched in the same way
each time. Set VLLM_ENABLE_V1_MULTIPROCESSING=1 for vLLM's own choice, a process for the engine.
An architecture that vLLM knows through transformers alone cannot be built by transformers any more
in the same process.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rm_cluster.config import PretrainedConfig
from rm_cluster.engines.packing import TokenIds
from rm_cluster.engines.vllm_arguments import Task, configure, engine_arguments, version
from rm_cluster.errors import ConfigError

_CPU_KV_CACHE = 2**30
"""Bytes of cache on a CPU, where vLLM would ask for nearly all of the machine's memory."""

_in_memory: Vllm | None = None
_lock = threading.RLock()
"""Of several callers one is answered at a time: they would share the model, or end it."""


class Continuation(NamedTuple):
    """What to draw after a prompt."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    ends: Sequence[int] = ()
    """Token ids after which to stop."""
    only: int | None = None
    """The one token that may be drawn, if only its probability is asked for."""
    prompt_logprobs: bool = False


class Drawn(NamedTuple):
    """What was drawn, with log-probs in nats under the model itself."""

    token_ids: list[int]
    logprobs: npt.NDArray[np.float64]
    ended: bool
    prompt_logprobs: npt.NDArray[np.float64]
    """Of the second token of the prompt and all later ones, where asked for."""


class Vllm:
    """A model in vLLM, one at a time in a process: they would share its process groups.

    Asking another one ends the one that is in memory, which starts again when it is asked.

    Args:
        config: Which model, and how.
        dtype: Of the weights; heads and logits are float32.
        task: What is asked of it.
        num_threads: On a CPU; torch's own choice if None.
        tokens_per_step: At most so many in one forward pass, where the config does not say;
            vLLM's own choice if None.
        draws: Whether random numbers are drawn.

    Raises:
        ConfigError: vLLM cannot start it, or cannot run it.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        dtype: str,
        task: Task,
        num_threads: int | None,
        tokens_per_step: int | None = None,
        *,
        draws: bool = False,
    ) -> None:
        self._config = config
        self._task = task
        self._num_threads = num_threads
        self._draws = draws
        self._arguments = engine_arguments(config, dtype, task, tokens_per_step)
        self._llm: Any = None
        self._num_tokens = 0
        try:
            self._try()
        except Exception as error:  # whatever vLLM and the model's code may raise
            self.close()
            reason = " ".join(str(error).split()) or type(error).__name__
            # what follows are hundreds of names
            reason = re.split(" The available parameters| Supported architectures", reason)[0][:400]
            raise ConfigError(
                f"vLLM {version()} cannot run {config.name!r}: {reason}\nIts max_model_len is "
                "max_length here, its max_num_batched_tokens is tokens_per_batch; other arguments "
                "go into engine_args. engine: torch runs it too."
            ) from None

    def classify(self, texts: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """[n] logits of models with one label, without a sigmoid."""
        from vllm import PoolingParams

        # by default a single label would come through a sigmoid, and a reward of 20 as 1.0
        raw = PoolingParams(use_activation=False)
        found = self._ask("classify", texts, pooling_params=raw)
        return np.array([output.outputs.probs[0] for output in found], dtype=np.float64)

    def embed(self, texts: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        """[n, d] means over tokens, to length 1."""
        found = self._ask("embed", texts)
        return np.array([output.outputs.embedding for output in found], dtype=np.float64)

    def generate(
        self, prompts: Sequence[TokenIds], continuations: Sequence[Continuation]
    ) -> list[Drawn]:
        """Draw after each prompt."""
        parameters = [_sampling_params(continuation) for continuation in continuations]
        found = self._ask("generate", prompts, parameters)
        return [_drawn(output, ids) for output, ids in zip(found, prompts, strict=True)]

    def require_known(self, texts: Sequence[TokenIds]) -> None:
        """Refuse token ids beyond the model's, for which vLLM would compute something.

        Raises:
            ValueError: There are some; its text says which.
        """
        from rm_cluster.engines.decoder import require_known

        require_known(texts, self._num_tokens)

    def _ask(self, what: str, texts: Sequence[TokenIds], *arguments: Any, **options: Any) -> Any:
        with _lock:
            llm = self._ready()
            self.require_known(texts)
            try:
                return getattr(llm, what)(_prompts(texts), *arguments, use_tqdm=False, **options)
            except Exception:
                if llm.llm_engine.has_unfinished_requests():
                    # after an error in a step vLLM would go on with them for ever; it starts afresh
                    self.close()
                raise

    def close(self) -> None:
        """Take it out of memory."""
        global _in_memory
        with _lock:
            if self._llm is not None:
                self._llm.llm_engine.engine_core.shutdown()
                self._llm = None
            if _in_memory is self:
                _in_memory = None

    def _ready(self) -> Any:
        """The model, in memory and with its threads."""
        global _in_memory
        import torch

        if self._num_threads is not None:
            # of this thread, which need not be the one that the model was loaded in
            torch.set_num_threads(self._num_threads)
        if self._llm is None:
            if _in_memory is not None:
                _in_memory.close()
            self._llm = _start(self._arguments, self._draws)
            self._num_tokens = self._llm.llm_engine.model_config.get_vocab_size()
            _in_memory = self
        return self._llm

    def _try(self) -> None:
        """Run one token: what a backend lacks shows here and not in a row."""
        token = [np.zeros(1, dtype=np.int32)]
        match self._task:
            case "classify":
                self.classify(token)
            case "embed":
                self.embed(token)
            case "generate":
                self.generate(token, [Continuation(max_tokens=1)])


def free() -> None:
    """Take whatever model is in memory out of it."""
    with _lock:
        if _in_memory is not None:
            _in_memory.close()


def _start(arguments: dict[str, Any], draws: bool) -> Any:
    configure()
    import torch
    from vllm import LLM
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        cache: dict[str, Any] = {"kv_cache_memory_bytes": _CPU_KV_CACHE}
        if os.environ.get("VLLM_CPU_KVCACHE_SPACE") or "gpu_memory_utilization" in arguments:
            cache = {}
        # compiling takes a minute and a compiler; blocks of 128, vLLM's own choice here, cache the
        # beginnings that short texts share too coarsely
        ours: dict[str, Any] = {"enforce_eager": True, "block_size": 32, **cache}
        if draws:
            # of a prompt in parts it would wind generators back, which those of CPUs do not know
            ours["enable_chunked_prefill"] = False
            # a step must then hold the longest prompt, so its tokens are vLLM's to choose
            arguments = {k: v for k, v in arguments.items() if k != "max_num_batched_tokens"}
        arguments = ours | arguments
    set_num_threads = torch.set_num_threads
    try:
        with warnings.catch_warnings(action="ignore"):  # of what vLLM uses of torch
            return LLM(**arguments)
    finally:
        # on a CPU vLLM replaces it by one that does nothing
        torch.set_num_threads = set_num_threads


def _prompts(texts: Sequence[TokenIds]) -> list[Any]:
    from vllm import TokensPrompt

    return [TokensPrompt(prompt_token_ids=ids.tolist()) for ids in texts]


def _sampling_params(continuation: Continuation) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=continuation.max_tokens,
        temperature=continuation.temperature,
        top_p=continuation.top_p,
        seed=continuation.seed,
        stop_token_ids=list(continuation.ends),
        ignore_eos=True,  # `ends` says it all
        allowed_token_ids=None if continuation.only is None else [continuation.only],
        logprobs=0,  # of what is drawn, and of nothing else
        prompt_logprobs=0 if continuation.prompt_logprobs else None,
        detokenize=False,
    )


def _drawn(output: Any, prompt: TokenIds) -> Drawn:
    (drawn,) = output.outputs
    token_ids = list(drawn.token_ids)
    entries = zip(drawn.logprobs, token_ids, strict=True)
    # the first token of a prompt follows nothing and has no entry
    seen = zip((output.prompt_logprobs or [])[1:], prompt[1:].tolist(), strict=False)
    return Drawn(
        token_ids,
        np.array([entry[token].logprob for entry, token in entries], dtype=np.float64),
        drawn.finish_reason == "stop",
        np.array([entry[token].logprob for entry, token in seen], dtype=np.float64),
    )
