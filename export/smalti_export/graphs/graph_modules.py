"""Models as tracing needs them: every change that export asks for stands here, and models know nothing of it.

Images enter and leave as uint8 NHWC and tokens as int32, so that a runtime needs no knowledge of ranges and layouts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.bundle.manifest import Role
from smalti.errors import UsageError
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
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.loading import Autoencoder, Prior


def to_values(images: Tensor, value_range: tuple[float, float], dtype: torch.dtype) -> Tensor:
    """uint8 [N, H, W, 3] to ``dtype`` [N, 3, H, W] in ``value_range``."""
    black, white = value_range
    return images.to(dtype).permute(0, 3, 1, 2) / (255 / (white - black)) + black


def to_uint8(values: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Float [N, 3, H, W] in ``value_range`` (clipped) to uint8 [N, H, W, 3]."""
    black, white = value_range
    x = values.float().clamp(black, white)  # pixels are made in fp32: fp16 has too few digits near 255
    return ((x - black) * (255 / (white - black))).round().to(torch.uint8).permute(0, 2, 3, 1)


def embedding(features: Tensor) -> Tensor:
    """Features [N, D, h, w] as fp32 vectors [N, D]: their mean over the image, of length 1."""
    return F.normalize(features.float().mean((2, 3)), dim=1)


class EncoderGraph(nn.Module):
    """uint8 images [N, H, W, 3] to int32 tokens [N, h, w] and an embedding, fp32 [N, D]."""

    def __init__(self, model: EdgeAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        codes = self.model.quantizer.codebook
        # The last layer makes the few dimensions of a code of what is there; all of it tells images apart better.
        *layers, last = self.model.encoder
        seen = to_values(images, self.model.config.value_range, codes.dtype)
        for layer in layers:
            seen = layer(seen)
        # The released codes already have unit length (see smalti_train.runs.bundle_weights).
        scores = last(seen).permute(0, 2, 3, 1) @ codes.T
        return scores.argmax(-1).to(torch.int32), embedding(seen)


class DecoderGraph(nn.Module):
    """int32 tokens [N, h, w] to uint8 images [N, H, W, 3]."""

    def __init__(self, model: EdgeAutoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode."""
        z = F.embedding(tokens, self.model.quantizer.codebook).permute(0, 3, 1, 2)
        return to_uint8(self.model.decoder(z), self.model.config.value_range)


class VQGANEncoderGraph(nn.Module):
    """uint8 images [N, H, W, 3] to int32 tokens [N, h, w] and an embedding, fp32 [N, D].

    Tokens are those of the nearest codes, or a Gumbel quantiser's likeliest.
    """

    def __init__(self, model: VQGAN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        model = self.model
        x = to_values(images, model.config.value_range, model.encoder.conv_in.weight.dtype)
        seen = z = model.encoder(x)
        if model.quant_conv is not None:
            z = model.quant_conv(z)
        quantizer = model.quantize
        if isinstance(quantizer, GumbelQuantizer):
            scores = quantizer.proj(z)
        else:
            # In fp32, as codes lie closer to each other than fp16 can tell. |z - c|^2 without |z|^2, negated. A
            # convolution, as TensorRT-RTX has no matrix products in fp32 for Turing.
            codes = quantizer.embedding.weight.float()
            scores = F.conv2d(2 * z.float(), codes[:, :, None, None], -codes.square().sum(1))
        return scores.argmax(1).to(torch.int32), embedding(seen)


class VQGANDecoderGraph(nn.Module):
    """int32 tokens [N, h, w] to uint8 images [N, H, W, 3]; any value range."""

    def __init__(self, model: VQGAN) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode."""
        return to_uint8(self.model.decode(tokens), self.model.config.value_range)


class PreviewGraph(nn.Module):
    """int32 tokens [N, h, w] of 0 .. K, K where none is known, to rough uint8 images [N, H, W, 3]."""

    def __init__(self, model: PreviewDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode roughly."""
        return to_uint8(self.model(tokens), self.model.config.value_range)


class DenoiserGraph(nn.Module):
    """int32 tokens [N, L], labels [N] and rows [N, R] to fp32 logits [N, R, K]; the head sees the rows alone."""

    def __init__(self, model: HourglassPrior | AbsorbingTransformer | SundaeTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Predict."""
        return self.model(tokens, labels, rows.long()).float()


class TimedDenoiserGraph(nn.Module):
    """The same of a prior that is told the time: int32 times [N] stand before the rows."""

    def __init__(self, model: MultinomialUNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, times: Tensor, rows: Tensor) -> Tensor:
        """Predict."""
        return self.model(tokens, labels, times, rows.long()).float()


class PredictorGraph(nn.Module):
    """New tokens and what was kept of those before to the next token's logits and what to keep now.

    ``tokens`` int32 [n, k], K standing for the start; ``labels`` int32 [n]; ``past`` float32
    [2 * layers, n, heads, p, d], keys and values of each layer in turn, p = 0 at first. Gives ``logits`` float32 [n, K]
    of the token after the last and ``present`` [2 * layers, n, heads, p + k, d].
    """

    def __init__(self, model: AutoregressiveTransformer | Net2NetTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, labels: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Predict."""
        model = self.model
        read, new = past.shape[3], tokens.shape[1]
        # Where queries and keys stand: the model itself asks whether sizes are equal, which a graph cannot.
        positions = torch.arange(read, read + new, device=tokens.device)
        seen = torch.arange(read + new, device=tokens.device) <= positions[:, None]
        # Infinity, as the tracer would make fp16's lowest number of what is not seen, to which nothing can be added.
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
        """Float [n, k, width]; the start is a vector of its own or, in Net2Net, the token that its label stands for."""
        model = self.model
        start = tokens == model.config.codes
        if isinstance(model, AutoregressiveTransformer):
            x = model.tok_emb(torch.where(start, torch.zeros_like(tokens), tokens))
            return torch.where(start[..., None], model.start_tok, x)
        first = labels if model.config.classes else torch.zeros_like(labels)
        return model.tok_emb(torch.where(start, first[:, None], tokens))


def wrap(role: Role, model: Autoencoder | Prior | PreviewDecoder) -> nn.Module:
    """Give the module, in eval mode, whose forward is the component's graph; UsageError for one that needs none."""
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
        case EdgeAutoencoder():
            graph = EncoderGraph(model) if role == "encoder" else DecoderGraph(model)
        case PixelCodes():
            raise UsageError(f"pixels are tokens already: there is no graph of their {role}")
    return graph.eval()
