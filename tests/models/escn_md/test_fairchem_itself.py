"""fairchem itself, where it is installed, against ours: new random checkpoints and structures. `make test-fairchem` runs it."""

import logging
import warnings

import pytest

import atomjet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("fairchem.core")
    from tests.models.escn_md.golden import make_fairchem

# Its own warnings are its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")

ENERGY = 1e-9  # eV per atom
FORCES = 1e-7  # eV/Å
STRESS = 1e-8  # eV/Å³
BACKENDS = {"uma_1p2p1": ("general", "fast_pytorch"), "uma_1p2": ("general", "fast_pytorch"), "uma_1p1": ("general",)}


@pytest.fixture(scope="module", params=make_fairchem.CASES)
def case(request, tmp_path_factory):
    """A checkpoint that is not among the golden ones, and what fairchem says in float64 of structures, one by one."""
    logging.disable(logging.WARNING)
    name = request.param
    path = make_fairchem.write_checkpoint(name, 1234, tmp_path_factory.mktemp(name))
    frames, found = [], []
    for structure, task, charge, spin in make_fairchem.CASES[name]:
        atoms = make_fairchem.structures()[structure]
        found.append(make_fairchem.evaluate(path, [make_fairchem.data(atoms, task, charge, spin)], 0))
        atoms.info |= {"task": task, "charge": charge, "spin": spin}
        frames.append(atoms)
    yield name, path, frames, found
    logging.disable(logging.NOTSET)


def test_the_same(case):
    name, path, frames, found = case
    for backend in BACKENDS[name]:
        engine = atomjet.load(path, device="cpu", backend=backend, precision="float64")
        together = engine.predict(frames)
        for place, (atoms, theirs) in enumerate(zip(frames, found, strict=True)):
            for ours, which in ((engine.predict(atoms), 0), (together, place)):
                assert abs(float(ours.energy[which] - theirs["energy"])) / len(atoms) < ENERGY
                assert (ours.forces_of(which) - theirs["forces"]).abs().max() < FORCES
                if atoms.pbc.all():
                    assert (ours.stress[which] - theirs["stress"].reshape(3, 3)).abs().max() < STRESS


def test_peer_of_the_benchmark(case):
    """The adapter through which fairchem races gives what fairchem gives."""
    from atomjet import System
    from atomjet.bench.peers import fairchem

    _, path, frames, found = case
    engine = atomjet.load(path, device="cpu", precision="high")
    engine.card["file"] = str(path)
    peer = fairchem.build("fairchem", engine)
    made = peer.call(peer.prepare(engine.model.complete(System.from_ase(frames[0]), None)))
    assert (made.forces - found[0]["forces"]).abs().max() < 1e-4
    assert abs(float(made.energy - found[0]["energy"])) < 1e-3
