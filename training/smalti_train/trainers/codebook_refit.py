"""ReFiT (Hu et al. 2022, section 3.2): rebuild the codebook of a trained autoencoder so that its codes are in use.

Straight-through training moves only codes that are picked, so most codes of a large codebook are never used. ReFiT
clusters features of the trained encoder and takes the centres as codes. Encoder and codes then stay fixed while the
decoder (and its discriminator) learn to read the new codes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.data.pixels import to_images
from smalti_train.data.progress import image_progress
from smalti_train.data.tensors import distinct_and_places, distinct_rows, listed
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.quantizer_gumbel import GumbelQuantizer
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.loading import Autoencoder, build_autoencoder

POOL = 20_000
"""Features to cluster: the paper's P for CelebA-HQ and LSUN; 50,000 to 100,000 were better for ImageNet (table 1)."""
CHAIN = 200
"""Steps of each Markov chain of the seeding, as used by its authors."""
ITERATIONS = 30
"""Greatest number of rounds of k-means."""
ROWS = 8192
"""Vectors whose distances to all centres are held in memory at once."""


@torch.no_grad()
def feature_pool(
    autoencoder: Autoencoder, images: NDArray[np.uint8], count: int, seed: int, batch: int = 64, progress: bool = False
) -> Tensor:
    """``count`` random features of the encoder (float32 [P, D], CPU) from images uint8 [N, H, W, 3].

    As in the paper, each feature comes from an image drawn with replacement, at a uniformly drawn position. Features
    have unit length where codes are compared by cosine. An image drawn twice is encoded once. The autoencoder runs in
    eval mode on its own device. ``progress`` shows a bar on stderr. Raises UsageError for a ``count`` below 1, no
    images, or an autoencoder whose codes are not picked by distance.
    """
    autoencoder = refittable(autoencoder)
    if count < 1 or not len(images):
        raise UsageError(f"a pool of {count} features of {len(images)} images: at least one of each is needed")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(images), (count,), generator=generator)
    place = torch.rand(count, generator=generator, dtype=torch.float64)
    wanted, which = distinct_and_places(drawn)  # sorted, which suits images on disk
    device = next(autoencoder.parameters()).device
    pool = torch.empty(count, autoencoder.config.code_dim)
    was_training = autoencoder.training
    autoencoder.eval()
    with image_progress("features", len(wanted), enabled=progress) as tick:
        for first in range(0, len(wanted), batch):
            chosen = wanted[first : first + batch]
            pixels = to_images(images[chosen.numpy()], device, autoencoder.config.value_range)
            features = _features(autoencoder, pixels).flatten(2).float().cpu()
            rows = ((which >= first) & (which < first + batch)).nonzero().flatten()
            pool[rows] = features[which[rows] - first, :, (place[rows] * features.shape[2]).long()]
            for _ in chosen:
                tick()
    autoencoder.train(was_training)
    return pool


def afk_mc2(pool: Tensor, k: int, chain: int, seed: int) -> Tensor:
    """Pick ``k`` of the vectors ``pool`` (float [P, D]) as first centres for k-means; float [k, D].

    Assumption-free k-MC2 (Bachem et al. 2016, algorithm 1). Each centre is the end of a Markov chain of ``chain``
    steps, which approximates the choice of k-means++ (by squared distance). Proposals are drawn half uniformly, half
    by squared distance from the first centre. Costs one pass over the pool and O(k^2 * chain) distances. Raises
    UsageError unless 1 <= k <= P and ``chain`` is at least 1.
    """
    if not 1 <= k <= len(pool) or chain < 1:
        raise UsageError(f"{k} seeds of {len(pool)} vectors by chains of {chain}: from 1 of each, no more than vectors")
    generator = torch.Generator().manual_seed(seed)
    vectors = pool.double()
    seeds = vectors.new_empty(k, vectors.shape[1])
    seeds[0] = vectors[int(torch.randint(len(vectors), (1,), generator=generator))]
    squared = (vectors - seeds[0]).square().sum(1).cpu()
    share = squared / squared.sum() if squared.sum() > 0 else torch.full_like(squared, 1 / len(squared))
    chances = (share + 1 / len(share)) / 2
    proposed = torch.multinomial(chances, k * chain, replacement=True, generator=generator).reshape(k, chain)
    thresholds = listed(torch.rand(proposed.shape, generator=generator, dtype=torch.float64))
    for index in range(1, k):
        row, levels = proposed[index], thresholds[index]
        candidates = vectors[row.to(vectors.device)]
        distances = listed(_nearest(candidates, seeds[:index])[1])
        weights = listed(chances[row])
        now = 0
        for step in range(1, chain):
            # Multiplied out, so that a state with distance zero (on top of a seed) is always left.
            if distances[step] * weights[now] > levels[step] * distances[now] * weights[step]:
                now = step
        seeds[index] = candidates[now]
    return seeds.to(pool.dtype)


def k_means(pool: Tensor, centres: Tensor, iterations: int, unit: bool = False) -> Tensor:
    """Cluster ``pool`` (float [P, D]) by k-means from ``centres`` (float [K, D]); returns the new centres [K, D].

    Lloyd's algorithm, until nothing changes or for ``iterations`` rounds; ``unit`` keeps centres at unit length
    (spherical k-means, for vectors of unit length). A centre without vectors moves onto the vector that is furthest
    from its own centre, so every centre returned has a vector. Raises UsageError for a pool with fewer different
    vectors than centres, or whose vectors differ by less than rounding.
    """
    if (different := len(distinct_rows(pool))) < len(centres):
        raise UsageError(
            f"a pool of {different} different vectors is too small for {len(centres)} codes: take many times as many "
            f"vectors as codes (Hu et al. 2022: {POOL} for 1024), or fewer codes"
        )
    vectors, means = pool.double(), centres.double()  # squared distances are differences of large numbers
    assigned = None
    for _ in range(iterations):
        nearest, squared = _nearest(vectors, means)
        if assigned is not None and torch.equal(nearest, assigned):
            break
        assigned = nearest
        counts = torch.bincount(nearest, minlength=len(means))
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
        filled = counts > 0
        means = torch.where(filled[:, None], sums / counts.clamp(min=1)[:, None], means)
        means = F.normalize(means, dim=1) if unit else means
        means[~filled] = _furthest(vectors, squared, int((~filled).sum()))
    found = means.to(pool.dtype)
    for _ in range(len(found) + 1):  # each round puts at least one more centre onto a vector, where it stays
        nearest, squared = _nearest(vectors, found.double())
        empty = torch.bincount(nearest, minlength=len(found)) == 0
        if not empty.any():
            return found
        found[empty] = _furthest(vectors, squared, int(empty.sum())).to(pool.dtype)
    raise UsageError("the pool's vectors differ by less than rounding: take them from more different images")


def refit_codebook(
    autoencoder: Autoencoder, pool: Tensor, codes: int, seed: int, chain: int = CHAIN, iterations: int = ITERATIONS
) -> Tensor:
    """A new codebook (float32 [``codes``, D]): cluster centres of ``pool`` (float [P, D], see :func:`feature_pool`).

    ``codes`` may differ from the autoencoder's number; :func:`with_codebook` puts them in. Codes have unit length where
    they are compared by cosine. Raises UsageError for a pool of other dimensions or of fewer different vectors than
    ``codes``, for values that are not finite, and for an autoencoder whose codes are not picked by distance.
    """
    autoencoder = refittable(autoencoder)
    if pool.ndim != 2 or pool.shape[1] != autoencoder.config.code_dim:
        raise UsageError(f"a pool is float [P, {autoencoder.config.code_dim}] for these codes; got {list(pool.shape)}")
    if not bool(pool.isfinite().all()):
        raise UsageError("not every feature of the pool is a finite number: the autoencoder or an image is damaged")
    unit = isinstance(autoencoder, EdgeAutoencoder)
    pool = F.normalize(pool.float(), dim=1) if unit else pool.float()
    return k_means(pool, afk_mc2(pool, codes, chain, seed), iterations, unit)


def with_codebook(autoencoder: Autoencoder, codebook: Tensor) -> EdgeAutoencoder | VQGAN:
    """A copy of the autoencoder, in eval mode, with the codes ``codebook`` (float [K', D]); the rest is the same.

    Raises UsageError for codes of other dimensions and for an autoencoder whose codes are not picked by distance.
    """
    autoencoder = refittable(autoencoder)
    if codebook.ndim != 2 or codebook.shape[1] != autoencoder.config.code_dim:
        raise UsageError(f"codes are float [K, {autoencoder.config.code_dim}] here; got {list(codebook.shape)}")
    cosine = isinstance(autoencoder, EdgeAutoencoder)
    copy = refittable(build_autoencoder(dataclasses.replace(autoencoder.config, codes=len(codebook))))
    name = "quantizer.codebook" if cosine else "quantize.embedding.weight"
    copy.load_state_dict({**autoencoder.state_dict(), name: codebook})
    return copy.to(next(autoencoder.parameters()).device).eval()


def refittable(autoencoder: Autoencoder) -> EdgeAutoencoder | VQGAN:
    """Return the autoencoder. Raises UsageError, saying why, unless it picks codes by distance from features."""
    if not isinstance(autoencoder, EdgeAutoencoder | VQGAN):
        raise UsageError("pixels as tokens have no codebook that could be rebuilt: ReFiT is for trained autoencoders")
    if isinstance(autoencoder, VQGAN) and isinstance(autoencoder.quantize, GumbelQuantizer):
        raise UsageError(
            "a Gumbel quantiser picks codes by logits that it learns for each and not by their distance from features: "
            "new codes would not be picked where they belong. ReFiT is for the nearest and cosine quantisers"
        )
    return autoencoder


def _features(autoencoder: EdgeAutoencoder | VQGAN, images: Tensor) -> Tensor:
    """Features compared with the codes, float [B, D, h, w]; images are float [B, 3, H, W] in the value range."""
    if isinstance(autoencoder, EdgeAutoencoder):
        return F.normalize(autoencoder.encoder(images).float(), dim=1)
    return autoencoder.features(images)


def _nearest(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Index and squared distance of the centre (float64 [K, D]) nearest to each vector (float64 [n, D]).

    Returns int64 [n] and float64 [n]; the distance is exactly zero where vector and centre are equal.
    """
    own = centres.square().sum(1)
    parts = torch.split(vectors, ROWS)
    ids = torch.cat([(own - 2 * part @ centres.T).argmin(1) for part in parts])
    squared = [(part - centres[chosen]).square().sum(1) for part, chosen in zip(parts, torch.split(ids, ROWS))]
    return ids, torch.cat(squared)


def _furthest(vectors: Tensor, squared: Tensor, count: int) -> Tensor:
    """The ``count`` of ``vectors`` [n, D] with the greatest ``squared`` distances [n]."""
    return vectors[squared.topk(count).indices]
