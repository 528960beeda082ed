"""The seam between what is drawn and what computes it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

import smalti
import smalti_kernels
from smalti import NullBackend, UsageError
from smalti.backends.null import _NullSession
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.backends.signatures import mismatches
from smalti.bundle.manifest import PRIOR_ROLES
from smalti.families.registry import FAMILIES


class Counting(OnnxRuntimeCpu):
    """The real one, which notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(1)
        self.opened: list[str] = []
        self.draws = 0

    def open(self, bundle, role, precision):
        self.opened.append(role)
        return super().open(bundle, role, precision)

    def sample(self, *arguments: Any, **named: Any) -> smalti_kernels.Draw:
        self.draws += 1
        return super().sample(*arguments, **named)


def test_everything_a_generator_computes_goes_through_its_backend(tiny_bundle, gen):
    backend = Counting()
    mine = smalti.load(tiny_bundle, backend=backend)
    result = mine.generate(2, 7, steps=4)
    assert np.array_equal(result.tokens, gen.generate(2, 7, steps=4).tokens)
    assert backend.draws == result.timings.calls == 4
    mine.embed(result.images)
    assert backend.opened == ["denoiser", "decoder", "encoder"]
    assert (mine.report.actual, mine.report.why.split(";")[0]) == ("cpu", "the backend was given")


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_the_draw_is_the_backends_in_every_order(tiny_bundle, order):
    backend = Counting()
    result = smalti.load(tiny_bundle, backend=backend).generate(2, 7, order=order, steps=3)
    assert backend.draws == result.timings.calls > 0


def test_a_backend_brings_provider_and_threads(tiny_bundle):
    for options in ({"provider": "cpu"}, {"threads": 2}):
        with pytest.raises(UsageError, match="brings its own"):
            smalti.load(tiny_bundle, backend=NullBackend(), **options)


def test_the_null_backend_needs_no_inference_library(tiny_bundle):
    code = """
import sys
sys.modules["onnxruntime"] = None
import smalti
gen = smalti.load(sys.argv[1], backend=smalti.NullBackend())
result = gen.generate(3, 7, label=gen.labels[0], steps=4)
assert len({image.tobytes() for image in result.images}) == 3
print(gen.report.actual, result.tokens.shape, result.images[0].size)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tiny_bundle)], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "null (3, 4, 4) (64, 64)", done.stderr


def test_with_the_null_backend_programs_see_what_they_see_with_a_model(tiny_bundle, gen):
    null = smalti.load(tiny_bundle, backend=NullBackend())
    result, again = (null.generate(4, 7, steps=5) for _ in range(2))
    assert np.array_equal(result.tokens, again.tokens)
    assert [image.tobytes() for image in result.images] == [image.tobytes() for image in again.images]
    assert result.tokens.max() < null.manifest.latent.codes
    assert len(np.unique(result.tokens)) > 16
    real = gen.generate(4, 7, steps=5)
    assert result.settings == real.settings
    assert result.timings.calls == real.timings.calls
    assert np.array_equal(null.encode(result.images), result.tokens)
    features = null.embed(result.images)
    assert features.shape == gen.embed(real.images).shape
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    *_, last = null.stream(2, 7, steps=3)
    assert last.preview()[0].size == (64, 64)
    mask = np.zeros((64, 64), bool)
    mask[:, 32:] = True
    painted = np.asarray(null.inpaint(result.images[0], mask).images[0])
    assert np.array_equal(painted[:, :32], np.asarray(result.images[0])[:, :32])
    with pytest.raises(UsageError, match="steps 0"):
        null.generate(steps=0)
    with pytest.raises(UsageError, match="multiples of 16"):
        null.encode([Image.new("RGB", (65, 64))])


@pytest.mark.parametrize("precision", ["fp32"])
def test_its_sessions_declare_and_give_what_the_manifest_says(tiny_bundle, precision):
    bundle = smalti.open_bundle(tiny_bundle)
    for role in bundle.manifest.components:
        session = NullBackend().open(bundle, role, precision)
        assert isinstance(session, _NullSession)
        assert not mismatches(bundle, role, precision, session.inputs, session.outputs)


def test_families_ask_the_component_that_a_manifest_needs():
    assert {name: family.role for name, family in FAMILIES.items()} == PRIOR_ROLES
