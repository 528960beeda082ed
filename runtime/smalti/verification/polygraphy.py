"""Write a bundle's graphs and golden inputs for Polygraphy: for each component a loader script and stored outputs.

    polygraphy run denoiser.fp16.onnx --onnxrt --data-loader-script denoiser_inputs.py --load-outputs denoiser.json ...

runs a graph on ONNX Runtime and compares it with the torch model's answers; ``--trt`` instead of ``--onnxrt`` runs it
on TensorRT.
"""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Measure
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, UsageError
from smalti.system.files import move_folder, whole_folder
from smalti.system.platform import reachable
from smalti.verification.golden import Case, read_golden

LOADER = '''"""Golden inputs of the {role}, for polygraphy --data-loader-script."""

from pathlib import Path

import numpy as np


def load_data():
    """Give the named inputs of each case."""
    arrays = np.load(Path(__file__).with_suffix(".npz"))
    for case in range({count}):
        yield {{name.split(".")[1]: arrays[name] for name in arrays.files if name.startswith(f"{{case}}.")}}
'''


def write_polygraphy(bundle: Bundle, output: Path) -> list[str]:
    """Write graphs, weights, loaders and outputs to the new folder ``output``; return a command for each graph.

    Only fp32 and fp16 graphs are written, because int8 graphs are for CPUs. The commands use the certificate's bounds
    for logits, pixels and embeddings. For tokens they require the certified share of equal tokens in every case, not on
    average.

    Raises UsageError when the bundle has no golden inputs or ``output`` exists, BundleError when a file is damaged,
    OutputError when writing fails; the folder is then not created.
    """
    check_new(output)
    golden = read_golden(bundle)
    if golden is None:
        raise UsageError(f"{bundle.path} has no golden inputs: export it again")
    files: dict[str, bytes] = {}
    graphs: dict[str, bytes] = {}
    commands: list[str] = []
    for role, cases in golden.cases.items():
        asked = [_answered(case) for case in cases]
        files[f"{role}_inputs.py"] = LOADER.format(role=role, count=len(asked)).encode()
        inputs: dict[str, Any] = {
            f"{index}.{name}": value for index, case in enumerate(asked) for name, value in case.inputs.items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, **inputs)
        files[f"{role}_inputs.npz"] = buffer.getvalue()
        files[f"{role}.json"] = json.dumps(_results(asked)).encode()
        for measure in bundle.manifest.certificate:
            if measure.component == role and measure.precision != "int8":
                variant = bundle.variant(role, measure.precision)
                graphs |= {file: bundle.read(file) for file in (variant.graph.file, *variant.weights)}
                commands.append(_command(measure, variant.graph.file, asked))
    bundle.forget()
    if same := {file.casefold() for file in files} & {file.casefold() for file in graphs}:  # scripts in particular
        raise BundleError(f"{bundle.path}: a file of a bundle cannot be called {min(same)}, as others here are")
    with whole_folder(output) as partial:
        for file, content in (files | graphs).items():
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            (partial / file).write_bytes(content)
        check_new(output)
        move_folder(partial, output)
    return commands


def check_new(output: Path) -> None:
    """Raise UsageError when ``output`` already exists."""
    if reachable(output).exists():
        raise UsageError(f"{output} exists; name a folder that does not exist yet")


def _answered(case: Case) -> Case:
    """Return the case for Polygraphy. A denoiser's inputs keep only the rows whose logits are stored."""
    outputs = {name: value for name, value in case.outputs.items() if name != "draws"}
    if "rows" in case.inputs and "logits" in outputs:
        return Case({**case.inputs, "rows": case.inputs["rows"][:, : outputs["logits"].shape[1]]}, outputs)
    return Case(case.inputs, outputs)


def _results(cases: list[Case]) -> dict[str, Any]:
    """Return the JSON that Polygraphy's RunResults.load reads."""
    runs = [
        {
            "outputs": {name: _kind("LazyArray", values=_array(value)) for name, value in case.outputs.items()},
            "runtime": 0,
            "runner_name": "model",
            "polygraphy_class": "IterationResult",
        }
        for case in cases
    ]
    return _kind("RunResults", lst=[["model", runs]])


def _kind(name: str, **content: Any) -> dict[str, Any]:
    return {**content, "polygraphy_class": name}


def _array(value: NDArray[Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return _kind("ndarray", array=base64.b64encode(buffer.getvalue()).decode())


def _command(measure: Measure, graph: str, cases: list[Case]) -> str:
    """Return the command to run in the folder, with the certificate's tolerances in Polygraphy's terms."""
    role, bounds = measure.component, measure.tolerances
    if "psnr" in bounds:
        compare = f"--compare psnr --psnr-threshold {bounds['psnr']:g}"
    elif "logit_error" in bounds:
        spread = max((float(case.outputs["logits"].std()) for case in cases if "logits" in case.outputs), default=0.0)
        compare = f"--rtol 0 --atol {bounds['logit_error'] * spread:.3g} --check-error-stat max"
    else:  # for vectors of length 1, no element differs by more than the length of the difference
        bounded, judged = ["tokens:0"], ["tokens:quantile"]
        if "cosine" in bounds:
            bounded.append(f"embedding:{math.sqrt(max(0.0, 2 - 2 * bounds['cosine'])):.3g}")
            judged.append("embedding:max")
        compare = f"--rtol 0 --atol {' '.join(bounded)} --check-error-stat {' '.join(judged)}"
        compare += f" --error-quantile tokens:{bounds.get('token_agreement', 1.0):g}"
    files = f"--data-loader-script {role}_inputs.py --load-outputs {role}.json"
    return f"polygraphy run {graph} --onnxrt {files} {compare}"
