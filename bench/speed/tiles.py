"""Does a decode by tiles equal the decode of the whole? ``python bench/speed/tiles.py [BUNDLE] [--precision fp32]``.

Prints, for a 1024x1024 picture of tokens drawn by the model, the greatest and the mean difference (of 255) over all
pixels, and the mean within two pixels of a tile's border.
"""

from __future__ import annotations

import argparse

import numpy as np

import smalti
from smalti.codec import tiles


def main() -> None:
    """Compare tiles of 16, 24 and 32 tokens with the whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    gen = smalti.load(options.bundle, precision=options.precision)
    latent = gen.manifest.latent
    # Sixteen drawn pictures side by side: real tokens, with hard edges between them.
    drawn = gen.generate(16, seed=0).tokens
    height, width = latent.grid
    tokens = drawn.reshape(4, 4, height, width).transpose(0, 2, 1, 3).reshape(1, 4 * height, 4 * width)

    session = gen.backend.open(gen.bundle, "decoder", gen.report.precision["decoder"])

    def decode(part: np.ndarray) -> np.ndarray:
        return session({"tokens": part})[0]

    whole = decode(tokens)
    print(f"{gen.manifest.name}, decoder {gen.report.precision['decoder']}, {whole.shape[2]}x{whole.shape[1]} pixels")
    for tile in (16, 24, 32):
        parts = tiles.decode_tiled(decode, tokens, latent.factor, latent.halo, tile)
        difference = np.abs(parts.astype(np.int16) - whole)[0].max(axis=-1)
        near = np.zeros_like(difference, bool)
        for border in range(tile * latent.factor, len(near), tile * latent.factor):
            near[border - 2 : border + 2] = near[:, border - 2 : border + 2] = True
        print(
            f"tile {tile:2}: greatest {difference.max()}, mean {difference.mean():.6f}, "
            f"mean at borders {difference[near].mean():.6f}"
        )


if __name__ == "__main__":
    main()
