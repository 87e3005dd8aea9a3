import copy

import pytest
import torch
from torch import nn

from atomjet.distill.optimizer import FlatAdamW
from atomjet.models.painn import PaiNN, PaiNNConfig


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 1))
    return model, copy.deepcopy(model)


def test_equals_torch_adamw_with_clipping():
    ours, theirs = pair()
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim == 1]
    reference = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}])
    optimizer = FlatAdamW(ours, copy.deepcopy(ours), weight_decay=0.1, ema_decay=0.9, clip_norm=0.05)
    for step in range(30):
        x = torch.randn(11, 5, generator=torch.Generator().manual_seed(step))
        rate = 1e-2 / (step + 1)
        ours(x).square().mean().backward()
        assert optimizer.step(rate) == 1
        reference.zero_grad()
        theirs(x).square().mean().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


def test_average_follows_the_weights():
    model, averaged = pair()
    optimizer = FlatAdamW(model, averaged, 0.0, ema_decay=0.5, clip_norm=1.0)
    expected = optimizer.average.clone()
    for step in range(1, 9):
        model(torch.ones(2, 5)).sum().backward()
        optimizer.step(0.1)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * optimizer.weights
    torch.testing.assert_close(optimizer.average, expected)
    torch.testing.assert_close(next(averaged.parameters()).detach().ravel(), optimizer.average[:35])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(value):
    model, averaged = pair()
    optimizer = FlatAdamW(model, averaged, 0.1, 0.9, 1.0)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step(0.1)
    before = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    model(torch.ones(2, 5)).sum().backward()
    optimizer.gradient[3] = value
    assert optimizer.step(0.1) == 0
    assert optimizer.counts.tolist() == [1, 1, 1]
    for name in ("weights", "average", "first_moment", "second_moment"):
        assert torch.equal(getattr(optimizer, name), before[name]), name
    model(torch.ones(2, 5)).sum().backward()
    assert optimizer.step(0.1) == 1
    assert optimizer.counts.tolist() == [2, 1, 0]


def test_embeddings_and_biases_do_not_decay():
    model = PaiNN(PaiNNConfig(features=4, layers=1, num_radial=3))
    optimizer = FlatAdamW(model, copy.deepcopy(model), weight_decay=0.5, ema_decay=0.9, clip_norm=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step(0.1)
    for name, p in model.named_parameters():
        shrinks = p.ndim > 1 and "embedding" not in name
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if shrinks else 1.0))
