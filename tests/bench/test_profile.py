import json

import pytest
import torch

from atomjet.bench.cost import declared, painn
from atomjet.bench.geometries import molecules
from atomjet.bench.profile import profile_engine, spoken
from atomjet.data import System
from atomjet.engine import Engine, Settings
from atomjet.models.painn import PaiNN, PaiNNConfig


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
def test_profile_on_a_cpu(tmp_path, backend):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    engine = Engine(PaiNN(PaiNNConfig(features=32, layers=2)), Settings("cpu", backend))
    made = profile_engine(engine, molecules(20, 2), tmp_path / "trace.json")
    json.dumps(made.to_json())
    assert {"search", "model", "predict"} <= {
        e.get("name") for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    }
    assert 0 < made.stages["model"] < 3 * made.wall
    assert made.launches > 100
    assert made.device == made.idle == 0.0
    assert len(made.kernels) == 10
    products = next(item for item in made.items if item.name in ("mm", "addmm"))
    assert products.gigaflop_per_s > 0
    assert products.bound in ("compute", "memory", "latency")
    assert sum(item.share for item in made.items) == pytest.approx(1.0, abs=0.01)
    priorities = [item.priority for item in made.items if item.priority is not None]
    assert priorities == sorted(priorities, reverse=True)
    assert "ceilings measured here" in spoken(made)


def test_declared_costs_by_hand():
    # (2, 3) @ (3, 5): 30 multiply-adds; 6 + 15 + 10 numbers
    assert declared("aten::mm", [[2, 3], [3, 5]], 4) == (4 * 31, 60.0)
    assert declared("aten::addmm", [[5], [2, 3], [3, 5], [], []], 8) == (8 * 31, 60.0)
    assert declared("aten::bmm", [[7, 2, 3], [7, 3, 5]], 4) == (7 * 4 * 31, 7 * 60.0)
    assert declared("aten::mul", [[10, 4], [10, 1]], 4) == (4 * (40 + 10 + 40), 40.0)
    assert declared("aten::index_select", [[100, 8], [], [20]], 4) == (4 * 2 * 20 * 8 + 8 * 20, 0.0)
    assert declared("aten::view", [[3]], 4) is None


def test_cost_of_painn_is_that_of_its_products():
    """Every product of the definition's forward pass, counted by hooks, twice for the backward pass."""
    config = PaiNNConfig(features=16, layers=2, num_radial=6)
    model, counted = PaiNN(config), []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda layer, inputs, output: counted.append(2 * output.numel() * layer.in_features)
            )
    from atomjet.neighbors import neighbor_list

    graph = neighbor_list(molecules(20, 1), config.cutoff)
    model.atomic_energies(graph.with_vectors(graph.vectors.float()))
    edges, atoms = graph.num_edges, graph.num_atoms
    around = config.layers * edges * 56 * config.features
    assert painn(config, atoms, edges, 4).flops == 2 * sum(counted) + around


def test_a_stretch_without_kernels_is_idle():
    from types import SimpleNamespace

    from atomjet.bench.profile import _occupation

    def kernel(start, end):
        return SimpleNamespace(time_range=SimpleNamespace(start=start, end=end))

    busy, idle, gaps = _occupation([kernel(0, 10), kernel(5, 12), kernel(20, 30), kernel(31, 32)])
    assert busy == pytest.approx(23e-6)
    assert idle == pytest.approx(9e-6)
    assert gaps == pytest.approx([8e-6, 1e-6])


def test_positions_are_never_those_of_the_call_before():
    from atomjet.bench.racers import moved

    system = molecules(10, 1)
    made = moved(system)
    assert isinstance(system, System)
    for one, other in zip(made, made[1:] + made[:1], strict=True):
        assert float((one.positions - other.positions).abs().min()) > 0
