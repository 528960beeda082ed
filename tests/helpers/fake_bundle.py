"""A bundle without graphs: tiny pictures by a NullBackend, which may take its time."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import smalti
from smalti.bundle.reader import embedded_bundles

SIDE, CODES, FACTOR = 2, 16, 4


def write_fake_bundle(folder: Path) -> Path:
    """Write the manifest of the embedded bundle, with grids of 2x2 tokens of 16 codes and pictures of 8x8 pixels."""
    text = (embedded_bundles()["avatars"] / "manifest.json").read_text("utf-8").replace('"16*', f'"{FACTOR}*')
    content: dict[str, Any] = json.loads(text)
    content["name"] = "fake"
    content["latent"] |= {"grid": [SIDE, SIDE], "codes": CODES, "factor": FACTOR}
    own = {"pixels": SIDE * FACTOR, "factor": FACTOR, "decoder": "decoder", "halo": content["latent"]["halo"]}
    content["resolutions"] = [own]
    for role in ("decoder_512", "decoder_1024", "preview"):
        del content["components"][role]
    denoiser = content["components"]["denoiser"]
    for spec in (*denoiser["inputs"], *denoiser["outputs"]):
        spec["shape"] = [{256: SIDE * SIDE, 8192: CODES}.get(side, side) for side in spec["shape"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(content), "utf-8")
    return folder


@dataclass
class SlowBackend(smalti.NullBackend):
    """A NullBackend whose every call of a graph takes some seconds, so that a batch can be killed meanwhile."""

    seconds: float = 0.0

    def open(self, *arguments: Any) -> Any:
        session, seconds = super().open(*arguments), self.seconds

        class Slow:
            inputs, outputs = session.inputs, session.outputs

            def __call__(self, inputs: Any) -> Any:
                time.sleep(seconds)
                return session(inputs)

        return Slow()
