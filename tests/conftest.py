"""A tiny pair of models, trained for a few steps by the real commands, and its bundle; made once per test session."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep every cache of the tests (and of the commands they start) inside the test session's own folder."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["SMALTI_CACHE_DIR"] = str(path)
    return path


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> tuple[Path, Path]:
    """Folders of an autoencoder's and a prior's run, preset "tiny", trained long enough to be no longer random."""
    from smalti_train.presets import AUTOENCODERS, PRIORS
    from smalti_train.train_autoencoder import train_autoencoder
    from smalti_train.train_prior import train_prior

    def short(config):
        data = dataclasses.replace(config.data, train_count=64, validation_count=64)
        loop = dataclasses.replace(config.loop, steps=20, precision="fp32")
        return dataclasses.replace(config, data=data, loop=loop)

    folder = tmp_path_factory.mktemp("runs")
    train_autoencoder(short(AUTOENCODERS["tiny"]), folder / "autoencoder")
    train_prior(short(PRIORS["tiny"]), folder / "prior", folder / "autoencoder")
    return folder / "autoencoder", folder / "prior"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_runs: tuple[Path, Path]) -> Path:
    """The folder of a real bundle: 64x64 pixels, 4x4 tokens, 64 codes, eight labels, all precisions."""
    from smalti.manifest import SamplerDefaults
    from smalti_export.export import export_bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny"
    failures = export_bundle(tiny_runs[1], path, name="tiny", defaults=SamplerDefaults(steps=8, temperature=1.0))
    assert not failures
    return path
