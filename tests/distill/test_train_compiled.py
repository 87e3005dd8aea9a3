from dataclasses import replace

import numpy as np
import pytest
import torch

from atomjet.distill.batches import FrameStore
from atomjet.distill.compiled import CompiledLoss, capacity, inductor
from atomjet.distill.loss import losses
from atomjet.distill.optimizer import FlatAdamW
from atomjet.distill.train_config import TrainConfig
from atomjet.models.painn import PaiNN, PaiNNConfig
from tests.distill.labelled import labelled_frames

CONFIG = TrainConfig(epochs=1, force_cap=2.0)


def as_traced(traced):
    """Run the operations one by one."""
    return traced


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # from within PyTorch
@pytest.mark.parametrize("compiler", [as_traced, pytest.param(inductor, marks=pytest.mark.slow)])
def test_equals_the_ordinary_step_for_batches_of_several_sizes(compiler):
    torch.manual_seed(0)
    store = FrameStore(labelled_frames(), np.zeros(100), 4.0, torch.device("cpu"))
    model = PaiNN(PaiNNConfig(features=16, layers=2, cutoff=4.0))
    torch.nn.init.normal_(model.readout[2].bias)
    optimizer = FlatAdamW(model, PaiNN(model.config), 0.0, 0.0, 1e9)
    compiled = CompiledLoss(model, CONFIG, store, np.ones(len(store)), 8, compiler)
    for indices in ([0, 1, 2, 12, 13, 14, 33, 34], [12, 3, 20, 4, 5, 6, 7], [12]):
        batch = store.batch(np.array(indices), frames=2 * len(indices), atoms=77)
        assert compiled.fits(batch)
        total, parts = losses(model, batch, CONFIG)
        total.backward()
        found_total, found_parts, gradient = compiled(batch)
        torch.testing.assert_close(found_total, total.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found_parts, parts, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, optimizer.gradient, rtol=1e-4, atol=1e-5)
        optimizer.step(1e-2)  # the next batch must see the new weights


def test_hessian_rows_and_repulsion_in_batches_with_and_without_rows():
    """Random rows of six frames of the 32; nothing of what is added to fill a batch may reach the loss."""
    rng = np.random.default_rng(1)
    frames, having = labelled_frames(), np.array([0, 1, 2, 12, 13, 14])
    size = frames.counts[having]
    frames = replace(
        frames,
        hessian_frame=having,
        hessian_atom=np.zeros(6, dtype=np.int64),
        hessian_axis=np.arange(6) % 3,
        hessian_ptr=np.concatenate([[0], np.cumsum(size)]),
        hessian_rows=rng.normal(scale=20, size=(int(size.sum()), 3)).astype(np.float32),
    )
    config = CONFIG.model_copy(update={"hessian_weight": 0.3})
    torch.manual_seed(0)
    store = FrameStore(frames, np.zeros(100), 4.0, torch.device("cpu"))
    model = PaiNN(PaiNNConfig(features=8, layers=2, cutoff=4.0, zbl=(0.8, 1.4)))
    optimizer = FlatAdamW(model, PaiNN(model.config), 0.0, 0.0, 1e9)
    compiled = CompiledLoss(model, config, store, np.ones(len(store)), 8, as_traced)
    seen = []
    for indices in ([0, 1, 2, 12, 33, 34], [3, 4, 20], [13, 14, 3]):
        chosen = np.array(indices)
        rows = store.hessian(chosen, np.zeros(len(chosen)), store.atoms_with_rows(chosen))
        batch = replace(store.batch(chosen), hessian=rows)
        total, parts = losses(model, batch, config)
        total.backward()
        found_total, found_parts, gradient = compiled(batch)
        torch.testing.assert_close(found_total, total.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found_parts, parts, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, optimizer.gradient, rtol=1e-4, atol=1e-4)
        optimizer.gradient.zero_()
        seen.append(float(parts[2]))
    assert seen[0] > 1
    assert seen[1] == 0
    assert seen[2] > 1


def test_batches_without_room_are_told():
    store = FrameStore(labelled_frames(), np.zeros(100), 4.0, torch.device("cpu"))
    compiled = CompiledLoss(PaiNN(PaiNNConfig(features=4, layers=1)), CONFIG, store, np.ones(len(store)), 8)
    assert compiled.fits(store.batch(np.arange(8)))
    assert not compiled.fits(store.batch(np.arange(9)))
    assert not compiled.fits(store.batch(np.zeros(8, dtype=np.int64).repeat(6)))


def test_capacity_holds_random_batches():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 43, size=5000)
    room = capacity(sizes, np.ones(5000), 256)
    drawn = [int(sizes[rng.choice(5000, 256, replace=False)].sum()) for _ in range(2000)]
    assert max(drawn) < room < 1.2 * np.mean(drawn)
