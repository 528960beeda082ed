"""What a bundle's fp16 graphs do on a GPU, told on a CPU: how large their tensors become, and what rounding them costs.

    python bench/speed/fp16.py avatars

By the bundle's golden inputs. ONNX Runtime's CPU provider computes fp16 graphs in fp32, so that ``smalti bundle verify
--run`` shows neither; here every tensor is rounded to fp16 (``smalti_export.precision.fp16``). Prints a line for each
component and exits with 1 when one may leave the range of fp16.
"""

from __future__ import annotations

import argparse
import sys

import onnx

from smalti.bundle.reader import open_bundle
from smalti.errors import SmaltiError
from smalti.verification.golden import compare_golden, read_golden
from smalti_export.precision.fp16 import fp16_tensors, greatest, in_fp32, on_cpu
from smalti_export.precision.overflow import too_large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="path or name of a bundle with golden inputs")
    try:
        bundle = open_bundle(parser.parse_args().bundle)
        golden = read_golden(bundle)
    except SmaltiError as error:
        sys.exit(str(error))
    if golden is None:
        sys.exit(f"{bundle.path} has no golden inputs; export it again")
    if not any("fp16" in bundle.precisions(role) for role in golden.cases):
        sys.exit(f"{bundle.path} has no fp16 graphs; export it with --precision fp16")
    print("| component | greatest value of an fp16 tensor | figures with every tensor rounded to fp16 |")
    print("| --- | --- | --- |")
    wrong: list[str] = []
    for role, cases in golden.cases.items():
        if "fp16" not in bundle.precisions(role):
            continue
        variant = bundle.variant(role, "fp16")
        proto = onnx.ModelProto.FromString(bundle.read(variant.graph.file))
        (file,) = variant.weights
        weights = file, bundle.read(file)
        halves = fp16_tensors(proto)
        large = greatest(proto, weights, halves, [case.inputs for case in cases])
        wrong += [f"{role}: {name}" for name in too_large(large)]
        figures = compare_golden(bundle, role, cases, on_cpu(in_fp32(proto, halves, rounded=True), weights))
        told = ", ".join(f"{name} {value:.5g}" for name, value in figures.items())
        print(f"| {role} | {max(large.values()):.4g} | {told} |", flush=True)
    if wrong:
        sys.exit(f"may leave the range of fp16: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
