from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from smalti_train.evaluation.features import _converted
from smalti_train.models.inception_v3 import (
    DIM,
    BlockA,
    BlockE,
    Conv,
    InceptionV3,
    averaged,
    averaged_inside,
    greatest,
)


def filled(network: nn.Module) -> nn.Module:
    """The network with noise for weights, by He's rule: the same everywhere, neither vanishing nor exploding."""
    generator = np.random.Generator(np.random.PCG64(7))
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = generator.random(tensor.shape, dtype=np.float32) * 2 - 1
        if tensor.ndim == 4:
            noise *= (6 / tensor[0].numel()) ** 0.5
        elif name.endswith(("bias", "running_mean")):
            noise *= 0.5
        else:
            noise = 1 + noise / 2
        tensor.copy_(torch.from_numpy(noise))
    return network


def waves(count: int, side: int) -> np.ndarray:
    """Pictures, uint8 [count, side, side, 3], of which no two are alike."""
    y, x = np.mgrid[:side, :side] * (6.0 / side)
    tints = np.stack([[np.sin(x * (1 + i) + y * (3 - i) + c * i) for c in range(3)] for i in range(count)])
    return (127.5 + 127.5 * tints.transpose(0, 2, 3, 1)).astype(np.uint8)


def test_size_of_the_published_network() -> None:
    with torch.device("meta"):
        network = InceptionV3(fid=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_785_568
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert len(shapes) == 94 * 6
    assert shapes["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6a.branch3x3.conv.weight"] == (384, 288, 3, 3)
    assert shapes["Mixed_6c.branch7x7dbl_5.conv.weight"] == (192, 160, 1, 7)
    assert shapes["Mixed_7a.branch7x7x3_4.bn.running_var"] == (192,)
    assert shapes["Mixed_7c.branch3x3dbl_1.conv.weight"] == (448, 2048, 1, 1)


def test_pools_at_the_edge() -> None:
    ones = torch.ones(1, 1, 4, 4)
    assert averaged(ones)[0, 0, 0].tolist() == pytest.approx([4 / 9, 6 / 9, 6 / 9, 4 / 9])
    assert torch.equal(averaged_inside(ones), ones)
    assert torch.equal(greatest(-ones), -ones)


def test_each_form_has_its_pools() -> None:
    with torch.device("meta"):
        fid, plain = InceptionV3(fid=True), InceptionV3(fid=False)
    blocks = ["Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b"]
    assert {getattr(fid, name).pool for name in blocks} == {averaged_inside}
    assert fid.Mixed_7c.pool is greatest
    assert {getattr(plain, name).pool for name in [*blocks, "Mixed_7c"]} == {averaged}


@pytest.mark.parametrize(
    ("fid", "sums"),
    [
        (True, [621.425, 762.510, 751.628, 615.768, 551.010, 571.604]),
        (False, [544.251, 672.550, 671.519, 550.492, 489.478, 194.768]),
    ],
)
def test_features_are_those_of_an_independent_implementation(fid: bool, sums: list[float]) -> None:
    # Sums over the six branches of the last block, as torch-fidelity 0.4.0 computes them with these weights (and with
    # plain average pools put in its place for fid=False); the two agreed to the last bit.
    images = torch.from_numpy(waves(2, 139)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = filled(InceptionV3(fid))(images)
    assert features.shape == (2, DIM)
    parts = features[1].split([320, 384, 384, 384, 384, 192])
    assert [part.sum().item() for part in parts] == pytest.approx(sums, rel=1e-4)


def test_stays_frozen_in_eval_mode() -> None:
    network = nn.Sequential(InceptionV3(fid=True)).train()
    assert not any(module.training for module in network[0].modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_converts() -> None:
    # The whole network takes ten seconds; what these blocks lack is more of the same.
    blocks = (BlockA(192, 64, averaged_inside), Conv(288, 1280, 3, stride=2), BlockE(1280, greatest))
    network = filled(nn.Sequential(Conv(3, 192, 3, stride=2), *blocks)).eval()
    images = waves(3, 19)
    session = onnxruntime.InferenceSession(_converted(network, 19), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images})[0]
    with torch.no_grad():
        wanted = network(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    assert found.shape == (3, 2048, 4, 4)
    assert np.abs(found - wanted).max() < 1e-3 * wanted.std(axis=0).mean()
