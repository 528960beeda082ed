"""Growing a trained autoencoder: new residual blocks start as the identity, so nothing learned is lost.

A residual block whose last norm starts at zero passes its input on unchanged. For such function-preserving growth see
Chen et al. 2016 (Net2Net).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig, ResidualBlock
from smalti_train.models.smoothing import EdgeAwareSmoothing


def fits(smaller: EdgeAutoencoderConfig, larger: EdgeAutoencoderConfig) -> bool:
    """Whether ``larger`` differs from ``smaller`` only by more residual blocks, more codes, smoothing and padding.

    Smoothing and padding may differ, since no weights depend on them.
    """
    free = ("encoder_blocks", "decoder_blocks", "codes", "padding", "smoothing")
    pairs = [*zip(smaller.encoder_blocks, larger.encoder_blocks, strict=False)]
    pairs += zip(smaller.decoder_blocks, larger.decoder_blocks, strict=False)
    pairs.append((smaller.codes, larger.codes))
    same = dataclasses.replace(smaller, **{name: getattr(larger, name) for name in free}) == larger
    return same and all(few <= many for few, many in pairs)


def grown(source: EdgeAutoencoder, config: EdgeAutoencoderConfig) -> dict[str, Tensor]:
    """State dict of an autoencoder of ``config`` that computes what ``source`` computes; see :func:`fits`.

    Pictures change only where the configurations differ: another smoothing starts anew, another padding changes pixels
    near borders, and new codes are random until training moves them onto features.
    """
    target = EdgeAutoencoder(config)
    with torch.no_grad():
        target.quantizer.codebook[: source.config.codes] = source.quantizer.codebook
    for old, new in ((source.encoder, target.encoder), (source.decoder, target.decoder)):
        places = _places(new)
        for place, module in _places(old).items():
            if not isinstance(module, EdgeAwareSmoothing) or source.config.smoothing == config.smoothing:
                places[place].load_state_dict(module.state_dict())
    return target.state_dict()


def sizes_of(state: Mapping[str, Tensor]) -> EdgeAutoencoderConfig:
    """Sizes of an autoencoder from its state dict. Raises UsageError for tensors of something else.

    The tensors show the number of smoothing passes but not their distances; all are given as 1.
    """
    try:
        codes, dim = state["quantizer.codebook"].shape
        channels: list[int] = []
        blocks: dict[str, list[int]] = {"encoder": [], "decoder": [0]}
        for stack, counts in blocks.items():
            places = sorted({int(name.split(".")[1]) for name in state if name.startswith(f"{stack}.")})
            for place in places:
                if f"{stack}.{place}.inner.0.weight" in state:
                    counts[-1] += 1
                elif (conv := state.get(f"{stack}.{place}.0.weight")) is not None:
                    if stack == "encoder":
                        channels.append(conv.shape[0])
                        counts.append(0)
                    elif conv.shape[-1] == 1:  # leads up a level
                        counts.append(0)
        passes = [len(value) for name, value in state.items() if name.endswith(".sharpness")]
        return EdgeAutoencoderConfig(
            codes=codes,
            code_dim=dim,
            channels=tuple(channels),
            encoder_blocks=tuple(blocks["encoder"]),
            decoder_blocks=tuple(reversed(blocks["decoder"])),
            smoothing=(1,) * sum(passes),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"these are not the weights of an edge autoencoder ({error})") from None


def _places(stack: nn.Sequential) -> dict[tuple[int, int], nn.Module]:
    """Modules by (number of modules before it other than residual blocks, number of blocks since the last of those)."""
    places: dict[tuple[int, int], nn.Module] = {}
    level = block = 0
    for module in stack:
        if isinstance(module, ResidualBlock):
            block += 1
        else:
            level, block = level + 1, 0
        places[level, block] = module
    return places
