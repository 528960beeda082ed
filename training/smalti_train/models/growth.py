"""Deepen a trained autoencoder: residual blocks that it lacks start as the identity, so nothing learned is lost.

A residual block whose last norm starts at zero passes its input on unchanged (Chen et al. 2016, Net2Net, for such
function-preserving growth), and learns to do more from there.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig, ResidualBlock
from smalti_train.models.smoothing import EdgeAwareSmoothing


def fits(smaller: EdgeAutoencoderConfig, larger: EdgeAutoencoderConfig) -> bool:
    """Whether ``larger`` is ``smaller`` with no fewer residual blocks or passes of smoothing, at no other size."""
    blocks = {name: getattr(larger, name) for name in ("encoder_blocks", "decoder_blocks", "smoothing")}
    pairs = [*zip(smaller.encoder_blocks, larger.encoder_blocks, strict=False)]
    pairs += zip(smaller.decoder_blocks, larger.decoder_blocks, strict=False)
    pairs.append((len(smaller.smoothing), len(larger.smoothing)))
    return dataclasses.replace(smaller, **blocks) == larger and all(few <= many for few, many in pairs)


def grown(source: EdgeAutoencoder, config: EdgeAutoencoderConfig) -> dict[str, Tensor]:
    """State dict of an autoencoder of ``config`` that computes what ``source`` does; see :func:`fits`.

    A smoothing other than that of ``source`` starts anew: pictures change by it, and by nothing else.
    """
    target = EdgeAutoencoder(config)
    target.quantizer.load_state_dict(source.quantizer.state_dict())
    for old, new in ((source.encoder, target.encoder), (source.decoder, target.decoder)):
        places = _places(new)
        for place, module in _places(old).items():
            if not isinstance(module, EdgeAwareSmoothing) or source.config.smoothing == config.smoothing:
                places[place].load_state_dict(module.state_dict())
    return target.state_dict()


def _places(stack: nn.Sequential) -> dict[tuple[int, int], nn.Module]:
    """Modules by (how many modules other than residual blocks came before, how many blocks since the last of them)."""
    places: dict[tuple[int, int], nn.Module] = {}
    level = block = 0
    for module in stack:
        if isinstance(module, ResidualBlock):
            block += 1
        else:
            level, block = level + 1, 0
        places[level, block] = module
    return places
