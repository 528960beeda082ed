"""Layout of taming's VQGANs (Esser et al. 2021): names equal our modules' names, so only sizes are read off."""

from __future__ import annotations

from smalti.errors import UsageError
from smalti_train.importers.fitting import Layout, Published, Slot
from smalti_train.models.meta_init import unfilled
from smalti_train.models.vqgan import VQGAN, VQGANConfig

EITHER = ("bias", "weight")


def taming_config(published: Published) -> VQGANConfig:
    """Sizes of a VQGAN with ``encoder.``, ``decoder.``, ``quantize.`` and the convolutions around it.

    Raises UsageError when a tensor that shows a size is missing, or when no VQGAN has such sizes.
    """
    levels = _count(published, "encoder.down")
    starts = ("encoder.conv_in", "encoder.down.0.block.0.norm1")
    first = published.size(*((f"{start}.{kind}", 0) for start in starts for kind in EITHER))
    widths: list[int] = []
    for level in range(levels):
        parts = (
            f"encoder.down.{level}.block.0.{part}.{kind}" for part in ("conv1", "norm2", "conv2") for kind in EITHER
        )
        widths.append(published.size(*((part, 0) for part in parts)))
    gumbel = has_gumbel(published)
    codebook = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    factor = 2 ** (levels - 1)
    return VQGANConfig(
        codes=published.size((codebook, 0), ("quantize.proj.weight", 0), ("quantize.proj.bias", 0)),
        code_dim=published.size(
            (codebook, 1), ("quant_conv.bias", 0), ("quant_conv.weight", 0), ("post_quant_conv.weight", 1)
        ),
        channels=first,
        multipliers=published.multipliers(widths, first, "encoder.conv_in.weight"),
        encoder_blocks=_count(published, "encoder.down.0.block"),
        decoder_blocks=_count(published, "decoder.up.0.block"),
        attention_levels=tuple(level for level in range(levels) if published.has(f"encoder.down.{level}.attn.")),
        size=(factor, factor),  # weights do not show the images' size; the importer fills it in
        quantizer="gumbel" if gumbel else "nearest",
        z_channels=published.size(
            ("encoder.conv_out.bias", 0),
            ("encoder.conv_out.weight", 0),
            ("post_quant_conv.bias", 0),
            ("quant_conv.weight", 1),
            ("decoder.conv_in.weight", 1),
        ),
        last_activation=True,
        value_range=(-1.0, 1.0),
    )


def taming_layout(config: VQGANConfig, prefix: str = "") -> Layout:
    """The tensors of a file of that configuration below ``prefix``."""
    with unfilled():
        state = VQGAN(config).state_dict()
    return {prefix + name: Slot(tuple(value.shape), name) for name, value in state.items()}


def has_gumbel(published: Published) -> bool:
    """Whether the file has a Gumbel quantiser."""
    return published.has("quantize.embed.") or published.has("quantize.proj.")


def _count(published: Published, stack: str) -> int:
    """Number of members of a list of modules. Raises UsageError when there are none."""
    found = len(published.members(stack))
    if not found:
        raise UsageError(f"lacks {published.prefix}{stack}.0, which a VQGAN of taming's has")
    return found
