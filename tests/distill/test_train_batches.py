from dataclasses import replace

import numpy as np
import pytest
import torch

from atomjet.distill.batches import FrameStore, draws_per_epoch, epoch_order, to_system
from atomjet.distill.frames import Frames, concatenate, make_frames
from atomjet.distill.reference_energies import fit_reference_energies, without_repulsion
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.neighbors.brute_force import brute_force
from tests.distill.labelled import labelled_frames

CPU = torch.device("cpu")


def test_batch_equals_a_fresh_search():
    frames = labelled_frames()
    store = FrameStore(frames, np.zeros(100), 3.0, CPU)
    chosen = np.array([20, 3, 33, 3])
    batch, graph = store.batch(chosen), brute_force(to_system(frames.select(chosen), CPU), 3.0)
    for name in ("centers", "neighbors", "shifts", "vectors", "row_ptr", "atomic_numbers", "system_index"):
        assert torch.equal(getattr(batch.graph, name), getattr(graph, name)), name
    picked = frames.select(chosen)
    assert torch.equal(batch.forces, torch.as_tensor(picked.forces))
    np.testing.assert_allclose(batch.energy, picked.energy, rtol=1e-7)
    assert batch.counts.tolist() == [3, 9, 6, 9]
    assert batch.strongest[2] == pytest.approx(np.linalg.norm(picked.forces[12:18], axis=1).max())


def test_runs_in_order_hold_every_frame_once(monkeypatch):
    monkeypatch.setattr("atomjet.distill.batches.PREDICTION_EDGES", 200)
    store = FrameStore(labelled_frames(), np.zeros(100), 3.0, CPU)
    runs = list(store.in_order())
    assert len(runs) > 3
    assert np.array_equal(np.concatenate(runs), np.arange(len(store)))


def test_free_atoms_do_not_dominate_the_energy_loss():
    """All of them together weigh a thousandth of the frames; where they are as few anyway, they count in full."""
    counts = [(1, 0, 0), (0, 1, 0)] + [(4, 1, 0)] * 18
    few = FrameStore(synthetic(counts, np.zeros(20)), np.zeros(100), 3.0, CPU)
    weights = few.batch(np.arange(20)).energy_weight
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.01, 0.01] + [1.0] * 18)
    many = FrameStore(synthetic([(1, 0, 0)] + [(2, 0, 0)] * 999, np.zeros(1000)), np.zeros(100), 3.0, CPU)
    assert bool((many.energy_weight == 1).all())


def test_hessian_rows_land_on_their_atoms():
    rng = np.random.default_rng(0)
    frames = labelled_frames().select(np.array([0, 14, 1]))
    frames = Frames(
        **{
            **frames.__dict__,
            "hessian_frame": [1, 0, 1],
            "hessian_atom": [2, 5, 0],
            "hessian_axis": [0, 1, 2],
            "hessian_ptr": [0, 3, 12, 15],
            "hessian_rows": rng.normal(size=(15, 3)),
        }
    )
    store = FrameStore(frames, np.zeros(100), 3.0, CPU)
    order = np.array([2, 1, 0])  # 9 + 3 + 9 atoms
    labels = store.hessian(order, np.array([0.5, 0.7, 0.0]), store.atoms_with_rows(order))
    assert labels is not None
    assert labels.atoms == 12
    assert np.argwhere(labels.direction.numpy()).tolist() == [[9 + 0, 2], [12 + 5, 1]]
    expected = np.zeros((21, 3), dtype=np.float32)
    expected[9:12], expected[12:] = frames.hessian_rows[12:15], frames.hessian_rows[3:12]
    assert np.array_equal(labels.rows, expected)
    assert labels.present.tolist() == [0.0] * 9 + [1.0] * 12
    assert store.hessian(np.array([2]), np.array([0.5]), 0) is None


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch_only():
    ones = np.ones(1000)
    first = epoch_order(ones, 5, 0)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert np.array_equal(first, epoch_order(ones, 5, 0))
    assert not np.array_equal(first, epoch_order(ones, 5, 1))
    assert not np.array_equal(first, epoch_order(ones, 6, 0))


def test_weights_repeat_and_thin_out_frames():
    weights = np.repeat([2.5, 1.0, 0.25], 40)
    total = np.zeros(120)
    for epoch in range(200):
        counts = np.bincount(epoch_order(weights, 0, epoch), minlength=120)
        assert counts.sum() == draws_per_epoch(weights) == 150
        assert set(counts[:40]) <= {2, 3}
        assert set(counts[40:80]) == {1}
        assert set(counts[80:]) <= {0, 1}
        total += counts
    np.testing.assert_allclose(total.reshape(3, 40).mean(1) / 200, [2.5, 1.0, 0.25], rtol=0.02)


def synthetic(counts: list[tuple[int, int, int]], energies) -> Frames:
    from ase import Atoms

    structures = [
        Atoms([1] * h + [6] * c + [8] * o, np.random.default_rng(0).normal(size=(h + c + o, 3))) for h, c, o in counts
    ]
    frames = concatenate([make_frames([atoms], "train", "made", str(n)) for n, atoms in enumerate(structures)])
    frames.energy[:], frames.forces[:] = energies, 0.0
    return frames


def test_reference_energies_are_exact_where_energies_are_sums():
    truth = np.array([-13.5, -1030.25, -2040.125])
    counts = [(4, 1, 0), (6, 2, 1), (2, 0, 1), (6, 6, 0), (2, 1, 1)]
    found = fit_reference_energies(synthetic(counts, np.array(counts) @ truth), 100)
    np.testing.assert_allclose(found[[1, 6, 8]], truth, rtol=1e-12)
    assert np.count_nonzero(found) == 3


def test_repulsion_that_the_model_has_is_not_in_the_reference_energies():
    """Labels that are sums of elements plus the model's repulsion: what the network is to learn is nothing."""
    model = PaiNN(PaiNNConfig(features=4, layers=1, zbl=(0.8, 1.4)))
    frames = labelled_frames().select(np.arange(12, 24))  # water, bonds about as long as the radii
    truth = np.zeros(100)
    truth[[1, 8]] = -13.5, -2040.125
    sums = np.bincount(np.repeat(np.arange(12), 3), truth[frames.numbers])
    graph = brute_force(to_system(frames, CPU), 4.0)
    assert model.zbl is not None
    repelled = model.zbl.atomic_energies(graph, graph.lengths).reshape(12, 3).sum(1).numpy()
    assert repelled.min() > 1
    found = without_repulsion(replace(frames, energy=sums + repelled), model)
    np.testing.assert_allclose(found.energy, sums, atol=1e-4)
    assert without_repulsion(frames, PaiNN(PaiNNConfig(features=4, layers=1))) is frames


def test_free_atoms_and_walls_do_not_move_the_reference_energies():
    truth = np.array([-13.5, -1030.25, -2040.125])
    counts = [(4, 1, 0), (6, 2, 1), (2, 0, 1), (6, 6, 0), (2, 1, 1)] * 20
    odd = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0)]
    energies = np.concatenate([np.array(counts) @ truth, np.array(odd) @ truth + [3.0, 5.0, 4.0, 200.0]])
    found = fit_reference_energies(synthetic(counts + odd, energies), 100)
    np.testing.assert_allclose(found[[1, 6, 8]], truth, atol=2e-4)


def test_free_atoms_decide_what_one_compound_cannot():
    atoms = np.array([-10.0, -1020.0, -2030.0])
    counts = [(6, 2, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    energies = np.array(counts) @ atoms
    energies[0] -= 36.0  # atomisation
    found = fit_reference_energies(synthetic(counts, energies), 100)
    assert np.array(counts[0]) @ found[[1, 6, 8]] == pytest.approx(energies[0], abs=1e-3)
    assert np.all(found[[1, 6, 8]] < atoms)
    assert np.all(found[[1, 6, 8]] > atoms - 10)
