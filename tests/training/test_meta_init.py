from __future__ import annotations

import torch
from torch import nn

from smalti_train.models.meta_init import unfilled


def test_modules_have_shapes_and_no_values() -> None:
    torch.manual_seed(0)
    with unfilled():
        modules = nn.Sequential(nn.Embedding(10**6, 10**6), nn.Linear(4, 5), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        nn.init.normal_(modules[1].weight, std=0.02)
        nn.init.normal_(tensor=modules[1].weight)
    assert {value.device.type for value in modules.state_dict().values()} == {"meta"}
    assert modules[0].weight.shape == (10**6, 10**6)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), after), "no random numbers are drawn"


def test_they_are_filled_by_assignment() -> None:
    wanted = nn.Linear(3, 2)
    with unfilled():
        linear = nn.Linear(3, 2)
    linear.load_state_dict(wanted.state_dict(), assign=True)
    x = torch.rand(1, 3)
    assert torch.equal(linear(x), wanted(x))
