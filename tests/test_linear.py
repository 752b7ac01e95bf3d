from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rm_cluster.config import ClassifierConfig
from rm_cluster.engines.linear import speed_up
from rm_cluster.engines.torch_engine import ClassifierEngine

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or not torch.backends.mkldnn.is_available(), reason="no oneDNN here"
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 24), (1, 130, 24), (3, 7, 24), (5, 24), (1, 0, 24)])
def test_a_layer_gives_what_it_gave(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 40, bias=bias)
    states = torch.randn(shape)
    with torch.inference_mode():
        before = layer(states)
        speed_up(layer)
        assert type(layer) is not torch.nn.Linear
        torch.testing.assert_close(layer(states), before, rtol=0, atol=2e-6)


def test_all_layers_of_a_model_are_reached(tiny_llama: Path) -> None:
    engine = ClassifierEngine(ClassifierConfig(model=str(tiny_llama)), "float32")
    layers = [m for m in engine._model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) > 14
    assert all(type(layer) is not torch.nn.Linear for layer in layers)
    assert np.isfinite(engine.rewards([np.arange(5, 45, dtype=np.int32)])).all()


def test_other_layers_are_left_alone() -> None:
    class Own(torch.nn.Linear):
        pass

    short, own = torch.nn.Linear(2, 2, dtype=torch.bfloat16), Own(2, 2)
    for layer in (short, own):
        speed_up(layer)
    assert type(short) is torch.nn.Linear
    assert type(own) is Own
