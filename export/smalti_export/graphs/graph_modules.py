"""Wrappers that make models traceable. All changes for export are here; the models know nothing about it.

Images enter and leave as uint8 NHWC and tokens as int32, so a runtime needs to know no value ranges or layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.bundle.manifest import Role
from smalti.errors import UsageError
from smalti_export.embedding import SeeingEncoder, seen
from smalti_train.models.absorbing_transformer import AbsorbingTransformer, Block
from smalti_train.models.autoregressive_transformer import (
    AutoregressiveTransformer,
    CausalAttention,
    Net2NetTransformer,
)
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.hourglass_prior import HourglassPrior
from smalti_train.models.multinomial_unet import MultinomialUNet
from smalti_train.models.pixels import PixelCodes
from smalti_train.models.preview_decoder import PreviewDecoder
from smalti_train.models.quantizer_gumbel import GumbelQuantizer
from smalti_train.models.size_heads import SizedAutoencoder
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.loading import Autoencoder, Prior

Traceable = Autoencoder | SizedAutoencoder | SeeingEncoder | Prior | PreviewDecoder
"""Models that components are made of."""


def to_values(images: Tensor, value_range: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """Convert uint8 [N, H, W, 3] to ``dtype`` [N, 3, H, W] in ``value_range``."""
    black, white = value_range
    return images.to(dtype).permute(0, 3, 1, 2) / (255 / (white - black)) + black


def to_uint8(values: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Clip float [N, 3, H, W] to ``value_range`` and convert to uint8 [N, H, W, 3]."""
    black, white = value_range
    x = values.float().clamp(black, white)  # in fp32, because fp16 is too coarse near 255
    return ((x - black) * (255 / (white - black))).round().to(torch.uint8).permute(0, 2, 3, 1)


def embedding(features: Tensor) -> Tensor:
    """Average features [N, D, h, w] over the image; return fp32 vectors [N, D] of length 1."""
    return F.normalize(features.float().mean((2, 3)), dim=1)


class EncoderGraph(nn.Module):
    """Encode uint8 images [N, H, W, 3] to int32 tokens [N, h, w] and an embedding, fp32 [N, D]."""

    def __init__(self, model: EdgeAutoencoder, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.embed = model, embed

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        codes = self.model.quantizer.codebook
        features = seen(self.model, to_values(images, self.model.config.value_range, codes.dtype))
        last = cast(nn.Conv2d, self.model.encoder[-1])
        # In fp32, because codes lie closer together than fp16 resolves. As convolutions, because TensorRT-RTX has no
        # fp32 matrix products for Turing.
        codes, bias = codes.float(), None if last.bias is None else last.bias.float()
        scores = F.conv2d(F.conv2d(features.float(), last.weight.float(), bias), codes[:, :, None, None])
        # Rounded to fp16, codes no longer have quite one length; the nearest is that of the smallest angle.
        scores = scores * codes.square().sum(1).rsqrt()[:, None, None]
        return scores.argmax(1).to(torch.int32), self.embed(features)


class DecoderGraph(nn.Module):
    """Decode int32 tokens [N, h, w] to uint8 images [N, H, W, 3]."""

    def __init__(self, model: EdgeAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode."""
        z = F.embedding(tokens, self.model.quantizer.codebook).permute(0, 3, 1, 2)
        return to_uint8(self.model.decoder(z), self.model.config.value_range)


class SizedDecoderGraph(nn.Module):
    """Decode int32 tokens [N, h, w] to uint8 images [N, s*H, s*W, 3], larger by the scale s of one of the heads."""

    def __init__(self, model: SizedAutoencoder, scale: int) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode."""
        return to_uint8(self.model.decode(tokens, self.scale), self.model.config.value_range)


class VQGANEncoderGraph(nn.Module):
    """Encode uint8 images [N, H, W, 3] to int32 tokens [N, h, w] and an embedding, fp32 [N, D].

    A token is the nearest code or, with a Gumbel quantiser, the likeliest one.
    """

    def __init__(self, model: VQGAN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        model = self.model
        x = to_values(images, model.config.value_range, model.encoder.conv_in.weight.dtype)
        features = z = model.encoder(x)
        if model.quant_conv is not None:
            z = model.quant_conv(z)
        quantizer = model.quantize
        if isinstance(quantizer, GumbelQuantizer):
            scores = quantizer.proj(z)
        else:
            # |z - c|^2 without |z|^2, negated. In fp32, because codes lie closer together than fp16 resolves. As a
            # convolution, because TensorRT-RTX has no fp32 matrix products for Turing.
            codes = quantizer.embedding.weight.float()
            scores = F.conv2d(2 * z.float(), codes[:, :, None, None], -codes.square().sum(1))
        return scores.argmax(1).to(torch.int32), embedding(features)


class VQGANDecoderGraph(nn.Module):
    """Decode int32 tokens [N, h, w] to uint8 images [N, H, W, 3]; any value range."""

    def __init__(self, model: VQGAN) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode."""
        return to_uint8(self.model.decode(tokens), self.model.config.value_range)


class PreviewGraph(nn.Module):
    """Decode int32 tokens [N, h, w] in 0 .. K, K for unknown ones, to rough uint8 images [N, H, W, 3]."""

    def __init__(self, model: PreviewDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode roughly."""
        return to_uint8(self.model(tokens), self.model.config.value_range)


class DenoiserGraph(nn.Module):
    """Predict fp32 logits [N, R, K] from int32 tokens [N, L], labels [N] and rows [N, R].

    Only the positions in ``rows`` go through the head.
    """

    def __init__(self, model: HourglassPrior | AbsorbingTransformer | SundaeTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Predict."""
        return self.model(tokens, labels, rows.long()).float()


class TimedDenoiserGraph(nn.Module):
    """A DenoiserGraph with a time: int32 times [N] come before the rows."""

    def __init__(self, model: MultinomialUNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, times: Tensor, rows: Tensor) -> Tensor:
        """Predict."""
        return self.model(tokens, labels, times, rows.long()).float()


class PredictorGraph(nn.Module):
    """Predict the next token's logits from new tokens and the cached keys and values; return the extended cache.

    Inputs: ``tokens`` int32 [n, k], with K for the start; ``labels`` int32 [n]; ``past`` float32 [2 * layers, n, heads,
    p, d], keys and values of each layer in turn, with p = 0 at first. Outputs: ``logits`` float32 [n, K] of the token
    after the last one, and ``present`` [2 * layers, n, heads, p + k, d].
    """

    def __init__(self, model: AutoregressiveTransformer | Net2NetTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Predict."""
        model = self.model
        read, new = past.shape[3], tokens.shape[1]
        # Build the mask from positions: the model's own code compares sizes, which a traced graph cannot.
        positions = torch.arange(read, read + new, device=tokens.device)
        seen = torch.arange(read + new, device=tokens.device) <= positions[:, None]
        # Use -inf: the tracer would mask with fp16's lowest number, and adding to that overflows.
        mask = torch.zeros(seen.shape, dtype=model.pos_emb.dtype).masked_fill(~seen, float("-inf"))
        x = self._embedded(tokens, labels) + model.pos_emb.index_select(1, positions)
        x = model.labelled(x, labels)
        before = past.to(x.dtype)
        present: list[Tensor] = []
        for layer, block in enumerate(cast(Iterable[Block], model.blocks)):
            attention, y = cast(CausalAttention, block.attn), block.ln1(x)
            keys = torch.cat((before[2 * layer], attention.split(attention.key(y))), dim=2)
            values = torch.cat((before[2 * layer + 1], attention.split(attention.value(y))), dim=2)
            present += [keys, values]
            x = x + attention.attend(attention.split(attention.query(y)), keys, values, mask=mask)
            x = x + block.mlp(block.ln2(x))
        return model.output(x[:, -1:])[:, 0].float(), torch.stack(present).float()

    def _embedded(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Embed tokens as float [n, k, width].

        The start is a vector of its own or, in Net2Net, the embedding of the label's token.
        """
        model = self.model
        start = tokens == model.config.codes
        if isinstance(model, AutoregressiveTransformer):
            x = model.tok_emb(torch.where(start, torch.zeros_like(tokens), tokens))
            return torch.where(start[..., None], model.start_tok, x)
        first = labels if model.config.classes else torch.zeros_like(labels)
        return model.tok_emb(torch.where(start, first[:, None], tokens))


def wrap(role: Role, model: Traceable, scale: int = 1) -> nn.Module:
    """Wrap a model in the module, in eval mode, that is traced for this component.

    ``scale`` is that of a decoder's pictures, of :data:`smalti_train.models.size_heads.SCALES`.

    Raises UsageError for pixels, which need no graph.
    """
    match model:
        case PreviewDecoder():
            graph = PreviewGraph(model)
        case HourglassPrior() | AbsorbingTransformer() | SundaeTransformer():
            graph = DenoiserGraph(model)
        case MultinomialUNet():
            graph = TimedDenoiserGraph(model)
        case AutoregressiveTransformer() | Net2NetTransformer():
            graph = PredictorGraph(model)
        case VQGAN():
            graph = VQGANEncoderGraph(model) if role == "encoder" else VQGANDecoderGraph(model)
        case SizedAutoencoder() if scale > 1:
            graph = SizedDecoderGraph(model, scale)
        case SizedAutoencoder():
            return wrap(role, model.autoencoder)
        case EdgeAutoencoder():
            graph = EncoderGraph(model, embedding) if role == "encoder" else DecoderGraph(model)
        case SeeingEncoder():
            graph = EncoderGraph(model.autoencoder, model.embedding)
        case PixelCodes():
            raise UsageError(f"pixels are tokens already: there is no graph of their {role}")
    return graph.eval()
