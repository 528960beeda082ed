"""The claims of Bond-Taylor et al. 2021, repeated small: ``python bench/papers/unleashing.py COMMAND``.

Every command trains what it needs below ``--work``, writes rows of JSON and sheets into ``--results``, and skips what
is done; killed, it goes on where it was when called again. ``report`` makes tables and plots of the rows. In this
order, with minutes on two cores of a server without AMX. They are estimates from a few timed steps: a VQGAN learns 24
images a second with its discriminator (without it 30, going by one core's times), a prior 97 and draws at 190 a call.

    table5     47    VQGAN without its discriminator (17), then four variants with it (28); reconstructions
    figure5    46    five priors: reweighted and ELBO with two seeds each, MLM with one
    table4     28    two autoregressive priors; 640 samples from each of four runs
    table3      8    640 samples at 50, 100, 150 and 200 steps of 256 (12 .. 50 of 64); all 64 are table 4's
    table1     12    640 samples at three more temperatures
    figure4     5    export; canvases up to three times as wide, inpainting
    bits        3    the log-sigma head, 5-bit images
    report      0
    all       149    all of these

What is scaled down, and why: images are avatars (DiceBear, synthetic) of 64x64 in place of photographs of 256x256, for
two cores; the VQGAN is 32 channels wide where the paper's is 128, with f = 8 and 512 codes, so 8x8 tokens; the
transformer has 6 layers 256 wide (5M parameters, the paper's has 77M) and knows the eight labels; trainings have some
hundreds of steps where the paper's have a million, and figures are taken over 640 samples, not 50,000. So that few
steps suffice, the VQGAN's codebook is fitted by k-means halfway (see ``claims.autoencoders``), and table 5's variants
go on from one warm start, on 2000 images, so that a discriminator sees them several times and could overfit.
Distances are FID-style (EffNet-Lite0): they compare with each other and with nothing published.
"""

from __future__ import annotations

import argparse

from claims import autoencoders, canvases, commands, plots, priors, samples, tables
from claims.common import FULL, TINY, Bench


def report(bench: Bench) -> None:
    """Write ``tables.md`` and the plots."""
    for path in (*plots.draw_all(bench), tables.report(bench)):
        print(path)


COMMANDS: commands.Commands[Bench] = {
    "table5": (47, "ablation of DiffAugment and of lambda's clamp", autoencoders.table5),
    "figure5": (46, "validation bounds of the reweighted, the plain and the MLM objective", priors.figure5),
    "table4": (28, "absorbing against autoregressive", priors.table4),
    "table3": (8, "samples in fewer steps", lambda bench: samples.table3(bench, priors.best(bench))),
    "table1": (12, "samples at other temperatures", lambda bench: samples.table1(bench, priors.best(bench))),
    "figure4": (5, "larger canvases and inpainting", lambda b: canvases.figure4(b, lambda: priors.best(b))),
    "bits": (3, "bits per dimension of pixels", lambda bench: autoencoders.bits(bench, priors.best(bench))),
    "report": (0, "tables and plots of what was measured", report),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command, or all in order."""

    def bench(options: argparse.Namespace) -> Bench:
        return Bench(TINY if options.tiny else FULL, options.work, options.results)

    commands.run(commands.parser_of(__doc__, "unleashing"), COMMANDS, bench, arguments)


if __name__ == "__main__":
    main()
