"""Feature networks from the user's weights: Inception-v3 and VGG16, recognised by the file's tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.importers.reading import some, unpacked
from smalti_train.models import inception_v3, vgg16
from smalti_train.models.inception_v3 import InceptionV3
from smalti_train.models.vgg16 import VGG16

UNDERSTOOD = (
    "Understood are, as .pth, .pt or .safetensors: the Inception-v3 of pytorch-fid "
    "(pt_inception-2015-12-05-6726825d.pth) or of torchvision (inception_v3_google-*.pth), and torchvision's VGG16 "
    "(vgg16-*.pth); pass one of them as published"
)
FID_CLASSES, TORCHVISION_CLASSES = 1008, 1000
CAFFE_VGG16 = "88682ab5"
"""First digits of the sha256 of torchvision's vgg16_features-amdegroot-88682ab5.pth."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 3
"""Greatest number of keys of each kind in a message."""


def open_weights(path: Path) -> tuple[str, int, nn.Module, str]:
    """Open a file of weights: name for reports, images' side in pixels, network, and sha256 (hex) of the file.

    The network is frozen and maps float [B, 3, side, side] in 0 .. 255 to features float [B, D]: "Inception-v3
    (file NAME)" 299 pixels to D = 2048, "VGG16 (file NAME)" 224 pixels to D = 512. Nothing in the file is executed.

    Raises UsageError for a file that cannot be read, is damaged, holds code or holds another network; MissingExtra
    for a .safetensors file when that package is not installed.
    """
    tensors, digest = _read(path)
    inception, vgg = _parameters(_empty_inception(fid=True)), _parameters(_empty_vgg())
    shared_inception, shared_vgg = len(inception.keys() & tensors.keys()), len(vgg.keys() & tensors.keys())
    if not shared_inception and not shared_vgg:
        raise UsageError(
            f"{path} holds neither Inception-v3 nor VGG16 but {some(tensors, SHOWN) or 'no tensors'}. {UNDERSTOOD}"
        )
    if shared_inception >= shared_vgg:
        weights = _fitting(path, "Inception-v3", tensors, inception, ("AuxLogits.", "fc."))
        name, side, network = "Inception-v3", inception_v3.SIDE, _empty_inception(_is_fid(path, tensors))
    else:
        weights = _fitting(path, "VGG16", tensors, vgg, ("classifier.",))
        _refuse_caffe(path, tensors, digest)
        name, side, network = "VGG16", vgg16.SIDE, _empty_vgg()
    network.load_state_dict(weights, assign=True)
    return f"{name} (file {path.name})", side, network, digest


def _empty_inception(fid: bool) -> InceptionV3:
    with torch.device("meta"):  # skip random values that are about to be replaced
        return InceptionV3(fid)


def _empty_vgg() -> VGG16:
    with torch.device("meta"):
        return VGG16()


def _parameters(network: nn.Module) -> dict[str, torch.Size]:
    """Shapes of all tensors that a file must hold."""
    return {
        key: tensor.shape for key, tensor in network.state_dict().items() if not key.endswith(".num_batches_tracked")
    }


def _is_fid(path: Path, tensors: dict[str, Tensor]) -> bool:
    """Whether this is the network of the Fréchet inception distance; the files differ only in the classifier."""
    classes = len(tensors["fc.weight"]) if "fc.weight" in tensors and tensors["fc.weight"].ndim else None
    auxiliary = any(key.startswith("AuxLogits.") for key in tensors)
    if classes == FID_CLASSES and not auxiliary:
        return True
    if classes == TORCHVISION_CLASSES or (classes is None and auxiliary):
        return False
    holds = f"fc.weight for {classes} classes" if classes is not None else "no fc.weight"
    raise UsageError(
        f"{path} is an Inception-v3 with {holds} and {'' if auxiliary else 'no '}AuxLogits: it could be pytorch-fid's "
        f"({FID_CLASSES} classes, no AuxLogits) or torchvision's ({TORCHVISION_CLASSES} classes), which pool "
        f"differently. {UNDERSTOOD}"
    )


def _refuse_caffe(path: Path, tensors: dict[str, Tensor], digest: str) -> None:
    """Refuse torchvision's other VGG16, which needs other input values; its classifier has no values."""
    biases = [value for key, value in tensors.items() if key.startswith("classifier.") and key.endswith(".bias")]
    if digest.startswith(CAFFE_VGG16) or not all(bias.isfinite().all() for bias in biases):
        raise UsageError(
            f"{path} is VGG16 without a classifier (torchvision's IMAGENET1K_FEATURES, from Caffe), which wants images "
            "scaled in another way; pass the weights that torchvision calls IMAGENET1K_V1 (vgg16-397923af.pth)"
        )


def _fitting(
    path: Path, name: str, tensors: dict[str, Tensor], shapes: dict[str, torch.Size], unused: tuple[str, ...]
) -> dict[str, Tensor]:
    """Copies (float32) of the tensors that ``shapes`` names.

    Raises UsageError for tensors that are missing, mis-shaped, not finite, or neither in ``shapes`` nor ``unused``.
    """
    spare = [key for key in tensors if not key.startswith(unused) and not key.endswith(".num_batches_tracked")]
    lacking = [key for key in shapes if key not in tensors]
    foreign = [key for key in spare if key not in shapes]
    wrong = [
        f"{key} {list(tensors[key].shape)} where {list(shape)} belongs"
        for key, shape in shapes.items()
        if key in tensors and tensors[key].shape != shape
    ]
    kinds = (("lacks", lacking), ("has", foreign), ("has", wrong))
    faults = [f"{verb} {some(keys, SHOWN)}" for verb, keys in kinds if keys]
    if faults:
        raise UsageError(f"{path} comes close to {name} but {'; '.join(faults)}. {UNDERSTOOD}")
    weights = {key: tensors[key].to(torch.float32, copy=True).contiguous() for key in shapes}
    broken = [key for key, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise UsageError(
            f"{path} is damaged: not every value is a finite number in {some(broken, SHOWN)}. Fetch it again"
        )
    return weights


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The named tensors of a file, on the CPU, and the sha256 (hex) of its bytes."""
    suffix = path.suffix.lower()
    try:
        if not path.is_file():
            fault = "is not a file; name the file of weights itself" if path.exists() else "does not exist"
            raise UsageError(f"{path} {fault}")
        if suffix not in (".pth", ".pt", ".safetensors"):
            raise UsageError(f"{path} does not end in .pth, .pt or .safetensors")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            held = unpacked(path, file)
    except UsageError as error:
        raise UsageError(f"{error}. {UNDERSTOOD}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}. Is the path right?") from error
    return _tensors(path, held), digest


def _tensors(path: Path, held: Any) -> dict[str, Tensor]:
    """``held``, or the ``state_dict`` in it. Raises UsageError unless it holds only named dense float tensors."""
    if _is_dict(held) and _is_dict(held.get("state_dict")):
        held = held["state_dict"]
    if not _is_dict(held):
        raise UsageError(f"{path} holds a {type(held).__name__} and not a dictionary of weights. {UNDERSTOOD}")
    odd = [str(key) for key, value in held.items() if not isinstance(key, str) or not _is_dense(value)]
    if odd:
        raise UsageError(f"{path} holds things that are not plain tensors of floats: {some(odd, SHOWN)}. {UNDERSTOOD}")
    return cast("dict[str, Tensor]", held)


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


def _is_dense(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.dtype in FLOATS or value.ndim == 0
