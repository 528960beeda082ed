"""Names and numbers that help shows, since what they stand for imports torch; a test holds them equal to that."""

from __future__ import annotations

from typing import Final

_PUBLISHED: Final = (
    "unleashing-ffhq256",
    "unleashing-churches",
    "unleashing-bedrooms",
    "taming-imagenet-f16",
    "sundae-ffhq1024",
    "sundae-ffhq1024-d2048",
    "sundae-ffhq256",
    "sundae-celeba",
    "sundae-churches",
    "sundae-bedrooms",
    "sundae-imagenet256",
    "sundae-mnist",
    "sundae-fashion-mnist",
    "vqddm-celebahq256",
    "vqddm-celebahq256-k512",
    "vqddm-churches256",
)
"""Recipes of papers, which have a preset of each."""
AUTOENCODERS: Final = (
    "avatars-256",
    "avatars-256-decoder",
    "avatars-256-deep",
    "avatars",
    "avatars-64-vqgan",
    "tiny",
    "tiny-vqgan",
    "fashion-mnist-sundae",
    *_PUBLISHED,
)
"""Presets of autoencoders, by name."""
PRIORS: Final = (
    "avatars-256",
    "avatars",
    "avatars-sundae",
    "tiny",
    "avatars-256-transformer",
    "avatars-256-autoregressive",
    "avatars-64-transformer",
    "avatars-64-autoregressive",
    "tiny-transformer",
    "tiny-autoregressive",
    "tiny-net2net",
    "avatars-256-sundae",
    "avatars-256-multinomial",
    "avatars-64-multinomial",
    "fashion-mnist-sundae",
    "tiny-sundae",
    "tiny-multinomial",
    *_PUBLISHED,
)
"""Presets of priors, by name."""
HEADS: Final = ("avatars-256", "avatars", "tiny")
"""Presets of heads, by name."""
SOURCES: Final = (
    "taming-net2net",
    "unleashing-vqgan",
    "vqddm",
    "unleashing-absorbing",
    "unleashing-autoregressive",
    "taming-gumbel",
    "taming-vqgan",
    "sundae-hourglass",
)
"""Published systems whose checkpoints are imported."""
UNKNOWN_LICENCE: Final = "unknown, see the source of the checkpoint"
"""Licence of weights that were imported, where none is given."""
POOL: Final = 20_000
"""Features that a codebook is rebuilt from."""
BITS: Final = 5
"""Bits of the values of images for a VQGAN's probabilistic head."""
