"""Quantisers pick codes in full precision, whatever the network around them computes in."""

from __future__ import annotations

import pytest
import torch

from smalti_train.models.quantizer import CosineQuantizer
from smalti_train.models.quantizer_nearest import NearestQuantizer


@pytest.mark.parametrize("kind", [CosineQuantizer, NearestQuantizer])
def test_codes_are_the_same_under_autocast(kind):
    torch.manual_seed(0)
    quantizer = kind(1024, 32)
    z = torch.randn(4, 32, 16, 16)
    ids, quantized = quantizer.nearest(z), quantizer(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.nearest(z), ids)
        assert torch.equal(quantizer(z).ids, quantized.ids)
