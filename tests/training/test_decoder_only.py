"""Training the decoder alone leaves the tokens as they were, and the result fits the prior that learnt them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smalti import UsageError
from smalti_export.source import load_pair
from smalti_train.presets.catalogue import AUTOENCODERS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.token_cache import load_autoencoder
from smalti_train.trainers.autoencoder import train_autoencoder


def config(**changes):
    tiny = AUTOENCODERS["tiny"]
    data = dataclasses.replace(tiny.data, train_count=64, validation_count=64)
    return dataclasses.replace(
        tiny, data=data, loop=dataclasses.replace(tiny.loop, steps=3, precision="fp32"), **changes
    )


@pytest.fixture(scope="module")
def tuned(tiny_runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned") / "run"
    wanted = config(decoder_only=True)
    train_autoencoder(wanted, path, initial_weights(tiny_runs[0], wanted))
    return path


def test_encoder_and_codebook_stay_and_the_decoder_moves(tiny_runs, tuned):
    before, after = (load_autoencoder(path)[0].state_dict() for path in (tiny_runs[0], tuned))
    for name, value in before.items():
        if name.startswith(("encoder.", "quantizer.")):
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before["decoder.0.0.weight"], after["decoder.0.0.weight"])


def test_the_prior_takes_the_new_decoder(tiny_runs, tuned):
    pair = load_pair(tiny_runs[1], tuned)
    assert torch.equal(pair.autoencoder.decoder[0][0].weight, load_autoencoder(tuned)[0].decoder[0][0].weight)


def test_an_autoencoder_with_other_tokens_is_refused(tiny_runs, tmp_path):
    train_autoencoder(config(), tmp_path / "run", initial_weights(tiny_runs[0], config()))
    with pytest.raises(UsageError, match="another encoder than the prior"):
        load_pair(tiny_runs[1], tmp_path / "run")


def test_there_must_be_something_to_start_from(tmp_path):
    with pytest.raises(UsageError, match="--init"):
        train_autoencoder(config(decoder_only=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
