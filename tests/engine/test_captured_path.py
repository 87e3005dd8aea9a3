"""Buffers of fixed size, the pool of them, overflow, refusal, threads and order: with stand-ins for the kernels."""

import threading

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet import Engine, System
from atomjet.bench.contender import EngineContender
from atomjet.bench.suites import SUITES
from atomjet.bench.timed_calls import Contenders
from atomjet.data import Capacity
from atomjet.data.capacity import likely_edges
from atomjet.engine import Settings, pool, streams
from atomjet.engine.call_buffers import Composition
from atomjet.engine.capacity import MARGIN, choose, size_class
from tests.engine import standins
from tests.engine.standins import pool_of
from tests.potentials import random_painn

ROUNDING = 1e-6  # relative; edge vectors are float32 in the buffers, float64 before the definition rounds them


def engine_through_buffers(on_overlap="error", card=None):
    engine = Engine(
        random_painn(elements=(1, 6, 8)), Settings("cpu", on_overlap=on_overlap), card or {"name": "random"}
    )
    engine.use(standins.stages(engine))
    return engine


@pytest.fixture(scope="module")
def plain():
    return Engine(random_painn(elements=(1, 6, 8)), Settings("cpu"), {"name": "random"})


@pytest.fixture
def padded():
    return engine_through_buffers()


def frames():
    molecules = [molecule(name) for name in ("CH3CH2OH", "C6H6", "H2O", "CH4", "CO")]
    slab = bulk("C", cubic=True)
    slab.pbc = (True, True, False)
    every = [*molecules, bulk("C"), slab, Atoms("H"), bulk("C", cubic=True) * (2, 1, 1)]
    for seed, atoms in enumerate(every):
        atoms.rattle(0.05, seed=seed)
    return every


def same(a, b):
    for name in ("energy", "forces", "stress", "atomic_energies"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == torch.float64
        scale = float(torch.nan_to_num(y).abs().max()) or 1.0
        torch.testing.assert_close(x, y.double(), rtol=0, atol=ROUNDING * scale, equal_nan=True)
    assert torch.equal(a.system_index, b.system_index)


def test_one_by_one_together_and_as_a_system(plain, padded):
    for atoms in frames():
        same(padded.predict(atoms), plain.predict(atoms))
    same(padded.predict(frames()), plain.predict(frames()))
    same(padded.predict(System.from_ase(frames())), plain.predict(frames()))


def test_results_stay_when_buffers_are_used_again(padded):
    atoms = molecule("C6H6")
    first = padded.predict(atoms)
    kept = first.forces.clone()
    atoms.rattle(0.1)
    assert not torch.equal(padded.predict(atoms).forces, kept)
    assert torch.equal(first.forces, kept)
    atoms.positions[:] = molecule("C6H6").positions
    assert torch.equal(padded.predict(atoms).forces, kept)


def test_a_system_is_asked_again_when_it_was_written_to(plain, padded, monkeypatch):
    asked, of = [], Composition.of
    monkeypatch.setattr(Composition, "of", lambda system: asked.append(system) or of(system))
    system = System.from_ase(frames())
    same(padded.predict(system), plain.predict(system))
    moved = system.with_positions(system.positions + 0.01 * torch.sin(7 * system.positions))
    same(padded.predict(moved), plain.predict(moved))
    assert len(asked) == 1
    moved.atomic_numbers[0] = 8
    same(padded.predict(moved), plain.predict(moved))
    assert len(asked) == 2
    moved.atomic_numbers[1] = 7
    with pytest.raises(atomjet.AtomJetError, match="structure 0, atom 1: element N"):
        padded.predict(moved)
    moved.atomic_numbers[1] = 6
    moved.charge[2] = 1
    with pytest.raises(atomjet.AtomJetError, match="structure 2: charge 1"):
        padded.predict(moved)
    with torch.inference_mode():
        given = System.from_ase(frames())
        same(padded.predict(given), plain.predict(given))


def test_a_system_comes_back_to_buffers_that_served_others(plain, padded):
    """Where only positions are new nothing else is copied; other atoms in between, from either side, are noticed."""
    methanol, peroxide = molecule("CH3OH"), molecule("CH3OH")
    peroxide.symbols[0] = "O"
    system, other = System.from_ase(methanol), System.from_ase(peroxide)
    for given in (system, other, peroxide, system.with_positions(system.positions * 1.01), peroxide, system):
        same(padded.predict(given), plain.predict(given))


def test_buffers_serve_several_sizes(padded):
    hydrogens = [Atoms("H" * n, np.eye(n, 3) + 2.0 * np.arange(n)[:, None]) for n in (17, 20, 23, 24)]
    alone = [engine_through_buffers().predict(atoms).forces for atoms in hydrogens]
    for turn in (0, 3, 1, 2, 0):
        assert torch.equal(padded.predict(hydrogens[turn]).forces, alone[turn])
    assert len(pool_of(padded).idle()) <= 2


def test_overflow_finds_a_larger_buffer(plain, monkeypatch):
    monkeypatch.setattr("atomjet.data.capacity.DENSITY", 0.002)
    padded = engine_through_buffers()
    crowd = Atoms("H" * 60, np.random.default_rng(0).permutation(125)[:60, None] // [25, 5, 1] % 5 * 1.0)
    same(padded.predict(crowd), plain.predict(crowd))
    steps = pool_of(padded).idle()
    assert len(steps) == 2
    assert steps[1].edges > steps[0].edges
    padded.predict(crowd)
    same(padded.predict(System.from_ase(crowd)), plain.predict(crowd))
    assert len(pool_of(padded).idle()) == 2  # the size is remembered


def refused(engine, structures, message):
    for form in (structures, System.from_ase(structures)) if structures else (structures,):
        with pytest.raises(atomjet.AtomJetError, match=message):
            engine.predict(form)


def test_refusals_in_the_usual_words(padded):
    with pytest.raises(atomjet.AtomJetError, match="no structures given"):
        padded.predict([])
    with pytest.raises(atomjet.AtomJetError, match="cannot read structures from str"):
        padded.predict("H2O")
    refused(padded, [molecule("H2O"), Atoms()], "structure 1 has no atoms")
    refused(padded, molecule("NH3"), r"atom 0: element N \(Z = 7\) is unknown to this model; it knows H C O")
    refused(padded, Atoms("X"), r"element X \(Z = 0\)")
    refused(padded, Atoms("Og"), r"element Og \(Z = 118\)")
    charged, partial = molecule("H2O"), molecule("CO")
    charged.info["charge"] = -1
    refused(padded, [molecule("CH4"), charged], "structure 1: charge -1, but this model knows only neutral")
    energy = padded.predict(partial).energy
    partial.set_initial_charges([1.0, 0.0])  # a guess for atoms, no total
    assert torch.equal(padded.predict(partial).energy, energy)
    broken = molecule("H2O")
    broken.positions[1, 2] = np.nan
    with pytest.raises(atomjet.AtomJetError, match=r"structure 1, atom 1: position .* is not finite"):
        padded.predict([molecule("CH4"), broken])
    with pytest.raises(atomjet.AtomJetError, match=r"periodic along abc, but its cell .* does not span them"):
        padded.predict(Atoms("CO", [[0, 0, 0], [0, 0, 1.2]], cell=[3, 3, 0], pbc=True))


def test_overlap_is_named_or_warned_of(plain, padded):
    near = Atoms("HCH", [[0, 0, 0], [0, 0, 3], [0, 0, 3.2]])
    refused(padded, [molecule("H2O"), near], r"structure 1, atom 1 and atom 2 are 0.200 Å apart, nearer than 0.3 Å")
    tolerant = engine_through_buffers("warn")
    with pytest.warns(UserWarning, match="0.200 Å apart"):
        forces = tolerant.predict(near).forces
    assert bool(forces.isfinite().all())
    refused(tolerant, Atoms("HH", [[0, 0, 0], [0, 0, 0]]), "0.000 Å apart")


def test_atoms_hundreds_of_cells_away(plain, padded):
    atoms = bulk("C", cubic=True)
    atoms.rattle(0.05)
    near = padded.predict(atoms)
    atoms.positions[3] += 700 * atoms.cell[0] - 900 * atoms.cell[2]
    far = padded.predict(atoms)
    torch.testing.assert_close(far.forces.double(), near.forces, atol=1e-5, rtol=0)


def test_long_lists_are_packed_and_put_back_in_order(plain, padded, monkeypatch):
    monkeypatch.setattr(streams, "ATOMS_AT_ONCE", 40)
    many = frames() + frames()[::-1] + frames()
    same(padded.predict(many), plain.predict(many))
    batches = streams.pack([len(atoms) for atoms in many], lambda batch: True)
    assert sorted(k for batch in batches for k in batch) == list(range(len(many)))
    assert len(batches) > 3
    assert all(sum(len(many[k]) for k in batch) <= 40 or len(batch) == 1 for batch in batches)


def test_overflow_in_a_long_list_does_not_wait_for_itself(plain, monkeypatch):
    monkeypatch.setattr("atomjet.data.capacity.DENSITY", 0.002)
    monkeypatch.setattr(streams, "ATOMS_AT_ONCE", 24)
    padded = engine_through_buffers()
    # Memory for two batches as they seem at first, and not for both of them as they are.
    small = padded.stages.bytes_of(choose(2, 24, 12, 64))
    monkeypatch.setattr(pool, "free_bytes", lambda device: 2.6 * small - small * pool_of(padded).lent)
    many = [molecule("C6H6") for _ in range(6)]
    same(padded.predict(many), plain.predict(many))


def test_bad_structure_in_a_long_list_leaves_the_buffers_whole(padded, monkeypatch):
    monkeypatch.setattr(streams, "ATOMS_AT_ONCE", 10)
    near = Atoms("HH", [[0, 0, 0], [0, 0, 0.1]])
    many = [*frames(), near, *frames()]
    for given in (many, System.from_ase(many)):
        with pytest.raises(
            atomjet.AtomJetError, match=f"^structure {len(frames())}, atom 0 and atom 1 are 0.100 Å apart"
        ):
            padded.predict(given)
    assert pool_of(padded).lent == 0
    assert len(padded.predict(frames()).energy) == len(frames())


def test_memory_is_refused_before_anything_is_allocated(plain, padded, monkeypatch):
    needs = padded.stages.bytes_of(choose(1, 12, 12, likely(molecule("C6H6"), padded.cutoff)))
    monkeypatch.setattr(pool, "free_bytes", lambda device: needs)
    many = [molecule("C6H6") for _ in range(6)]
    with pytest.raises(
        atomjet.AtomJetError,
        match=r"12 atoms with 256 edges need 0.00 GiB on cpu, 0.00 GiB are free; use another backend or device, or a smaller "
        "structure, of up to some 10 atoms at this density",
    ):
        padded.predict(many[0])
    assert pool_of(padded).idle() == []
    monkeypatch.setattr(pool, "free_bytes", lambda device: 3 * needs)
    same(padded.predict(many), plain.predict(many))  # in batches that fit
    assert max(capacity.systems for capacity in pool_of(padded).idle()) < 6
    same(padded.predict(System.from_ase(many)), plain.predict(many))


def test_a_benchmark_has_contenders_give_their_buffers_back(padded):
    """So that the next case, whose sizes are others, has the memory."""
    contenders = Contenders(SUITES["latency"], padded)
    contenders.built["auto"] = EngineContender("auto", padded)
    before = padded.predict(frames()).energy
    assert pool_of(padded).idle()
    contenders.forget()
    assert pool_of(padded).idle() == []
    assert torch.equal(padded.predict(frames()).energy, before)


def test_a_structure_too_large_is_named_in_a_list(padded, monkeypatch):
    needs = padded.stages.bytes_of(choose(1, 5, 5, 20))
    monkeypatch.setattr(pool, "free_bytes", lambda device: 3 * needs)
    many = [molecule(name) for name in ("H2O", "CH4", "C6H6", "H2O")]
    for given in (many, System.from_ase(many)):
        with pytest.raises(atomjet.AtomJetError, match="^structure 2: 12 atoms with 256 edges need"):
            padded.predict(given)


def test_memory_is_not_asked_for_where_buffers_are_ready(plain, padded, monkeypatch):
    many = [molecule("C6H6") for _ in range(3)]
    padded.predict(many)
    monkeypatch.setattr(pool, "free_bytes", lambda device: pytest.fail("asked"))
    same(padded.predict(many), plain.predict(many))


def test_least_recently_used_buffers_go_first(padded):
    pool = pool_of(padded)
    for name in ("H2O", "CH4", "C6H6"):
        padded.predict(molecule(name))
    padded.predict(molecule("H2O"))
    assert [capacity.atoms for capacity in pool.idle()] == [6, 12, 3]
    pool.cache_bytes = 1
    padded.predict(molecule("CH4"))
    assert [capacity.atoms for capacity in pool.idle()] == [6]


def test_slow_way_may_have_the_memory_of_idle_buffers(padded, monkeypatch):
    from atomjet.engine import eager_path as module

    padded.predict([molecule("CH4"), molecule("H2O")])
    monkeypatch.setattr(module, "free_bytes", lambda device: 0 if pool_of(padded).idle() else 1 << 30)
    with pytest.raises(atomjet.AtomJetError, match="0.100 Å apart"):
        padded.predict(Atoms("HH", [[0, 0, 0], [0, 0, 0.1]]))
    overlapping = engine_through_buffers("warn")
    overlapping.predict(molecule("H2O"))
    monkeypatch.setattr(module, "free_bytes", lambda device: 0 if pool_of(overlapping).idle() else 1 << 30)
    with pytest.warns(UserWarning, match="0.100 Å apart"):
        overlapping.predict(Atoms("HH", [[0, 0, 0], [0, 0, 0.1]]))
    assert pool_of(overlapping).idle() == []


def test_more_edges_than_a_search_can_count(plain, padded, monkeypatch):
    from dataclasses import replace

    def bytes_beside(capacity):
        if capacity.edges > 512:
            raise atomjet.errors.StructureError("too many edges")
        return 0

    padded.use(replace(padded.stages, bytes_beside=bytes_beside))
    many = [molecule("C6H6") for _ in range(5)]
    same(padded.predict(System.from_ase(many)), plain.predict(many))


def test_threads_share_the_path(padded):
    every = frames()
    alone = [padded.predict(atoms) for atoms in every]
    wrong = []

    def work(first):
        for turn in range(3 * len(every)):
            k = (first + turn) % len(every)
            if not torch.equal(padded.predict(every[k]).forces, alone[k].forces):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pool_of(padded).lent == 0


def test_threads_wait_for_memory(padded, monkeypatch):
    monkeypatch.setattr(streams, "ATOMS_AT_ONCE", 24)
    needs = padded.stages.bytes_of(choose(4, 24, 12, 4 * 132))
    held = []
    monkeypatch.setattr(pool, "free_bytes", lambda device: 2.5 * needs - needs * pool_of(padded).lent)
    many = [molecule("C6H6") for _ in range(8)]

    def work():
        held.append(padded.predict(many).energy)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 3
    assert all(torch.equal(energy, held[0]) for energy in held)


@pytest.mark.parametrize("first", [1, 5, 100, 300, 3000, 40000, 10**6])
def test_size_classes_grow_with_the_size(first):
    for number in range(first, first + 50):
        assert number <= size_class(number) <= max(1.5 * number, number + 1)
        assert size_class(size_class(number)) == size_class(number)


def likely(atoms, cutoff):
    system = System.from_ase(atoms)
    return int(likely_edges(system.counts(), system.cell, system.pbc, cutoff, MARGIN))


def test_likely_edges():
    assert likely(Atoms(20 * "H"), 5.0) == 380
    dense = bulk("Cu", cubic=True) * (3, 3, 3)
    found = atomjet.neighbor_list(dense, 5.0).num_edges
    assert found < likely(dense, 5.0) < 1.3 * found
    assert likely(Atoms(10_000 * "H"), 5.0) < 10_000 * 64
    thin = bulk("Cu")
    thin.pbc = [True, True, False]  # one atom, whose neighbours are its own images
    assert likely(thin, 5.0) >= atomjet.neighbor_list(thin, 5.0).num_edges
    assert choose(1, 20, 20, 380) == Capacity(1, 24, 512, 24)
