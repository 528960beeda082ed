"""The claims of McKinney and Willcocks 2022, repeated small: ``python bench/papers/sundae.py COMMAND``.

Every command trains what it needs below ``--work``, writes rows of JSON and sheets into ``--results``, and skips what
is done; killed, it goes on where it was when called again. ``report`` makes tables and plots of the rows. In this
order, with the minutes that two cores of a server without AMX took:

    fashion       46    a prior over grey pixels (33), a classifier, 150 samples by each of four samplers
    resampling    15    four priors that differ in how they shorten grids and tell positions
    unrolls        7    one more, unrolled three times; 640 samples of each
    steps         14    the prior that is drawn from (8); 640 samples at 2 .. 50 steps
    temperature    4    640 samples at three more temperatures
    versus         8    640 samples of absorbing diffusion at 5, 20 and 50 steps, at two temperatures
    freezing       2    64 samples at 50 and 100 steps, at two temperatures, with and without freezing
    inpainting     4    export of two bundles, masks of five shapes
    report         0
    all          100    all of these

The avatars' commands draw on what ``bench/papers/unleashing.py table4`` leaves in ``--earlier``: the VQGAN whose 8x8
tokens they learn, and the absorbing prior that they are compared with; what is not there is trained first (40
minutes). Fashion-MNIST is Debian's package dataset-fashion-mnist, or the folder ``--fashion-mnist``.

What is scaled down, and why: for two cores, the priors have 3 to 9 million parameters where the paper's have 214 and
more, and learn from some hundreds of steps; images are avatars of 64x64 on 8x8 tokens in place of faces of 1024x1024 on
32x32. Short trainings also learn where in the grid a token stands (``places``), but not those that compare positions.
Bits per token are those of training, unrolled twice: they compare with each other, and bound no likelihood. Distances
are FID-style (EffNet-Lite0) over 640 samples, to unseen images and to their reconstructions: they too compare with
each other only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from claims import commands, fashion, repainting, sundae_priors, sundae_report, sundae_samples
from claims.sundae_sizes import SundaeBench

COMMANDS: commands.Commands[SundaeBench] = {
    "fashion": (46, "class-conditional Fashion-MNIST, pixel by pixel", fashion.fashion),
    "resampling": (15, "2x2 against raster resampling, 2D against 1D rotary positions", sundae_priors.resampling),
    "unrolls": (7, "two unrolls in training against three", sundae_priors.unrolls),
    "steps": (14, "quality by steps", sundae_samples.steps),
    "temperature": (4, "annealed against constant temperature", sundae_samples.temperature),
    "versus": (8, "SUNDAE against absorbing diffusion at equal calls", sundae_samples.versus),
    "freezing": (2, "what freezing saves at batch 64", sundae_samples.freezing),
    "inpainting": (4, "pictures repainted under masks of any shape", repainting.inpainting),
    "report": (0, "tables and plots of what was measured", sundae_report.report),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command, or all in order."""
    parser = commands.parser_of(__doc__, "sundae")
    parser.add_argument(
        "--earlier", type=Path, default=Path("runs/unleashing"), help="folder of bench/papers/unleashing.py's trainings"
    )
    parser.add_argument("--fashion-mnist", type=Path, help="folder of Fashion-MNIST's four files")

    def bench(options: argparse.Namespace) -> SundaeBench:
        return SundaeBench.of(options.tiny, options.work, options.results, options.earlier, options.fashion_mnist)

    commands.run(parser, COMMANDS, bench, arguments)


if __name__ == "__main__":
    main()
