"""Deeper autoencoders grown from trained ones compute the same, and can learn more."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smalti import UsageError
from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig
from smalti_train.models.growth import fits, grown, sizes_of
from smalti_train.presets.catalogue import AUTOENCODERS
from smalti_train.runs.bundle_weights import initial_weights

SMALL = EdgeAutoencoderConfig(
    codes=16, code_dim=4, channels=(8, 8, 16), encoder_blocks=(0, 1, 1), decoder_blocks=(1, 1, 1)
)


def deeper(**blocks) -> EdgeAutoencoderConfig:
    return dataclasses.replace(SMALL, **blocks)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        deeper(encoder_blocks=(0, 1, 3)),
        deeper(encoder_blocks=(2, 1, 1), decoder_blocks=(1, 2, 4)),
        deeper(decoder_blocks=(3, 1, 2)),
    ],
)
def test_a_grown_autoencoder_computes_what_the_smaller_one_does(config):
    torch.manual_seed(0)
    small = EdgeAutoencoder(SMALL)
    for parameter in small.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    small.train()(torch.randn(4, 3, 64, 64))  # gives the norms statistics of their own
    small.eval()
    large = EdgeAutoencoder(config)
    large.load_state_dict(grown(small, config))
    large.eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(small.encode(images), large.encode(images))
    assert torch.equal(small.decode(small.encode(images)), large.decode(large.encode(images)))
    large.train()(images)[0].square().mean().backward()
    new = [p for name, p in large.named_parameters() if name.endswith("outer.1.weight")]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in new)


def test_only_more_blocks_and_codes_fit():
    assert fits(SMALL, deeper(encoder_blocks=(1, 1, 2)))
    assert fits(SMALL, deeper(codes=32, padding="replicate"))
    assert not fits(SMALL, deeper(encoder_blocks=(0, 0, 1)))
    assert not fits(SMALL, deeper(codes=8))
    assert not fits(SMALL, deeper(code_dim=8))
    assert not fits(SMALL, deeper(channels=(8, 8, 32)))


def test_codes_that_are_there_stay_and_new_ones_move_where_features_are():
    torch.manual_seed(0)
    small, config = EdgeAutoencoder(SMALL), deeper(codes=40)
    large = EdgeAutoencoder(config)
    large.load_state_dict(grown(small, config))
    assert torch.equal(large.quantizer.codebook[:16], small.quantizer.codebook)
    features = large.encoder(torch.rand(8, 3, 64, 64))
    for step in range(3):
        ids = large.quantizer.nearest(features)
        moved = large.quantizer.reseed_idle(features, ids, 2, torch.Generator().manual_seed(step))
        if moved:
            unit = torch.nn.functional.normalize(features, dim=1).permute(0, 2, 3, 1).reshape(-1, 4)
            assert (unit @ large.quantizer.codebook.T > 1 - 1e-5).any(0).sum() >= moved
            return
    pytest.fail("no code was moved")


@pytest.mark.parametrize(
    "config", [SMALL, deeper(encoder_blocks=(2, 1, 3), decoder_blocks=(0, 2, 1), smoothing=(1, 1))]
)
def test_sizes_are_read_off_the_weights(config):
    assert sizes_of(EdgeAutoencoder(config).state_dict()) == config
    with pytest.raises(UsageError, match="edge autoencoder"):
        sizes_of({"weight": torch.zeros(3)})


def test_other_padding_and_more_codes_begin_where_the_bundle_is(tiny_bundle):
    tiny = AUTOENCODERS["tiny"]
    model = dataclasses.replace(
        tiny.model, codes=128, padding="replicate", decoder_blocks=(1, 2, 2), encoder_blocks=(0, 1, 2), smoothing=()
    )
    released, larger = (EdgeAutoencoder(config).eval() for config in (tiny.model, model))
    released.load_state_dict(initial_weights(tiny_bundle, tiny))
    larger.load_state_dict(initial_weights(tiny_bundle, dataclasses.replace(tiny, model=model)))
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    ids = torch.randint(64, (1, 8, 8))
    with torch.no_grad():
        inside = (..., slice(7, 9), slice(7, 9))  # where the other padding does not reach
        assert torch.equal(larger.encoder(images)[inside], released.encoder(images)[inside])
        assert torch.equal(larger.decode(ids), without_smoothing(released).decode(ids))


def test_a_run_starts_from_a_shallower_run_and_refuses_a_deeper_one(tiny_runs):
    tiny = AUTOENCODERS["tiny"]
    more = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, decoder_blocks=(1, 2, 2)))
    state = initial_weights(tiny_runs[0], more)
    EdgeAutoencoder(more.model).load_state_dict(state)
    fewer = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, decoder_blocks=(1, 1, 0)))
    with pytest.raises(UsageError, match="decoder_blocks"):
        initial_weights(tiny_runs[0], fewer)


@pytest.mark.parametrize("before", [(), (2,), (1, 4)])
def test_a_longer_smoothing_is_put_behind_what_the_decoder_computes(before):
    torch.manual_seed(0)
    small, config = EdgeAutoencoder(deeper(smoothing=before)), deeper(smoothing=(1, 4))
    if before:
        small.decoder[-1].sharpness.data.mul_(0.5)
    assert fits(small.config, config)
    large = EdgeAutoencoder(config)
    large.load_state_dict(grown(small, config))
    ids = torch.randint(16, (1, 3, 3))
    with torch.no_grad():
        smoothed = large.eval().decoder[-1](without_smoothing(small).decode(ids))
        assert torch.equal(large.decode(ids), smoothed)
        assert torch.equal(large.decode(ids), small.eval().decode(ids)) == (before == (1, 4))


def without_smoothing(model: EdgeAutoencoder) -> EdgeAutoencoder:
    bare = EdgeAutoencoder(dataclasses.replace(model.config, smoothing=()))
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if "sharpness" not in name})
    return bare.eval()
