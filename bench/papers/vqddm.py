"""The claims of Hu et al. 2022, repeated small: ``python bench/papers/vqddm.py COMMAND``.

Every command trains what it needs below ``--work``, writes rows of JSON and sheets into ``--results``, and skips what
is done; killed, it goes on where it was when called again. ``report`` makes tables and plots of the rows. In this
order, with minutes on two cores of a server without AMX, rounded, as some ran beside other work:

    refit         40    two autoencoders starved of codes, their decoders trained further on the old codes, on as many
                        rebuilt ones and on half as many; reconstructions
    steps         23    the prior (14); 640 samples at 1 .. 100 steps
    completion     3    160 pictures, each half from the other, by three families
    costs          1    parameters, FLOPs, seconds per image beside absorbing and SUNDAE priors
    report         0
    all           67    all of these

They draw on what ``bench/papers/unleashing.py table4`` leaves in ``--earlier``: the warm start that is starved, the
VQGAN whose 8x8 tokens the prior learns, and the absorbing and the autoregressive prior that it is compared with; what
is not there is trained first (65 minutes).

What is scaled down, and why: images are avatars of 64x64 on 8x8 tokens in place of faces of 256x256 on 16x16, the U-Net
has 8 million parameters where the paper's has 118, T = 1000 steps of noise where it has 4000, and trainings have some
hundreds of steps, all for two cores. Codebooks are starved on purpose: 70 % of their codes are made copies of one code,
and are never picked; long trainings of large codebooks come to the same. They are those of the warm start (see above)
and of the embedded bundle's autoencoder (256x256, 1024 codes). Distances are FID-style (EffNet-Lite0): they compare
with each other, at equal numbers of pictures, and with nothing published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from claims import commands, completion, multinomial_priors, multinomial_report, refitting
from claims.multinomial_sizes import MultinomialBench

COMMANDS: commands.Commands[MultinomialBench] = {
    "refit": (40, "starved codebooks rebuilt, as large and half as large", refitting.refit),
    "steps": (23, "quality by steps", multinomial_priors.steps),
    "completion": (3, "half of a picture from the other half", completion.completion),
    "costs": (1, "parameters, FLOPs and seconds beside other priors", multinomial_priors.costs),
    "report": (0, "tables and plots of what was measured", multinomial_report.report),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command, or all in order."""
    parser = commands.parser_of(__doc__, "vqddm")
    parser.add_argument(
        "--earlier", type=Path, default=Path("runs/unleashing"), help="folder of bench/papers/unleashing.py's trainings"
    )

    def bench(options: argparse.Namespace) -> MultinomialBench:
        return MultinomialBench.of(options.tiny, options.work, options.results, options.earlier)

    commands.run(parser, COMMANDS, bench, arguments)


if __name__ == "__main__":
    main()
