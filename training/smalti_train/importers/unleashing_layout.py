"""Unleashing's flat lists of blocks (Bond-Taylor et al. 2021, released code) as the levels of our VQGAN.

An encoder is ``blocks.N``: a convolution; per level residual blocks, each followed by attention or none, and a
downsampling between levels; residual, attention, residual; norm; convolution. A decoder (``generator``) is the mirror
image. Every residual block has a 1x1 ``conv_out``, used or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from smalti.errors import UsageError
from smalti_train.importers.fitting import Layout, Published, Slot
from smalti_train.models.meta_init import unfilled
from smalti_train.models.vqgan import VQGAN, VQGANConfig

PLAIN, RESIDUAL, ATTENTION, RESAMPLE = "plain", "residual", "attention", "resample"
PARTS = {
    RESIDUAL: {"norm1", "conv1", "norm2", "conv2", "conv_out"},
    ATTENTION: {"norm", "q", "k", "v", "proj_out"},
    RESAMPLE: {"conv"},
    PLAIN: {"weight", "bias"},
}
"""Names below a block that show its kind."""


def unleashing_config(published: Published) -> VQGANConfig:
    """Sizes of a VQGAN with ``encoder.``, ``quantize.`` and ``generator.``. Raises UsageError when it is not one."""
    encoder, decoder = _kinds(published, "encoder.blocks"), _kinds(published, "generator.blocks")
    levels, attention = _levels(encoder[1:-5])
    starts = ("0.bias", "0.weight", "1.norm1.bias", "1.norm1.weight")
    first = published.size(*((f"encoder.blocks.{start}", 0) for start in starts))
    widths: list[int] = []
    position = 1
    for index, blocks in enumerate(levels):
        parts = ("conv1.bias", "norm2.bias", "conv2.bias", "conv_out.bias")
        widths.append(published.size(*((f"encoder.blocks.{position}.{part}", 0) for part in parts)))
        position += blocks * (2 if index in attention else 1) + 1
    gumbel = published.has("quantize.embed.") or published.has("quantize.proj.")
    codebook = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    last = f"encoder.blocks.{len(encoder) - 1}"
    factor = 2 ** (len(levels) - 1)
    return VQGANConfig(
        codes=published.size((codebook, 0), ("quantize.proj.weight", 0), ("quantize.proj.bias", 0)),
        code_dim=published.size(
            (f"{last}.bias", 0), (f"{last}.weight", 0), (codebook, 1), ("generator.blocks.0.weight", 1)
        ),
        channels=first,
        multipliers=published.multipliers(widths, first, "encoder.blocks.0.weight"),
        encoder_blocks=min(levels),
        decoder_blocks=min(_levels(decoder[4:-2])[0]),
        attention_levels=attention,
        size=(factor, factor),  # weights do not show the images' size; the importer fills it in
        quantizer="gumbel" if gumbel else "nearest",
        probabilistic=published.has("generator.logsigma."),
    )


def unleashing_layout(config: VQGANConfig, prefix: str = "") -> Layout:
    """The tensors of a file of that configuration below ``prefix``."""
    with unfilled():
        ours = {name: tuple(value.shape) for name, value in VQGAN(config).state_dict().items()}
    layout: Layout = {}
    blocks = (
        *_flat(f"{prefix}encoder.blocks", _encoder_order(config)),
        *_flat(f"{prefix}generator.blocks", _decoder_order(config)),
    )
    for theirs, name in blocks:
        for part in [key.removeprefix(f"{name}.") for key in ours if key.startswith(f"{name}.")]:
            key = part.replace("nin_shortcut", "conv_out")
            layout[f"{theirs}.{key}"] = Slot(ours[f"{name}.{part}"], f"{name}.{part}")
        if f"{name}.conv1.bias" in ours and f"{name}.nin_shortcut.bias" not in ours:
            width = ours[f"{name}.conv1.bias"]
            layout[f"{theirs}.conv_out.weight"] = Slot((*width, *width, 1, 1), None)
            layout[f"{theirs}.conv_out.bias"] = Slot(width, None)
    for name, shape in ours.items():
        if name.startswith(("quantize.", "decoder.logsigma.")):
            layout[prefix + name.replace("decoder.", "generator.")] = Slot(shape, name)
    return layout


def _kinds(published: Published, stack: str) -> list[str]:
    """Kinds of a list's blocks, in order. Raises UsageError for a gap in the list or a block of unknown kind."""
    parts = published.members(stack)
    stack = published.prefix + stack
    if missing := sorted(set(range(len(parts))) - parts.keys()):
        raise UsageError(f"lacks {stack}.{missing[0]}, though a later block of that list is there")
    if len(parts) < 6:
        raise UsageError(f"has {len(parts)} {stack}, too few for a VQGAN of Bond-Taylor et al.'s code (2021)")
    kinds: list[str] = []
    for index in range(len(parts)):
        kind = next((kind for kind, known in PARTS.items() if parts[index] & known), None)
        if kind is None:
            raise UsageError(f"{stack}.{index} is no block of a VQGAN: it has {', '.join(sorted(parts[index]))}")
        kinds.append(kind)
    return kinds


def _levels(kinds: list[str]) -> tuple[list[int], tuple[int, ...]]:
    """Residual blocks per level, and the levels with attention, from the kinds of the levels' blocks.

    Raises UsageError for another order of blocks.
    """
    levels: list[list[str]] = [[]]
    for kind in kinds:
        if kind == RESAMPLE:
            levels.append([])
        else:
            levels[-1].append(kind)
    counts = [level.count(RESIDUAL) for level in levels]
    if not all(counts) or any(kind == PLAIN for kind in kinds):
        raise UsageError(
            f"its blocks are not in the order of a VQGAN of Bond-Taylor et al.'s code (2021): {', '.join(kinds)}"
        )
    return counts, tuple(index for index, level in enumerate(levels) if ATTENTION in level)


def _encoder_order(config: VQGANConfig) -> Iterable[str]:
    """Our names of the encoder's blocks, in the order of the flat list."""
    yield "encoder.conv_in"
    for level in range(len(config.multipliers)):
        for block in range(config.encoder_blocks):
            yield f"encoder.down.{level}.block.{block}"
            if level in config.attention_levels:
                yield f"encoder.down.{level}.attn.{block}"
        if level < len(config.multipliers) - 1:
            yield f"encoder.down.{level}.downsample"
    yield from (f"encoder.{name}" for name in ("mid.block_1", "mid.attn_1", "mid.block_2", "norm_out", "conv_out"))


def _decoder_order(config: VQGANConfig) -> Iterable[str]:
    """Our names of the decoder's blocks, in the order of the flat list."""
    yield from (f"decoder.{name}" for name in ("conv_in", "mid.block_1", "mid.attn_1", "mid.block_2"))
    for level in reversed(range(len(config.multipliers))):
        for block in range(config.decoder_blocks):
            yield f"decoder.up.{level}.block.{block}"
            if level in config.attention_levels:
                yield f"decoder.up.{level}.attn.{block}"
        if level:
            yield f"decoder.up.{level}.upsample"
    yield from ("decoder.norm_out", "decoder.conv_out")


def _flat(stack: str, order: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Pairs of a flat list's names and our names of the same blocks."""
    return ((f"{stack}.{index}", name) for index, name in zip(count(), order))
