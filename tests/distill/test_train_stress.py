"""Stress: labelled where the structure and the teacher have one, learned, and in the table of errors."""

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import atomjet
from atomjet.distill.batches import FrameStore
from atomjet.distill.compiled import CompiledLoss
from atomjet.distill.dataset import read_dataset, write_shard
from atomjet.distill.frames import Frames, concatenate, make_frames
from atomjet.distill.label import run_label
from atomjet.distill.loss import derivatives, losses, virials
from atomjet.distill.optimizer import FlatAdamW
from atomjet.distill.recipe import TeacherConfig, load_recipe
from atomjet.distill.sample import run_sample
from atomjet.distill.teacher_labels import label_frame
from atomjet.distill.train import run_train
from atomjet.distill.train_config import TrainConfig
from atomjet.models.load import read
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.models.tensor_file import write

EMT_TEACHER = TeacherConfig(calculator="ase.calculators.emt:EMT", options={})
CPU = torch.device("cpu")


def copper(number: int) -> Frames:
    """Strained, displaced copper labelled by EMT; and methane, which has no stress."""
    rng, parts = np.random.default_rng(3), []
    for n in range(number):
        atoms = molecule("CH4") if n == 1 else bulk("Cu", a=3.6, cubic=True)
        if n != 1:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        part = make_frames([atoms], "train", "s", "Cu" if n != 1 else "C")
        atoms.positions, atoms.calc = part.positions, EMT()
        part.energy[:], part.forces[:] = atoms.get_potential_energy(), atoms.get_forces()
        if n != 1:
            part.stress[:] = atoms.get_stress(voigt=False)
        parts.append(part)
    return concatenate(parts)


def test_periodic_frames_are_labelled_with_their_stress_and_others_without():
    for atoms, periodic in ((bulk("Cu", a=3.5, cubic=True), True), (molecule("CH4"), False)):
        atoms.rattle(0.05, seed=1)
        positions = atoms.positions.astype(np.float32)
        record = label_frame(
            EMT_TEACHER, atoms.numbers.astype(np.uint8), positions, atoms.cell.array, atoms.pbc, np.array([0])
        )
        assert ("stress" in record) == periodic
        if periodic:
            atoms.positions, atoms.calc = positions, EMT()
            np.testing.assert_array_equal(record["stress"], atoms.get_stress(voigt=False))
            assert np.abs(record["stress"]).max() > 0.01


def test_stress_survives_shards_and_foreign_files(tmp_path):
    frames = copper(3)
    write_shard(tmp_path / "a.h5", frames, {})
    np.testing.assert_array_equal(read_dataset(tmp_path / "a.h5").stress, frames.stress)
    np.testing.assert_array_equal(frames.select(np.array([2])).stress[0], frames.stress[2])
    ase.io.write(tmp_path / "a.extxyz", list(frames))
    foreign = read_dataset(tmp_path / "a.extxyz")
    np.testing.assert_allclose(foreign.stress, frames.stress, atol=1e-7)
    assert np.isnan(foreign.stress[1]).all()


def test_virials_of_the_loss_are_the_stress_of_the_engine(tmp_path):
    torch.manual_seed(1)
    model = PaiNN(PaiNNConfig(features=8, layers=2, cutoff=4.0, elements=(1, 6, 29)))
    frames = copper(3)
    store = FrameStore(frames, np.zeros(100), 4.0, CPU)
    graph = store.batch(np.arange(3)).graph
    found = virials(graph, *derivatives(model, graph)[1:]).detach().numpy()
    write(tmp_path / "m.safetensors", model, {})
    engine = atomjet.load(tmp_path / "m.safetensors", device="cpu", precision="float64")
    for n in (0, 2):
        stress = engine.predict(frames.atoms(n)).stress[0].numpy()
        np.testing.assert_allclose(found[n] / np.linalg.det(frames.cell[n]), stress, atol=1e-5 * np.abs(stress).max())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_stress_loss_is_what_it_says_and_compiles(weight):
    torch.manual_seed(0)
    config = TrainConfig(epochs=1, stress_weight=weight, force_cap=1.0)
    frames = copper(8)
    store = FrameStore(frames, np.zeros(100), 4.0, CPU)
    model = PaiNN(PaiNNConfig(features=8, layers=1, cutoff=4.0))
    batch = store.batch(np.arange(8))
    total, parts = losses(model, batch, config)
    graph = batch.graph
    wrong = (virials(graph, *derivatives(model, graph)[1:]).detach() - store.virial).numpy() / store.sizes[
        :, None, None
    ]
    lengths = np.sqrt((wrong**2).sum((1, 2)))
    huber = np.where(lengths < 0.01, lengths**2 / 0.02, lengths - 0.005)
    expected = (huber * np.minimum(1, 1 / store.strongest.numpy()) * store.stressed).sum() / 8
    assert float(parts[3]) == pytest.approx(expected * (weight > 0), rel=1e-4)
    total.backward()
    optimizer = FlatAdamW(model, PaiNN(model.config), 0.0, 0.0, 1e9)
    total, parts = losses(model, batch, config)
    total.backward()
    compiled = CompiledLoss(model, config, store, np.ones(8), 8, lambda traced: traced)
    found_total, found_parts, gradient = compiled(batch)
    torch.testing.assert_close(found_total, total.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_parts, parts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, optimizer.gradient, rtol=1e-4, atol=1e-5)


def test_stress_is_learned_and_reported(tmp_path):
    ase.io.write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    (tmp_path / "recipe.yaml").write_text(
        "name: cu\nseed: 2\noutput: out\nelements: [Cu]\nteacher: {calculator: 'ase.calculators.emt:EMT', options: {}}\n"
        "sample: {workers: 1, free_atoms: false, split: {validation: 0, test: 0, in_distribution: 0.2},"
        " structures: {files: [cu.extxyz], frames: 60, strain: 0.04, supercells: null}}\nlabel: {workers: 1}\n"
        "student: {features: 16, layers: 1, num_radial: 12, cutoff: 4.0}\n"
        "train: {epochs: 60, batch_size: 8, learning_rate: 0.005, validation_interval: 60, ema_decay: 0.95}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    run_sample(recipe, quiet=True)
    run_label(recipe, quiet=True)
    found = []
    for weight in (0.0, 1.0):
        changed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"stress_weight": weight})})
        path = run_train(changed, resume=False, device="cpu", quiet=True)
        found.append(read(path)[1]["errors"]["training molecules, held-out frames"])
    assert found[1]["stress_mae_over_zero"] < 0.2
    assert found[1]["stress_mae_meV_A3"] < 0.8 * found[0]["stress_mae_meV_A3"]
    assert "Stress, MAE in meV/Å³" in path.with_suffix(".md").read_text()
