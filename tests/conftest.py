from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat_server import KEY, KEY_VARIABLE

# a hub is never asked in tests, and a local cluster needs no token
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# before torch: threads that wait for each other must not keep the cores busy, which other tests and
# Ray's processes need; with two tests at a time on two cores most of the time would go there
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# before Ray starts, so that its workers have it
os.environ[KEY_VARIABLE] = KEY

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real preference data beside the project, where there is any."""
    if not SHARED.is_dir():
        pytest.skip("no real preference data beside the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama reward model with a byte tokenizer and a chat template."""
    from tests.models import save_llama

    return save_llama(tmp_path_factory.mktemp("models") / "tiny-llama", seed=0)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One local Ray cluster for the whole test run."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=500_000_000,
        include_dashboard=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()
