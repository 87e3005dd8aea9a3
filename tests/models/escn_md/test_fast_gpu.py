"""`fast_gpu` of eSCN-MD against the definition in float64: in Triton's interpreter where there is no GPU."""

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet import Engine, System, neighbor_list
from atomjet.data import Capacity, ConditionBuffers, GraphBuffers, Status
from atomjet.engine import Settings, pool
from atomjet.errors import BackendError, StructureError
from atomjet.models.base import General, forces_from_gradients, virials_from_gradients
from tests.models.escn_md.foreign import GOLDEN, atoms_of, golden
from tests.potentials import random_escn_md

pytest.importorskip("triton")
from atomjet.models.escn_md.edges_gpu import GpuEdges
from atomjet.models.escn_md.experts import mixture_keys
from atomjet.models.escn_md.fast_gpu import FastGpu
from atomjet.models.escn_md.workspace import Tiles
from atomjet.ops.radial_pages import MISSING_PAGE

# Of the norm: half precision, of models that are random, rough and small, so that little of it averages out; and single precision.
BOUND = {"default": 5e-3, "high": 1e-5}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILES = None if torch.cuda.is_available() else Tiles(split=2, splits=2, rows=32)
"""In the interpreter, where programs without work take time too, fewer of them than a GPU wants."""

SIZES = {"channels": 16, "hidden_channels": 32, "edge_channels": 8, "cutoff": 2.6}
CONFIGS = {
    "charge channels": {"charge_channels": (0, 3)},
    "mmax 1": {"mmax": 1, "spin_channels": (2, 4), "layers": 1},
    "one expert, one layer": {"experts": 1, "composition": "none", "layers": 1},
}


def model_of(config):
    return random_escn_md(**(SIZES | CONFIGS[config]))


def frames():
    every = [molecule("H2O"), bulk("C"), molecule("CO")]
    for seed, (atoms, task) in enumerate(zip(every, ("omol", "omat", "omol"), strict=True)):
        atoms.rattle(0.05, seed=seed)
        atoms.info |= {"task": task, "charge": seed - 1, "spin": 2 if task == "omol" else 0}
    return every


def graph_of(model, structures):
    system = model.complete(System.from_ase(structures), None)
    return neighbor_list(system, model.cutoff).to(DEVICE)


def alloy_of(elements):
    """A row of atoms, one of each element, again and again."""
    return Atoms(list(range(11, 11 + elements)), [[2.5 * n, 0, 0] for n in range(elements)], cell=[50, 9, 9], pbc=True)


def single(graph):
    return graph.with_vectors(graph.vectors.float())


def relative(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("config", "precision"), [*((config, "default") for config in CONFIGS), ("one expert, one layer", "high")]
)
def test_equals_the_definition(config, precision):
    model = model_of(config).to(DEVICE)
    graph = graph_of(model, frames())
    energies, gradients = General(model).energies_and_gradients(graph)
    fast = FastGpu(model_of(config).float().to(DEVICE), precision, tiles=TILES)
    ours, our_gradients = fast.energies_and_gradients(single(graph))
    assert relative(ours, energies) < BOUND[precision]
    exact = forces_from_gradients(graph, gradients)
    assert relative(forces_from_gradients(graph, our_gradients.double()), exact) < BOUND[precision]
    exact = virials_from_gradients(graph, gradients)
    assert relative(virials_from_gradients(graph, our_gradients.double()), exact) < BOUND[precision]


@pytest.mark.parametrize(
    ("config", "precision", "said"),
    [
        ({"lmax": 1, "mmax": 1}, "default", "lmax 2 with mmax 1 or 2; this model has lmax 1 and mmax 1"),
        ({"channels": 24}, "default", "this model has channels 24"),
        ({}, "float64", "for precision 'float64' use 'fast_pytorch'"),
    ],
)
def test_what_is_not_served_is_said(config, precision, said):
    with pytest.raises(BackendError, match=said):
        FastGpu(random_escn_md(**(SIZES | config)).float().to(DEVICE), precision)


def test_a_single_structure_by_dense_products(monkeypatch):
    """cuBLAS, and the kernel for the rows beyond those that it was told of, give what the kernel alone gives."""
    model = model_of("one expert, one layer").float().to(DEVICE)
    fast = FastGpu(model, tiles=TILES)
    graph = single(graph_of(model, [frames()[0]]))
    found, gradients = fast.energies_and_gradients(graph)
    fast.tiles = replace(fast.tiles_for(Capacity(1, 3, graph.num_edges, 3)), dense=0)
    for rows in (graph.num_edges, 4):
        buffers = GraphBuffers.from_graph(graph)
        conditions = ConditionBuffers.empty(1, graph.num_atoms, DEVICE)
        conditions.values[2] = model.tasks_of(graph)
        workspace = fast.workspace(buffers.capacity)
        monkeypatch.setattr(GpuEdges, "divide", lambda edges, rows=rows: setattr(edges, "dense_rows", rows))
        for segment in fast.segments(buffers, conditions, workspace):
            segment.launch()
        assert relative(workspace.energies, found.double()) < 1e-3
        assert relative(workspace.gradients[0, :, :3], gradients.double()) < BOUND["default"]


def test_a_number_out_of_range_is_a_status():
    """The device says so, and the engine in words, with the precision in which it is none."""
    model = model_of("one expert, one layer").float()
    with torch.no_grad():
        model.blocks[0].conv_1.m0.weights.mul_(1e6)
    engine = Engine(model, Settings(DEVICE, "fast_gpu"))
    if TILES is not None:
        engine.evaluator.tiles = TILES
    atoms = frames()[0]
    evaluation = engine.reserve(atoms)
    evaluation.launch()
    assert Status(int(evaluation.prediction.status)) == Status.RANGE
    assert bool(evaluation.prediction.energy[0].isnan())
    with pytest.raises(BackendError, match="a number left its range; use precision='high'"):
        engine.predict(atoms)


@pytest.mark.parametrize(("precision", "structures", "allowed"), [("default", 1, 5e-3), ("high", 3, 1e-5)])
def test_equals_fairchem_without_experts(precision, structures, allowed):
    """A checkpoint that fairchem made, with one expert, no datasets and mmax 1, against its own numbers."""
    expected = golden("esen_mmax1")["structures"][:structures]
    engine = atomjet.load(GOLDEN / "esen_mmax1.pt", device=DEVICE, backend="general")
    engine = Engine(engine.model, Settings(DEVICE, "fast_gpu", precision), task=engine.task)
    if TILES is not None:
        engine.evaluator.tiles = TILES
    for entry in expected:
        found, forces = engine.predict(atoms_of(entry)), torch.tensor(entry["forces"], dtype=torch.float64)
        assert relative(found.forces, forces) < allowed
        assert abs(float(found.energy[0]) - entry["energy"]) < allowed * len(forces)


def test_pairs_without_tables_have_their_networks():
    """Where there is no memory for tables: the device says so in fixed buffers, and the engine computes without them."""
    model = model_of("one expert, one layer").float()
    engine = Engine(model, Settings(DEVICE, "fast_gpu", "high"), task="omol")
    if TILES is not None:
        engine.evaluator.tiles = TILES
    engine.evaluator.tables.limit = 2
    atoms = frames()[0]
    evaluation = engine.reserve(atoms)
    evaluation.launch()
    assert Status(int(evaluation.prediction.status)) == Status.SLOT
    assert int((evaluation.workspace.pages[:6] >= 0).sum()) == 4  # those between two hydrogens, from either side
    exact = engine.with_settings(backend="general", precision="float64").predict(atoms)
    found = engine.predict(atoms)
    assert relative(found.forces, exact.forces) < BOUND["high"]
    assert relative(found.energy, exact.energy) < BOUND["high"]


def test_a_binding_limit_on_neighbours_is_said_when_a_composition_is_admitted():
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=1)
    system = System.from_ase([molecule("H2O"), copper])
    enough, few = (
        FastGpu(random_escn_md(**SIZES, **CONFIGS["mmax 1"], max_neighbors=limit).float().to(DEVICE))
        for limit in (20, 4)
    )
    enough.admit(system, "omat")  # a warning would be an error here
    with pytest.warns(UserWarning, match=r"structure 1: atom 0 has \d+ neighbours within 2.6 Å, of which .* nearest 4"):
        few.admit(system, "omat")


def test_recomputing_changes_no_bit_and_takes_less_memory():
    model = random_escn_md(**(SIZES | CONFIGS["charge channels"] | {"layers": 2})).float().to(DEVICE)
    fast = FastGpu(model, tiles=TILES)
    graph = single(graph_of(model, frames()[2:]))
    fast._tabulate(graph.atomic_numbers, graph.system_index, graph.num_systems)
    held, lease = fast.slots.take(mixture_keys(model, graph))
    slots = torch.tensor(held, device=DEVICE)
    results, sizes = [], []
    for recompute in (False, True):
        buffers = GraphBuffers.from_graph(graph)
        buffers = replace(buffers, capacity=replace(buffers.capacity, recompute=recompute))
        conditions = ConditionBuffers.empty(graph.num_systems, graph.num_atoms, DEVICE)
        conditions.values.copy_(torch.stack([graph.charge, graph.spin, model.tasks_of(graph), slots]))
        conditions.system_index.copy_(graph.system_index)
        workspace = fast.workspace(buffers.capacity)
        sizes.append(fast.bytes_of(buffers.capacity))
        for tensor in (workspace.packed, *workspace.h, *workspace.o):
            tensor.fill_(torch.nan)
        for segment in fast.segments(buffers, conditions, workspace):
            segment.launch()
        results.append((workspace.energies, workspace.gradients[0, :, :3]))
    lease.release()
    assert all(torch.equal(found, expected) for found, expected in zip(*results, strict=True))
    rows, width, hidden = 9, SIZES["channels"], SIZES["hidden_channels"]
    assert sizes[0] - sizes[1] == 2 * graph.num_edges * (
        (2 + rows) * hidden + 2 * rows * width
    )  # h of one layer, o of both


def test_a_structure_is_recomputed_where_memory_asks_for_it(monkeypatch):
    """Smaller buffers, which the next call takes again, give equal bits; what does not fit even so is refused."""
    model = random_escn_md(**(SIZES | {"layers": 2, "experts": 1, "composition": "none"})).float().to(DEVICE)
    engine = Engine(model, Settings(DEVICE, "fast_gpu"), task="omat")
    if TILES is not None:
        engine.evaluator.tiles = TILES
    atoms = molecule("H2")
    buffers = engine.captured_path.pool
    expected = engine.predict(atoms)
    (usual,) = buffers.idle()
    assert not usual.recompute
    smaller = engine.stages.smaller(usual)
    needs = engine.stages.bytes_of(smaller)
    buffers.drop_idle()
    monkeypatch.setattr(pool, "free_bytes", lambda device: needs / 0.9 + 1)
    found = engine.predict(atoms)
    assert torch.equal(found.forces, expected.forces)
    assert torch.equal(found.energy, expected.energy)
    assert buffers.idle() == [smaller]
    monkeypatch.setattr(pool, "free_bytes", lambda device: None)
    assert torch.equal(engine.predict(atoms).forces, expected.forces)
    assert buffers.idle() == [smaller]  # the next call took these again
    buffers.drop_idle()
    monkeypatch.setattr(pool, "free_bytes", lambda device: needs / 0.9 + 1)
    assert engine.reserve(atoms).capacity == smaller
    monkeypatch.setattr(pool, "free_bytes", lambda device: needs)
    with pytest.raises(StructureError, match=f"2 atoms with {smaller.edges} edges need .* GiB on {DEVICE}"):
        engine.reserve(atoms)


def test_a_thousand_compositions_in_turn():
    """As in a Monte Carlo of insertions: slots are let go and taken again, tables are those of pairs, nothing else is kept; what
    was put out of its slot is loaded anew, to the same bits.
    """
    model = random_escn_md(**(SIZES | {"layers": 1, "cutoff": 1.5}))
    engine = Engine(model.float().to(DEVICE), Settings(DEVICE, "fast_gpu"), task="omat")
    admission, slots, tables = engine.captured_path.admission, engine.evaluator.slots, engine.evaluator.tables
    if TILES is not None:
        engine.evaluator.tiles = TILES

    def blend(atoms):
        conditions = admission.of_frames([atoms], [len(atoms)], None, True)
        weights = slots.weights[int(conditions.values[3, 0])].clone()
        assert sum(slots._held) == 1
        admission.release(conditions)
        return weights

    where, pair = slots.weights.data_ptr(), molecule("CO")
    first, before = blend(pair), engine.predict(pair)
    for number in range(1000):  # one more of H, C, N, O than its digit to the base of six
        counts = [1 + number // 6**place % 6 for place in range(4)]
        blend(Atoms([z for z, count in zip((1, 6, 7, 8), counts, strict=True) for _ in range(count)]))
    assert slots.weights.data_ptr() == where
    assert len(slots._loaded) == len(slots.weights) < 1000
    assert not any(slots._held)
    assert len(tables._made) <= 16
    assert mixture_keys(engine.model, System.from_ase([pair]))[0] not in slots._loaded
    assert torch.equal(blend(pair), first)
    after = engine.predict(pair)
    assert torch.equal(after.forces, before.forces)
    exact = Engine(
        random_escn_md(**(SIZES | {"layers": 1, "cutoff": 1.5})), Settings("cpu", "general", "float64"), task="omat"
    )
    assert abs(float(after.energy - exact.predict(pair).energy)) < 1e-2


def test_tables_of_twenty_elements_stay_within_their_memory():
    """All pairs where there is memory for them; beyond that none is made, and every pair without its table is known to be."""
    model = random_escn_md(**(SIZES | {"layers": 1})).float().to(DEVICE)
    crystal = System.from_ase([alloy_of(20)])
    fast = FastGpu(model)
    fast.admit(replace(crystal, task=("omat",)), None).release()
    assert len(fast.tables._made) == 400 + 1  # hydrogen's, where pages begin
    few = FastGpu(model)
    few.tables.limit = 100
    for _ in range(2):
        few.admit(replace(crystal, task=("omat",)), None).release()
        assert len(few.tables._made) <= 100
    made = (few.tables.pages != MISSING_PAGE).sum()
    assert int(made) == len(few.tables._made)
