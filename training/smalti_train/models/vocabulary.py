"""A prior's weights carried over to other codes: what a code meant is told by where both autoencoders put theirs.

Two autoencoders with the same grid describe the same patches in different codes. Counting which codes fall on the same
patches gives, for each new code, the chance of every old one. A new code's embedding is the old ones' mean by that
chance; so are its weights in the output layer, whose bias adds the chance of the new code given the old. Where each old
code was split into new ones that say the same with more detail, the prior predicts as before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.models.hourglass_prior import HourglassPriorConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig

TABLES: dict[type, tuple[str, str]] = {
    HourglassPriorConfig: ("token", "head"),
    SundaeTransformerConfig: ("token_emb", "to_logits"),
}
"""Names of the embedding and of the output layer, by the configuration of the prior; the latter needs a bias."""


def common_patches(old: Tensor, new: Tensor, old_codes: int, new_codes: int) -> Tensor:
    """Count the patches that have each new and each old code: float32 [new_codes, old_codes].

    ``old`` and ``new`` are integers of one shape, the codes of the same patches in both vocabularies.
    """
    pairs = new.flatten().long() * old_codes + old.flatten().long()
    return torch.bincount(pairs, minlength=new_codes * old_codes).view(new_codes, old_codes).float()


def translated(state: dict[str, Tensor], counts: Tensor, kind: type) -> dict[str, Tensor]:
    """State dict of a prior over new codes from that of one over old codes.

    ``counts`` float32 [new codes, old codes] is of :func:`common_patches`; ``kind`` is the configuration's class. A
    code that no patch has starts as the mean of all. Raises UsageError for a kind without such tables.
    """
    if kind not in TABLES:
        raise UsageError(
            f"{kind.__name__}: weights of such a prior are not carried over to other codes; leave --init out"
        )
    embedding, output = TABLES[kind]
    old_codes = counts.shape[1]
    smoothed = counts + counts.sum(0) / counts.sum()  # one patch like all others, for codes that were never seen
    old_given_new = smoothed / smoothed.sum(1, keepdim=True)
    found = dict(state)
    table = state[f"{embedding}.weight"]
    found[f"{embedding}.weight"] = torch.cat([old_given_new @ table[:old_codes], table[old_codes:]])
    found[f"{output}.weight"] = old_given_new @ state[f"{output}.weight"]
    before = smoothed.sum(0).clamp(min=1e-9)  # an old code without patches has no part in any new one
    share = torch.log(smoothed.sum(1)) - old_given_new @ torch.log(before)
    found[f"{output}.bias"] = old_given_new @ state[f"{output}.bias"] + share
    return found
