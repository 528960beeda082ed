"""Torch priors as the callables that the runtime's samplers ask."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from smalti.autoregressive import NextLogits
from smalti_train.models.autoregressive_transformer import AutoregressiveTransformer, Net2NetTransformer, Past

Int32 = NDArray[np.int32]


def next_logits(model: AutoregressiveTransformer | Net2NetTransformer) -> NextLogits:
    """Let ``smalti.autoregressive.run`` ask a torch model, in eval mode and on the model's device.

    Keys and values of the tokens before are kept from call to call, so that a call costs one position and not all; a
    call that does not continue the one before starts anew. The sampler's labels (int32 [N], or [N, C]) are the twin's
    labels and taming's conditioning. What is returned belongs to one run at a time.
    """
    model.eval()
    device = next(model.parameters()).device
    past, known, under = Past(), np.empty((0, 0), np.int32), np.empty(0, np.int32)

    @torch.no_grad()
    def predictor(tokens: Int32, labels: Int32) -> NDArray[np.float32]:
        nonlocal past, known, under
        read = known.shape[1]
        continues = (
            past.length > 0
            and tokens.shape[1] > read
            and np.array_equal(labels, under)
            and np.array_equal(tokens[:, :read], known)
        )
        if not continues:
            past, read = Past(), 0
        new, context = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (tokens[:, read:], labels))
        logits = model(new, context, past)[:, -1]
        known, under = tokens.copy(), labels.copy()
        return logits.float().cpu().numpy()

    return predictor
