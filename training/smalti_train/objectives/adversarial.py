"""Losses of the published VQGANs and of their discriminator.

L = L1 + perceptual + quantiser + lambda * mean(-D(T(x_hat))), the last term from a later step on (eq. 9a). Equations
are those of Bond-Taylor et al. 2021, section 3.4; see also their released code and Esser et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.models.quantizer import Quantized
from smalti_train.models.quantizer_gumbel import GumbelQuantized
from smalti_train.runs.config import VQGANLossConfig


def vqgan_loss(
    reconstruction: Tensor,
    images: Tensor,
    quantized: Quantized | GumbelQuantized,
    weights: VQGANLossConfig,
    perceptual: Tensor | None = None,
    fake: Tensor | None = None,
    last_layer: Tensor | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The terms of eq. 9a as unweighted scalars, ``lambda``, and the weighted sum ``loss``.

    ``reconstruction`` and ``images`` are float [B, 3, H, W] in the model's value range. ``perceptual`` is the distance
    of each pair (float [B] or a scalar); without it the term is left out. ``fake``, the discriminator's logits for the
    reconstructions, and ``last_layer`` (``VQGAN.last_layer``) are to be given once ``weights.judged(step)``. For
    ``reduce`` see :func:`adaptive_lambda`.
    """
    terms = {"l1": (reconstruction - images).abs().mean()}
    seen = weights.l1 * terms["l1"]
    if perceptual is not None:
        terms["perceptual"] = perceptual.mean()
        seen = seen + weights.perceptual * terms["perceptual"]
    terms["quantizer"] = quantizer_loss(quantized, weights)
    terms["loss"] = seen + terms["quantizer"]
    if fake is not None:
        if last_layer is None:
            raise UsageError("the adversarial term needs the last layer, at which lambda compares gradients")
        terms["adversarial"] = generator_loss(fake)
        terms["lambda"] = adaptive_lambda(seen, terms["adversarial"], last_layer, weights.lambda_max, reduce=reduce)
        terms["loss"] = terms["loss"] + weights.adversarial * terms["lambda"] * terms["adversarial"]
    return terms


def quantizer_loss(quantized: Quantized | GumbelQuantized, weights: VQGANLossConfig) -> Tensor:
    """Weighted loss of a quantiser, a scalar.

    Nearest: |sg[E(x)] - z_q|^2 + beta |sg[z_q] - E(x)|^2 (eq. 5). ``legacy_beta`` puts beta on the first term: the same
    value, other gradients. Gumbel: KL to the uniform distribution.
    """
    if isinstance(quantized, GumbelQuantized):
        return weights.kl * quantized.kl
    codebook, commitment = quantized.codebook_loss, quantized.commitment_loss
    if weights.legacy_beta:
        return weights.codebook * (weights.beta * codebook + commitment)
    return weights.codebook * (codebook + weights.beta * commitment)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator from its logits for images and for reconstructions (any shapes), a scalar.

    (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_hat))) / 2, as in the released code; eq. 9b is a cross-entropy.
    """
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """Adversarial loss of the autoencoder, -mean D(x_hat), from the discriminator's logits for reconstructions."""
    return -fake.mean()


def adaptive_lambda(
    reconstruction: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    limit: float = 1.0,
    delta: float = 1e-4,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """|grad of reconstruction| / (|grad of adversarial| + delta) at ``last_layer``, at most ``limit`` (eq. 9c).

    ``reconstruction`` (L1 and perceptual) and ``adversarial`` are scalars; their graph is kept. ``reduce`` averages a
    gradient over processes, so that lambda does not depend on their number. Returns a scalar without gradient.
    """
    norms: list[Tensor] = []
    for loss in (reconstruction, adversarial):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        whole = (gradient if reduce is None else reduce(gradient)).float()
        norms.append(cast(Tensor, whole.norm()))  # pyright: ignore[reportUnknownMemberType] - torch gives no type
    return (norms[0] / (norms[1] + delta)).clamp(0, limit).detach()
