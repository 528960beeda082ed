from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.importers.fitting import Published
from smalti_train.importers.taming_layout import taming_config, taming_layout
from smalti_train.importers.unleashing_layout import unleashing_config, unleashing_layout
from smalti_train.models.meta_init import unfilled
from smalti_train.models.quantizer import Quantized
from smalti_train.models.quantizer_gumbel import GumbelQuantized, GumbelQuantizer, gumbel_temperature
from smalti_train.models.quantizer_nearest import NearestQuantizer
from smalti_train.models.vqgan import (
    TAMING_F16,
    TAMING_GUMBEL_F8,
    UNLEASHING_256,
    VQGAN,
    VQGANConfig,
    attention_levels,
)

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4
SMALL = VQGANConfig(
    codes=8, code_dim=6, channels=32, multipliers=(1, 2), encoder_blocks=1, attention_levels=(1,), size=(8, 8)
)
GUMBEL = dataclasses.replace(SMALL, quantizer="gumbel", z_channels=5, last_activation=True, value_range=(-1.0, 1.0))


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz") as held:
        return {key: torch.from_numpy(held[key]) for key in held.files}


def listed(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint."""
    lines = (line.split("\t") for line in (FIXTURES / f"{name}.txt").read_text().splitlines())
    return {key: ast.literal_eval(shape) for key, shape, _ in lines}


def distance(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


def test_unleashing_gives_the_published_outputs() -> None:
    wanted = arrays("ut_vqgan_nearest_small")
    model = import_checkpoint(FIXTURES / "ut_vqgan_nearest_small.th", "unleashing-vqgan")
    assert isinstance(model, VQGAN)
    reconstruction, features, quantized = model(wanted["x"])
    assert isinstance(quantized, Quantized)
    assert distance(features, wanted["z_e"]) < TOLERANCE
    assert torch.equal(quantized.ids, wanted["ids"])
    assert distance(quantized.z_q, wanted["z_q"]) < TOLERANCE
    loss = 0.25 * quantized.codebook_loss + quantized.commitment_loss
    assert distance(loss, wanted["codebook_loss"]) < TOLERANCE
    assert distance(reconstruction, wanted["recon"]) < TOLERANCE
    ids = model.encode(wanted["x"])
    assert ids.dtype == torch.int64
    assert torch.equal(ids, wanted["ids"])
    assert distance(model.decode(ids), wanted["recon"]) < TOLERANCE
    mean, logsigma = model.probabilistic(ids)
    assert distance(mean, wanted["mu"]) < TOLERANCE
    assert distance(logsigma, wanted["logsigma"]) < TOLERANCE


def test_taming_gives_the_published_outputs() -> None:
    wanted = arrays("taming_vqmodel_small")
    model = import_checkpoint(FIXTURES / "taming_vqmodel_small.ckpt", "taming-vqgan")
    assert isinstance(model, VQGAN)
    assert distance(model.encoder(wanted["x"]), wanted["h"]) < TOLERANCE
    reconstruction, features, quantized = model(wanted["x"])
    assert distance(features, wanted["prequant"]) < TOLERANCE
    assert torch.equal(quantized.ids, wanted["ids"])
    assert distance(quantized.z_q, wanted["z_q"]) < TOLERANCE
    assert distance(reconstruction, wanted["recon"]) < TOLERANCE
    assert torch.equal(model.encode(wanted["x"]), wanted["ids"])
    assert distance(model.decode(wanted["rect_ids"]), wanted["rect_image"]) < TOLERANCE


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("taming_vqmodel_f16_1024", TAMING_F16),
        ("taming_gumbel_f8_8192", TAMING_GUMBEL_F8),
        (
            "sundae_ffhq1024_vqmodel_f32_8192",
            dataclasses.replace(
                TAMING_F16, codes=8192, multipliers=(1, 1, 2, 2, 4, 4), encoder_blocks=1, decoder_blocks=2
            ),
        ),
    ],
)
def test_full_size_names_and_shapes_of_taming(file: str, wanted: VQGANConfig) -> None:
    shapes = {name: shape for name, shape in listed(file).items() if not name.startswith("loss.")}
    found = taming_config(Published(shapes))
    assert dataclasses.replace(found, size=wanted.size) == wanted
    assert {name: slot.shape for name, slot in taming_layout(found).items()} == shapes


def test_full_size_names_and_shapes_of_unleashing() -> None:
    shapes = {name: shape for name, shape in listed("ut_vqgan_full").items() if name.startswith("ae.")}
    found = unleashing_config(Published(shapes, "ae."))
    assert dataclasses.replace(found, size=(256, 256)) == UNLEASHING_256
    layout = unleashing_layout(found, "ae.")
    assert {name: slot.shape for name, slot in layout.items()} == shapes
    with unfilled():
        ours = VQGAN(found).state_dict()
    named = [slot.name for slot in layout.values() if slot.name]
    assert sorted(named) == sorted(ours)
    assert all(tuple(ours[slot.name].shape) == slot.shape for slot in layout.values() if slot.name)


def test_attention_is_by_resolution_in_the_published_way() -> None:
    assert attention_levels(256, 5, (16,)) == (4,)
    assert attention_levels(1024, 6, (64, 1024)) == (0, 4)
    with pytest.raises(UsageError, match="no level has the side 24"):
        attention_levels(256, 5, (24,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 48}, "multiple of 32"),
        ({"codes": 0}, "at least 1"),
        ({"multipliers": ()}, "at least 1"),
        ({"attention_levels": (2,)}, r"0 \.\. 1"),
        ({"size": (8, 9)}, "multiple of the 2 pixels"),
        ({"value_range": (1.0, 0.0)}, "black to white"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(SMALL, **change)  # pyright: ignore[reportArgumentType]


def test_other_sizes_of_images() -> None:
    model = VQGAN(SMALL).eval()
    ids = model.encode(torch.rand(1, 3, 6, 10))
    assert ids.shape == (1, 3, 5)
    assert model.decode(ids).shape == (1, 3, 6, 10)
    with pytest.raises(UsageError, match="7x10 pixels"):
        model.encode(torch.rand(1, 3, 7, 10))
    with pytest.raises(UsageError, match="no probabilistic head"):
        model.probabilistic(ids)


def test_the_probabilistic_head_alone_learns_from_its_outputs() -> None:
    model = VQGAN(dataclasses.replace(SMALL, probabilistic=True))
    mean, logsigma = model.probabilistic(torch.zeros(1, 2, 2, dtype=torch.int64))
    (mean.sum() + logsigma.sum()).backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {f"decoder.logsigma.{index}.{kind}" for index in (0, 2) for kind in ("weight", "bias")}


def test_nearest_code_by_brute_force() -> None:
    torch.manual_seed(0)
    quantizer = NearestQuantizer(20, 4)
    z = torch.randn(2, 4, 3, 5) / 20
    by_hand = (z[:, None] - quantizer.embedding.weight[None, :, :, None, None]).square().sum(2).argmin(1)
    assert torch.equal(quantizer.nearest(z), by_hand)
    assert torch.equal(quantizer.lookup(by_hand)[0, :, 1, 2], quantizer.embedding.weight[by_hand[0, 1, 2]])


def test_each_loss_of_the_nearest_quantizer_pulls_its_own_side() -> None:
    quantizer = NearestQuantizer(5, 3)
    z = torch.randn(1, 3, 2, 2, requires_grad=True)
    quantized = quantizer(z)
    assert quantized.codebook_loss.item() == pytest.approx(quantized.commitment_loss.item())
    assert torch.autograd.grad(quantized.codebook_loss, z, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(quantized.commitment_loss, quantizer.embedding.weight, allow_unused=True) == (None,)
    (straight,) = torch.autograd.grad(quantized.z_q.sum(), z)
    assert torch.equal(straight, torch.ones_like(z))


def test_gumbel_in_evaluation_is_the_likeliest_code() -> None:
    torch.manual_seed(0)
    model = VQGAN(GUMBEL).eval()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    reconstruction, features, quantized = model(images)
    assert isinstance(model.quantize, GumbelQuantizer)
    logits = torch.einsum("bchw,kc->bkhw", features, model.quantize.proj.weight[:, :, 0, 0])
    wanted = (logits + model.quantize.proj.bias[:, None, None]).argmax(1)
    assert torch.equal(model.encode(images), wanted)
    assert torch.equal(quantized.ids, wanted)
    codes = model.quantize.embed.weight[wanted].permute(0, 3, 1, 2)
    assert model.post_quant_conv is not None
    torch.testing.assert_close(model.decode(wanted), model.decoder(model.post_quant_conv(codes)))
    torch.testing.assert_close(reconstruction, model.decode(wanted))
    assert torch.equal(model(images)[0], reconstruction)


def test_gumbel_draws_codes_by_their_probability() -> None:
    quantizer = GumbelQuantizer(4, 3, 2)
    wanted = torch.tensor([0.1, 0.2, 0.3, 0.4])
    with torch.no_grad():
        quantizer.proj.weight.zero_()
        quantizer.proj.bias.copy_(wanted.log())
    count = 100 * 100
    quantized = quantizer(torch.zeros(1, 2, 100, 100), 0.5, True, torch.Generator().manual_seed(1))
    seen = torch.bincount(quantized.ids.flatten(), minlength=4)
    chi_square = ((seen - count * wanted).square() / (count * wanted)).sum()
    assert chi_square < 16.3  # the 0.1 % point of three degrees of freedom
    torch.testing.assert_close(quantized.z_q, quantizer.lookup(quantized.ids), atol=1e-5, rtol=0)  # hard: one code each
    again = quantizer(torch.zeros(1, 2, 100, 100), 0.5, True, torch.Generator().manual_seed(1))
    assert torch.equal(again.ids, quantized.ids)


def test_soft_gumbel_mixes_and_its_gradient_reaches_everything() -> None:
    quantizer = GumbelQuantizer(4, 3, 2)
    z = torch.randn(1, 2, 3, 3, requires_grad=True)
    quantized = quantizer(z, 1.0, False, torch.Generator().manual_seed(0))
    assert isinstance(quantized, GumbelQuantized)
    assert (quantized.z_q - quantizer.lookup(quantized.ids)).abs().max() > 1e-3
    (quantized.z_q.square().sum() + quantized.kl).backward()
    assert z.grad is not None
    assert z.grad.abs().min() > 0
    assert quantizer.embed.weight.grad is not None
    cold = quantizer(z, 1e-3, False, torch.Generator().manual_seed(0))
    assert torch.equal(cold.ids, quantized.ids), "the temperature does not change which code is greatest"
    torch.testing.assert_close(cold.z_q, quantizer.lookup(cold.ids), atol=1e-3, rtol=0)


def test_kl_of_the_gumbel_quantizer() -> None:
    quantizer = GumbelQuantizer(8, 3, 2)
    with torch.no_grad():
        quantizer.proj.weight.zero_()
        quantizer.proj.bias.zero_()
    z = torch.zeros(1, 2, 2, 2)
    assert quantizer(z).kl.item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        quantizer.proj.bias.copy_(F.one_hot(torch.tensor(3), 8) * 100.0)
    assert quantizer(z).kl.item() == pytest.approx(np.log(8), abs=1e-5)


def test_schedule_of_the_gumbel_temperature() -> None:
    assert gumbel_temperature(0) == 1
    assert gumbel_temperature(80_000) == 0.5
    assert gumbel_temperature(150_000) == gumbel_temperature(10**7) == 1 / 16
