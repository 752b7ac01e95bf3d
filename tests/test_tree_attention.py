from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from rm_cluster.config import ClassifierConfig
from rm_cluster.engines.packing import pack, tree_batches
from rm_cluster.engines.torch_engine import ClassifierEngine
from rm_cluster.engines.tree_attention import Tree, _along_paths, _flex, tree_attention

HEADS, KV_HEADS, DIM = 4, 2, 8
SCALING = 0.3


def example(seed: int, times: int = 1) -> tuple[Tree, list[np.ndarray], list[torch.Tensor]]:
    """Two prompts that begin alike, with five completions each, and random states."""
    rng = np.random.default_rng(seed)
    template = [1] * 20 * times
    prompts = [[*template, *[2 + k] * 30 * times] for k in range(2)]
    texts = [
        np.array([*prompt, *rng.integers(50, size=rng.integers(1, 40 * times))], dtype=np.int32)
        for prompt in prompts
        for _ in range(5)
    ]
    packing = pack([texts[i] for i in tree_batches(texts, 10**6)[0]])
    assert len(packing.segments) > 12  # the template, two prompts, and what they begin
    torch.manual_seed(seed)
    size = len(packing.token_ids)
    states = [torch.randn(1, heads, size, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return Tree(packing, torch.device("cpu")), packing.where, states


def alone(
    where: np.ndarray, states: list[torch.Tensor], window: int | None, softcap: float | None
) -> torch.Tensor:
    """[T, H, D] attention of one text, by its definition, in float64."""
    query, key, value = (x[0, :, where].double() for x in states)
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, 0) for x in (key, value))
    scores = query @ key.transpose(1, 2) * SCALING
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    for i in range(len(where)):
        scores[:, i, i + 1 :] = -math.inf
        if window is not None:
            scores[:, i, : max(0, i - window + 1)] = -math.inf
    return (scores.softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("at_once", [1, 5, 1024])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 7, 35, 1000])
def test_each_text_sees_itself_alone(
    window: int | None, softcap: float | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rm_cluster.engines.tree_attention._QUERIES_AT_ONCE", at_once)
    tree, where, states = example(seed=0)
    found, _ = tree_attention(
        torch.nn.Module(), *states, None,
        scaling=SCALING, tree=tree, sliding_window=window, softcap=softcap,
    )  # fmt: skip
    for places in where:
        expected = alone(places, states, window, softcap)
        torch.testing.assert_close(found[0, places].double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_long_texts_are_cut_without_a_trace(seed: int) -> None:
    tree, where, states = example(seed, times=13)
    pieces, pairs = tree.parts
    assert len(pieces) > len(tree.segments) + 10
    assert len(pairs) > len(tree.segments) + 5
    found, _ = tree_attention(torch.nn.Module(), *states, None, scaling=SCALING, tree=tree)
    for places in where:
        expected = alone(places, states, None, None)
        torch.testing.assert_close(found[0, places].double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("dtype", "room"), [(torch.float32, 2e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 7, 35])
def test_gpus_see_the_same(
    window: int | None, softcap: float | None, dtype: torch.dtype, room: float
) -> None:
    tree, where, states = example(seed=1)
    states = tuple(state.to(dtype) for state in states)
    # on a GPU it is compiled
    found = _flex(flex_attention, *states, tree, SCALING, window, softcap).transpose(1, 2)
    for places in where:
        expected = alone(places, states, window, softcap)
        torch.testing.assert_close(found[0, places].double(), expected, rtol=0, atol=room)


def test_all_ways_agree() -> None:
    tree, _, states = example(seed=1)
    merged, _ = tree_attention(torch.nn.Module(), *states, None, scaling=SCALING, tree=tree)
    along = _along_paths(*states, tree, SCALING, None, None).transpose(1, 2)
    torch.testing.assert_close(merged, along, rtol=0, atol=2e-6)


def test_the_last_layer_computes_only_what_is_asked_for(tiny_llama: Path) -> None:
    engine = ClassifierEngine(ClassifierConfig(model=str(tiny_llama)), "float32")
    rows: list[int] = []
    for layer in engine._model.model.layers:
        layer.mlp.gate_proj.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    engine.rewards([np.arange(5, 45, dtype=np.int32), np.arange(6, 36, dtype=np.int32)])
    # 40 and 30 tokens that begin differently, filled up to a multiple of 64; of the last of two
    # layers, one state of each text
    assert rows == [128, 2]
