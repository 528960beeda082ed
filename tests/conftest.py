"""A tiny pair of models, trained for a few steps by the real commands, and its bundle; made once per test session."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from helpers.skips import SkipGuard
from helpers.stub_driver import Stub, build_stub

with contextlib.suppress(ValueError):
    # A shell's job in the background has it ignored, and so would all that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(100_000, 50, 50)  # tracing makes millions of objects that stay: a tenth of its time is looking at them
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other's cores are busy waiting
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


LONG = (
    "test_export",  # makes the tiny bundle, without which most others cannot begin
    "test_two_processes",
    "test_two_nodes",
    "test_cluster",
    "test_studio_painting",
    "test_studio_page",
    "test_sundae_export",
    "test_multinomial_export",
    "test_imported",
    "test_train_sundae",
    "test_resume",
    "test_evaluate",
    "test_published_graphs",
)
"""Files that take a minute or more, in the order in which they begin: none of them is to be the last one running."""


def pytest_configure(config: pytest.Config) -> None:
    """Where SMALTI_SKIPS names a list, let a skipped test that it does not allow fail the session."""
    if (listed := os.environ.get("SMALTI_SKIPS")) and not hasattr(config, "workerinput"):  # workers report to the rest
        config.pluginmanager.register(SkipGuard(Path(listed)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first; the others keep their order."""
    place = {name: index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep every cache of the tests (and of the commands they start) inside the test session's own folder."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["SMALTI_CACHE_DIR"] = str(path)
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder that the first worker to ask for it makes, and the other workers wait for."""
    base = tmp_path_factory.getbasetemp()
    shared = base if WORKERS == 1 else base.parent

    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(f"{folder}.lock"):
            if not (done := folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def tiny_runs(made_once: Callable[..., Path], cache_dir: Path) -> tuple[Path, Path]:
    """Folders of an autoencoder's and a prior's run, preset "tiny", trained long enough to be no longer random."""
    from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
    from smalti_train.trainers.autoencoder import train_autoencoder
    from smalti_train.trainers.prior import train_prior

    def short(config):
        data = dataclasses.replace(config.data, train_count=64, validation_count=64)
        loop = dataclasses.replace(config.loop, steps=20, precision="fp32")
        return dataclasses.replace(config, data=data, loop=loop)

    def make(folder: Path) -> None:
        train_autoencoder(short(AUTOENCODERS["tiny"]), folder / "autoencoder")
        train_prior(short(PRIORS["tiny"]), folder / "prior", folder / "autoencoder")

    folder = made_once("tiny_runs", make)
    return folder / "autoencoder", folder / "prior"


@pytest.fixture(scope="session")
def tiny_preview(made_once: Callable[..., Path], tiny_runs: tuple[Path, Path]) -> Path:
    """Folder of the run of a preview decoder of the tiny autoencoder."""
    from smalti_train.runs.loading import load_autoencoder
    from smalti_train.trainers.preview import preview_run, train_preview

    def make(folder: Path) -> None:
        config = preview_run(*load_autoencoder(tiny_runs[0]))
        loop = dataclasses.replace(config.loop, steps=40, batch=8, precision="fp32")
        train_preview(dataclasses.replace(config, loop=loop), folder / "run", tiny_runs[0])

    return made_once("tiny_preview", make) / "run"


@pytest.fixture(scope="session")
def tiny_bundle(made_once: Callable[..., Path], tiny_runs: tuple[Path, Path], tiny_preview: Path) -> Path:
    """The folder of a real bundle: 64x64 pixels, 4x4 tokens, 64 codes, eight labels, a preview, all precisions."""
    from smalti.bundle.manifest import SamplerDefaults
    from smalti_export.export import export_bundle

    def make(folder: Path) -> None:
        defaults = SamplerDefaults(steps=8, temperature=1.0)
        options = {"defaults": defaults, "preview_from": tiny_preview}
        assert not export_bundle(tiny_runs[1], folder / "tiny", name="tiny", **options)

    return made_once("tiny_bundle", make) / "tiny"


@pytest.fixture(scope="session")
def tiny_heads(made_once: Callable[..., Path], tiny_runs: tuple[Path, Path]) -> Path:
    """Folder of the run of heads for 128 and 256 pixels on the tiny autoencoder."""
    from smalti_train.presets.catalogue import HEADS
    from smalti_train.runs.config import LoopConfig
    from smalti_train.trainers.heads import train_heads

    def make(folder: Path) -> None:
        config = HEADS["tiny"]
        data = dataclasses.replace(config.data, train_count=16, validation_count=16)
        loop = LoopConfig(steps=30, batch=4, precision="fp32", evaluate_every=30, sheet_every=30, checkpoint_every=15)
        train_heads(dataclasses.replace(config, data=data, loop=loop), folder / "run", tiny_runs[0])

    return made_once("tiny_heads", make) / "run"


@pytest.fixture(scope="session")
def sized_bundle(made_once: Callable[..., Path], tiny_runs: tuple[Path, Path], tiny_heads: Path) -> Path:
    """The folder of a bundle like ``tiny_bundle``, but without preview, with pictures of 64, 128 and 256 pixels."""
    from smalti.bundle.manifest import SamplerDefaults
    from smalti_export.export import export_bundle

    def make(folder: Path) -> None:
        defaults = SamplerDefaults(steps=8, temperature=1.0)
        assert not export_bundle(
            tiny_runs[1], folder / "sized", name="sized", defaults=defaults, decoder_from=tiny_heads
        )

    return made_once("sized_bundle", make) / "sized"


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    return build_stub(tmp_path_factory.mktemp("stub"))


@pytest.fixture
def stub(stub_library: Stub) -> Stub:
    stub_library.reset()
    return stub_library
