"""GPUs by every name that people have for them: sm_86, 8.6, RTX 3060, H100."""

from __future__ import annotations

import re
from typing import Final

GPUS: Final = {
    "sm_61": "GeForce GTX 10",
    "sm_70": "Tesla V100",
    "sm_75": "GeForce RTX 20",
    "sm_80": "A100",
    "sm_86": "GeForce RTX 30",
    "sm_89": "GeForce RTX 40",
    "sm_90": "H100",
    "sm_100": "B200",
    "sm_120": "GeForce RTX 50",
    "sm_121": "DGX Spark",
}
"""GPUs that can be asked about, with one of each generation."""
SERIES: Final = {
    "sm_61": r"(gtx |gt )?10[3-8]0|gtx 10|titan xp?|p4|p40|quadro p\d+|mx(150|2[35]0|3[35]0)",
    "sm_70": r"v100|titan v|quadro gv100",
    "sm_75": r"(rtx )?20[6-8]0|rtx 20|titan rtx|t4|quadro rtx [3-8]000",
    "sm_80": r"a100|a30|a800",
    "sm_86": r"(rtx )?30[5-9]0|rtx 30|rtx 2050|a2|a10g?|a16|a40|rtx a[1-6]000|rtx a[45]00|a[2-6]000|(rtx )?a[45]500",
    "sm_89": r"(rtx )?40[5-9]0|rtx 40|l4|l20|l40s?|(rtx )?[1-6][05]?00 ada( generation)?|rtx 5880 ada",
    "sm_90": r"h100|h200|h20|h800|gh200",
    "sm_100": r"b100|b200|gb200",
    "sm_120": r"(rtx )?50[5-9]0|rtx 50|rtx pro [1-6][05]?00( blackwell)?",
    "sm_121": r"(dgx )?spark|gb10",
}
"""Names of cards, without their maker and the words of :data:`_KINDS`.

Cards of Turing without tensor cores (GTX 16, MX 4, T 400 to T 2000) are left out: whether engines run there is unknown.
"""
CARD: Final = re.compile(r"(gtx|gt|rtx|mx|quadro|tesla|titan|geforce|nvidia|([abhlptv]|gh|gb)\d{1,4}[a-z]?\b)")
"""How the names of cards begin."""
_MAKERS: Final = re.compile(r"\b(nvidia|geforce|tesla)\b")
_KINDS: Final = re.compile(
    r"\b(ti|super|laptop|mobile|max-q|gpu|and the like|d|sxm\d?|hbm\d?e?|nvl|pcie|workstation|server|edition"
    r"|\d+ ?gi?b)\b|(?<=\d)ti\b"
)
_NUMBER: Final = re.compile(r"(?:sm|compute)?[ _-]?(\d{1,2})[._ ]?(\d)a?")


def target_named(text: str) -> str:
    """Return the target that a text names, such as sm_86; empty if it names none that is known.

    A compute capability that is written as one (sm_87, SM87 or 8.7) is a target even where no card of it is known.
    """
    word = " ".join(text.lower().split())
    if number := _NUMBER.fullmatch(word):
        target = f"sm_{number[1]}{number[2]}"
        if target in GPUS or not word.isdigit():
            return target
    word = _MAKERS.sub(" ", word)
    word = re.sub(r"(rtx|gtx)[ -]?(?=\d)", r"\1 ", word)
    word = " ".join(_KINDS.sub(" ", word).replace("-", " ").split())
    return next((target for target, names in SERIES.items() if re.fullmatch(names, word)), "")


def allowed_gpus() -> str:
    """Return in words which GPUs there are, and how they may be written."""
    return ", ".join(f"{one} ({name})" for one, name in GPUS.items()) + '; or a card, such as "RTX 4090"'


def unknown(text: str) -> str:
    """Say that a text names no GPU that is known, and what to write instead."""
    if CARD.match(" ".join(text.lower().split())):
        return (
            f"{text!r} is no card that smalti knows; look its compute capability up at developer.nvidia.com/cuda-gpus, "
            "and give that, such as sm_75"
        )
    return f"{text!r} is no GPU that smalti knows; allowed are {allowed_gpus()}"
