from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.vgg16 import VGG16
from smalti_train.trainers.perceptual import CHANNELS, LPIPS, open_lpips, read_heads

Saved = Callable[..., Path]


@pytest.fixture(scope="module")
def network() -> VGG16:
    torch.manual_seed(0)
    made = VGG16()
    for key, value in made.state_dict().items():
        nn.init.kaiming_normal_(value) if key.endswith("weight") else value.normal_(0, 0.1)
    return made


@pytest.fixture
def heads() -> dict[str, Tensor]:
    """As LPIPS publishes them."""
    torch.manual_seed(1)
    return {f"lin{index}.model.1.weight": torch.rand(1, channels, 1, 1) for index, channels in enumerate(CHANNELS)}


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    def save(held: object, name: str = "vgg.pth") -> Path:
        torch.save(held, tmp_path / name)
        return tmp_path / name

    return save


def pictures(seed: int) -> Tensor:
    """Images float [2, 3, 32, 48] in [-1, 1]."""
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def by_hand(network: VGG16, heads: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """LPIPS of images in [-1, 1], with the scaling its own code has."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = torch.zeros(len(x))
    a, b = ((images - shift[:, None, None]) / scale[:, None, None] for images in (x, y))
    stage = 0
    for layer in network.features:
        if isinstance(layer, nn.MaxPool2d):
            difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square()
            total += F.conv2d(difference, heads[f"lin{stage}.model.1.weight"]).mean((1, 2, 3))
            stage += 1
        a, b = layer(a), layer(b)
    assert stage == 5
    return total


def test_distance_by_hand(network: VGG16, heads: dict[str, Tensor]) -> None:
    lpips = LPIPS(network, list(heads.values()))
    torch.testing.assert_close(
        lpips(pictures(0), pictures(1)), by_hand(network, heads, pictures(0), pictures(1)), atol=1e-4, rtol=1e-4
    )


def test_without_heads_channels_count_alike(network: VGG16) -> None:
    ones = {f"lin{index}.model.1.weight": torch.ones(1, channels, 1, 1) for index, channels in enumerate(CHANNELS)}
    found = LPIPS(network)(pictures(0), pictures(1))
    torch.testing.assert_close(found, by_hand(network, ones, pictures(0), pictures(1)), atol=1e-3, rtol=1e-4)


def test_equal_images_have_no_distance_in_any_range(network: VGG16, heads: dict[str, Tensor]) -> None:
    lpips = LPIPS(network, list(heads.values()))
    x, y = pictures(0), pictures(1)
    assert lpips(x, x).abs().max() == 0
    torch.testing.assert_close(lpips((x + 1) / 2, (y + 1) / 2, (0.0, 1.0)), lpips(x, y), atol=1e-4, rtol=1e-4)


def test_it_teaches_the_reconstruction_alone(network: VGG16, heads: dict[str, Tensor]) -> None:
    lpips = LPIPS(network, list(heads.values())).train()
    x, y = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    lpips(x, y).mean().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert y.grad is None
    assert not lpips.network.training
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def light() -> dict[str, Tensor]:
    """VGG16's weights, each tensor one number repeated, so that a file of them is small."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in VGG16().state_dict().items()}
    return {key: torch.tensor((1 + index) / 1024).expand(shape) for index, (key, shape) in enumerate(shapes.items())}


def test_weights_of_the_user(heads: dict[str, Tensor], saved: Saved) -> None:
    vgg = saved(light(), "vgg16-397923af.pth")
    lpips = open_lpips(vgg, saved(heads))
    assert torch.equal(lpips.get_buffer("head3"), heads["lin3.model.1.weight"])
    assert lpips.network.features[0].bias[0] == light()["features.0.bias"][0]
    assert torch.equal(open_lpips(vgg).get_buffer("head0"), torch.ones(1, 64, 1, 1))


def test_heads_in_a_whole_lpips(heads: dict[str, Tensor], saved: Saved) -> None:
    whole = {"net.slice1.0.weight": torch.zeros(1), "scaling_layer.shift": torch.zeros(1), **heads}
    whole |= {name.replace("lin", "lins.", 1): value for name, value in heads.items()}
    found = read_heads(saved(whole))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, heads.values(), strict=True))


def test_other_files_are_refused(heads: dict[str, Tensor], saved: Saved) -> None:
    for change in ("lin2.model.1.weight", "lin4.model.1.weight"):
        with pytest.raises(UsageError, match=rf"vgg\.pth.*lacks {change}.*LPIPS 0\.1"):
            read_heads(saved({name: value for name, value in heads.items() if name != change}))
    with pytest.raises(UsageError, match=r"lin0.model.1.weight \[1, 3, 1, 1\] where \[1, 64, 1, 1\] belongs"):
        read_heads(saved({**heads, "lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}))
    with pytest.raises(UsageError, match=r"neither Inception-v3 nor VGG16"):
        open_lpips(saved(heads))
