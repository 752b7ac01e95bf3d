"""Weights into memory: those of a checkpoint, or extrapolated from two."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from rm_cluster.config import ExtrapolationConfig, PretrainedConfig
from rm_cluster.engines.device import device
from rm_cluster.engines.heads import NATIVE
from rm_cluster.engines.linear import speed_up
from rm_cluster.errors import ConfigError

logger = logging.getLogger(__name__)

Mend = Callable[[Any, PretrainedConfig, Sequence[str]], bool]


def load_pretrained(
    loader: Any, config: PretrainedConfig, dtype: str, what: str, mend: Mend | None = None
) -> Any:
    """Load a model for inference.

    Args:
        loader: An Auto class of transformers.
        config: Which, and how.
        dtype: Of the weights.
        what: The model is to be, for messages, such as "a sequence classifier".
        mend: Given the model and the weights that it lacks, whether it found them elsewhere.

    Raises:
        ConfigError: It cannot be loaded, weights are missing, such as those of a head, or it cannot
            be extrapolated.
    """
    if dtype != "float32" and device().type == "cpu" and not _has_short_floats():
        logger.warning(
            "%s: this CPU computes %s in software; dtype: float32 is several times as fast.",
            config.name,
            dtype,
        )
    model = _load(loader, config, dtype, what, mend)
    if config.extrapolate is not None:
        changed = {"model": config.extrapolate.base, "revision": config.extrapolate.revision}
        base = _load(loader, config.model_copy(update=changed), dtype, what, mend)
        _extrapolate(model, base, config.name, config.extrapolate)
    _keep_soft_caps(model, config)
    speed_up(model)
    _forget_lengths(model)
    _keep_sparse(model)
    return model.to(device()).eval()


def _load(loader: Any, config: PretrainedConfig, dtype: str, what: str, mend: Mend | None) -> Any:
    # what does not fit is missing, and may be mended as what is not there
    options: dict[str, Any] = {"ignore_mismatched_sizes": mend is not None}
    if config.attn_implementation is not None:
        options["attn_implementation"] = config.attn_implementation
    try:
        with _report_held_back():
            model, info = loader.from_pretrained(
                config.model,
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # safetensors, transformers and the hub each raise their own
        reason = " ".join(str(error).split())[:300]
        if "get_current_vllm_config" in reason:
            reason = (
                "vLLM, which ran it in this process, has taken over its classes. Take a process of "
                "its own for engine: torch"
            )
        raise ConfigError(f"Cannot load {config.name!r} as {what}: {reason}") from None
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if hasattr(model, NATIVE) and f"{NATIVE}.bias" in info["unexpected_keys"]:
        # transformers builds the head without, and would drop it
        missing = sorted({*missing, f"{NATIVE}.weight"})
    if missing and not (mend and mend(model, config, missing)):
        raise ConfigError(
            f"{config.name} lacks {len(missing)} weights, such as {missing[0]!r}; they would be "
            f"random. Is it {what} with a trained head?"
        )
    return model


@contextlib.contextmanager
def _report_held_back() -> Iterator[None]:
    """Keep transformers from advising to train a head that is found elsewhere, or told below.

    Where loading fails the report is given, because the error refers to it.
    """
    reporter, held = logging.getLogger("transformers.modeling_utils"), []

    def hold(record: logging.LogRecord) -> bool:
        if is_report := "LOAD REPORT" in record.getMessage():
            held.append(record)
        return not is_report

    reporter.addFilter(hold)
    try:
        yield
    except Exception:
        reporter.removeFilter(hold)
        for record in held:
            reporter.handle(record)
        raise
    finally:
        reporter.removeFilter(hold)


def _keep_soft_caps(model: Any, config: PretrainedConfig) -> None:
    """Use an attention that caps scores where the model does (Gemma 2), which torch's own drops."""
    if not getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        return
    if config.attn_implementation is None:
        model.set_attn_implementation("eager")
    elif config.attn_implementation == "sdpa":
        logger.warning(
            "%s caps its attention scores, and attn_implementation: sdpa does not; eager does.",
            config.name,
        )


def _forget_lengths(model: Any) -> None:
    """Let dynamic rotary embeddings depend on a batch's own length, not on longer ones before."""

    def forget(module: torch.nn.Module, _: Any) -> None:
        for name in vars(module):
            if name.endswith("max_seq_len_cached"):
                setattr(module, name, 0)

    for module in model.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")):
            module.register_forward_pre_hook(forget)


def _keep_sparse(model: Any) -> None:
    """Let BigBird attend as it is configured, after short texts, too, at which it switches over."""
    bodies = (module for module in model.modules() if hasattr(module, "set_attention_type"))
    body = next(bodies, None)  # it tells its layers
    if body is not None:
        kind = body.attention_type
        body.register_forward_pre_hook(lambda *_: body.set_attention_type(kind))


def _has_short_floats() -> bool:
    """Whether matrix products of 16-bit numbers have instructions of their own on this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.no_grad()
def _extrapolate(model: Any, base: Any, name: str, extrapolate: ExtrapolationConfig) -> None:
    """Move every weight of `model` away from `base`, in float32; tied weights are one weight."""
    weights, others = (dict(m.named_parameters()) for m in (model, base))
    for key in sorted(weights.keys() ^ others.keys()):
        where = "its base" if key in weights else "the model"
        raise ConfigError(
            f"{name}: {where} has no {key!r}; extrapolation is between checkpoints of one model."
        )
    for key, weight in weights.items():
        if weight.shape != others[key].shape:
            raise ConfigError(
                f"{name}: {key!r} has the shape {tuple(weight.shape)} and "
                f"{tuple(others[key].shape)} in its base; extrapolation is between checkpoints of "
                "one model."
            )
        step = weight.float() - others[key].float()
        weight.copy_(weight.float() + extrapolate.alpha * step)
