"""Provider auto and engines: they are wanted only where their runtime runs."""

from __future__ import annotations

from helpers.golden_bundle import golden_bundle
from smalti.bundle.reader import open_bundle
from smalti.loading import auto


def test_engines_are_not_wanted_where_their_runtime_does_not_run(stub, tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    bundle = open_bundle(golden_bundle(tmp_path / "bundle"))
    monkeypatch.setattr(auto, "installed_version", lambda runtime: "1.7.1")
    for capability, says in ((61, "TensorRT-RTX does not run on Stub"), (86, "there is no engine of the denoiser")):
        stub.machine(capability)
        found = stub.driver()
        monkeypatch.setattr(auto, "safe_driver", lambda found=found: (found, ""))
        assert auto.PRESENT["rtx"](bundle, "auto").startswith(says)
