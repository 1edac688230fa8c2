"""Every test has a home of its own, no screen, no keyring and no network clients that phone a hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
os.environ["HF_HUB_OFFLINE"] = "1"
# Two test processes' worth of spinning threads would otherwise fight for the cores at each barrier.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, data and caches of this test, inherited by the children it starts."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("KDSTUDIO_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """Forget the device and precision of this test: accelerate keeps them for the life of a process, as a job does."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
