"""A pretrained model without its weights: its config, tokenizer and fingerprint."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rm_cluster.config import ExtrapolationConfig, JudgeConfig, PretrainedConfig
from rm_cluster.engines.packing import is_packed
from rm_cluster.engines.vllm_arguments import check_config
from rm_cluster.errors import ConfigError

_WEIGHTS = ("*.safetensors",)
_DESCRIPTION = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken")
_COUNT_FROM_PAD = frozenset(
    (
        "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta",
        "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    )
)  # fmt: skip
"""Model types whose first position is the one after that of padding."""
_LARGE = 1_000_000_000  # transformers' stand-in for "no limit" is 1e30


C = TypeVar("C")


class Pretrained(NamedTuple):
    """What is known of a model before its weights are read."""

    config: PretrainedConfig
    hf: Any
    """Its Hugging Face config."""
    tokenizer: Any
    max_length: int | None
    dtype: str

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without `hf`: an encoder needs none, and its class costs seconds of imports."""
        return Pretrained, self._replace(hf=None)[:]

    def contract(self) -> dict[str, Any]:
        """What decides any measurement of the model; reads all the weights."""
        config = self.config
        tokenizer, extrapolate = config.tokenizer, config.extrapolate
        made = extrapolate and {
            "base": fingerprint(extrapolate.base, extrapolate.revision),
            "alpha": extrapolate.alpha,
        }
        vllm = {"engine_args": config.engine_args} if config.engine == "vllm" else {}
        return {
            "fingerprint": fingerprint(config.model, config.revision),
            "tokenizer": tokenizer and fingerprint(tokenizer, config.revision, weights=False),
            "dtype": self.dtype,
            "engine": config.engine,
            "attn_implementation": config.attn_implementation,
            **({"extrapolation": made} if made else {}),
            **vllm,
        }

    @property
    def batching(self) -> str:
        """How texts are put together in a forward pass, if the model is causal."""
        if self.config.engine == "vllm":
            return "continuous, prefixes cached"
        return "packed, prefixes shared" if is_packed(self.config, self.hf) else "padded"


def open_pretrained(config: PretrainedConfig) -> Pretrained:
    """Read everything but the weights.

    Raises:
        ConfigError: There is no such model or tokenizer, no safetensors weights, or an engine that
            is not installed or does not take its arguments.
    """
    if config.engine == "vllm":
        check_config(config)
    _refuse_adapter(config.model)
    hf = load_config(config.model, config.revision, trust_remote_code=config.trust_remote_code)
    tokenizer = load_tokenizer(
        config.tokenizer or config.model,
        config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    require_safetensors(config.model)
    if config.extrapolate is not None:
        _check_base(config, config.extrapolate, tokenizer)
    dtype = hf.dtype if config.dtype == "auto" else config.dtype
    return Pretrained(
        config,
        hf,
        tokenizer,
        config.max_length or length_limit(hf, tokenizer),
        str(dtype or "float32").removeprefix("torch."),
    )


def pinned(config: C) -> C:
    """Return a model's config with commits for revisions: every node then loads the same weights.

    A branch of the hub may move on before a replica starts. Local models stay as they are, and what
    is no pretrained model does.

    Raises:
        ConfigError: There is no such model.
    """
    if not isinstance(config, PretrainedConfig):
        return config
    if isinstance(config, JudgeConfig) and config.endpoint is not None:
        return config
    changed: dict[str, Any] = {}
    # the revision is that of a tokenizer elsewhere, too, where the commit would be unknown
    if config.tokenizer is None and not Path(config.model).is_dir():
        load_config(config.model, config.revision, trust_remote_code=config.trust_remote_code)
        changed["revision"] = _commit(config.model, config.revision)
    base = config.extrapolate
    if base is not None and not Path(base.base).is_dir():
        load_config(base.base, base.revision, trust_remote_code=config.trust_remote_code)
        commit = _commit(base.base, base.revision)
        changed["extrapolate"] = base.model_copy(update={"revision": commit})
    return config.model_copy(update=changed)


def _check_base(config: PretrainedConfig, extrapolate: ExtrapolationConfig, own: Any) -> None:
    """Refuse to extrapolate from a base that is there in other words or not at all."""
    require_safetensors(extrapolate.base)
    base = load_tokenizer(
        extrapolate.base, extrapolate.revision, trust_remote_code=config.trust_remote_code
    )
    if base.get_vocab() != own.get_vocab():
        raise ConfigError(
            f"{config.name}: the tokenizers of {config.model!r} ({len(own)} tokens) and of its "
            f"base {extrapolate.base!r} ({len(base)} tokens) differ; extrapolation is between "
            "checkpoints of one model."
        )


def load_tokenizer(name: str, revision: str, *, trust_remote_code: bool) -> Any:
    """Load a tokenizer.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, "tokenizer", name, revision, trust_remote_code)


def special_tokens(config: PretrainedConfig) -> list[str]:
    """The texts that a model's tokenizer reads as special tokens.

    Raises:
        ConfigError: There is no tokenizer.
    """
    tokenizer = load_tokenizer(
        config.tokenizer or config.model,
        config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    added = tokenizer.added_tokens_decoder.values()
    return sorted({*tokenizer.all_special_tokens, *(t.content for t in added if t.special)})


def load_config(name: str, revision: str, *, trust_remote_code: bool) -> Any:
    """Load a model's configuration.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    from transformers import AutoConfig

    return _load(AutoConfig, "model", name, revision, trust_remote_code)


def length_limit(config: Any, tokenizer: Any) -> int | None:
    """The smaller of what the model's positions and its tokenizer admit; None if neither says."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in _COUNT_FROM_PAD:
        positions -= config.pad_token_id + 1
    limits = [positions, tokenizer.model_max_length]
    return min((int(limit) for limit in limits if limit and 0 < limit < _LARGE), default=None)


def require_safetensors(name: str) -> None:
    """Refuse a local folder whose weights are in another format.

    Raises:
        ConfigError: There are no safetensors weights.
    """
    if Path(name).is_dir() and not _files(name, _WEIGHTS):
        raise ConfigError(
            f"No safetensors weights in {name!r}; other formats can run code when loaded. "
            "Save the model again with save_pretrained."
        )


def _refuse_adapter(name: str) -> None:
    """Refuse a local folder with a LoRA, without which another model would be measured."""
    if (Path(name) / "adapter_config.json").is_file():
        raise ConfigError(
            f"{name!r} holds an adapter (adapter_config.json), no model. Merge it with PEFT's "
            "merge_and_unload() and save the whole with save_pretrained."
        )


def fingerprint(name: str, revision: str, *, weights: bool = True) -> str:
    """Identify a model by content: a hash of a local folder's files, the commit on the hub.

    Reads all the weights, at the speed of the disk.
    """
    if not Path(name).is_dir():
        return f"{name}@{_commit(name, revision)}"
    files = _files(name, _DESCRIPTION + (_WEIGHTS if weights else ()))
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, files))
    listing = "\n".join(
        f"{file.name} {digest}" for file, digest in zip(files, digests, strict=True)
    )
    return hashlib.sha256(listing.encode()).hexdigest()[:32]


def _files(folder: str, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in Path(folder).glob(pattern)})


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _commit(name: str, revision: str) -> str:
    """The commit that a revision stands for, asked of the hub or its cache."""
    from transformers.utils import cached_file, extract_commit_hash

    file = cached_file(name, "config.json", revision=revision)
    return extract_commit_hash(str(file), None) or revision


def _load(loader: Any, what: str, name: str, revision: str, trust_remote_code: bool) -> Any:
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise ConfigError(f"Cannot load the {what} {name!r}: there is no such folder.")
    try:
        return loader.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the hub raise whatever they like here
        reason = " ".join(str(error).split())[:240]
        hint = "" if Path(name).is_dir() else " Is the path right, or the network there?"
        raise ConfigError(f"Cannot load the {what} {name!r}: {reason}{hint}") from None
