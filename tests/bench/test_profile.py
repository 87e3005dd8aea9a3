import functools
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ase.build import molecule
from ase.io import write

from atomjet import load
from atomjet.bench import profile
from atomjet.bench.ceilings import Ceilings
from atomjet.bench.cost import declared
from atomjet.bench.geometries import carbon_crystal, molecules
from atomjet.bench.operators import occupation, operators_of
from atomjet.bench.profile import named, profile_engine, search_costs
from atomjet.bench.profile_table import ncu_command, table
from atomjet.cli.main import main
from atomjet.data import System
from atomjet.engine import Engine, Settings
from atomjet.models import tensor_file
from atomjet.models.cost import Cost, Evaluation
from atomjet.models.escn_md import cost as escn_cost
from atomjet.models.painn import PaiNN, PaiNNConfig
from atomjet.models.painn import cost as painn_cost
from atomjet.neighbors import search

CEILINGS = Ceilings(4e12, 7e14, 5e13, 5e-6)


@pytest.fixture(scope="module", autouse=True)
def ceilings_measured_once():
    """They are the machine's, and take as long as all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "measure_ceilings", functools.cache(profile.measure_ceilings))
        yield


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
    assert made.stages["model"] > 0
    assert made.wall > 0
    assert made.launches > 100
    assert made.device == made.idle == 0.0
    assert len(made.kernels) == 10
    products = next(item for item in made.items if item.name in ("mm", "addmm"))
    assert products.gigaflop_per_s > 0
    assert products.bound in ("compute", "memory", "latency")
    assert sum(item.share for item in made.items) == pytest.approx(1.0, abs=0.01)
    priorities = [item.priority for item in made.items if item.priority is not None]
    assert priorities == sorted(priorities, reverse=True)
    assert "ceilings measured here" in table(made)


def test_declared_costs_by_hand():
    # (2, 3) @ (3, 5): 30 multiply-adds; 6 + 15 + 10 numbers
    assert declared("aten::mm", [[2, 3], [3, 5]], 4) == (4 * 31, 60.0, "products")
    assert declared("aten::addmm", [[5], [2, 3], [3, 5], [], []], 8) == (8 * 31, 60.0, "products")
    assert declared("aten::bmm", [[7, 2, 3], [7, 3, 5]], 4) == (7 * 4 * 31, 7 * 60.0, "products")
    assert declared("aten::mul", [[10, 4], [10, 1]], 4) == (4 * (40 + 10 + 40), 40.0, "arithmetic")
    assert declared("aten::index_select", [[100, 8], [], [20]], 4) == (4 * 2 * 20 * 8 + 8 * 20, 0.0, "arithmetic")
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
    assert painn_cost.whole(config, atoms, edges, 4).flops == 2 * sum(counted) + around


def test_kernels_of_escn_md_do_the_products_of_their_blends():
    """Twice two operations for every number of a blend, m > 0 as one real matrix of twice as many, forward and backward."""
    from atomjet.models.escn_md import EscnMd, EscnMdConfig

    for mmax in (1, 2):
        config = EscnMdConfig(
            mmax=mmax, channels=16, hidden_channels=32, edge_channels=4, experts=1, layers=2, tasks=("omat",)
        )
        sizes = [layer.weights[0].numel() for layer in EscnMd(config).mixed_linears]
        numbers = sum(size if k % (mmax + 1) == 0 else 2 * size for k, size in enumerate(sizes))
        product = escn_cost.KERNELS["grouped_product_kernel"](escn_cost.EdgeSizes.of(config, 1, 10, 50))
        assert product.flops == 50 * 4 * numbers
        for cost in escn_cost.KERNELS.values():
            small, large = (cost(escn_cost.EdgeSizes.of(config, 1, n, 50 * n)) for n in (1000, 2000))
            assert large == Cost(2 * small.bytes, 2 * small.flops, small.by)


def test_kernels_do_the_products_of_the_equations():
    """All but those that they save: context of the first layer by element, and what nobody reads after the last layer."""
    config = PaiNNConfig(features=128, layers=3, num_radial=20)
    square, none = config.features**2, 0
    costs = [
        cost(painn_cost.Sizes(none, 1, none, config.layers, config.features, 2)) for cost in painn_cost.KERNELS.values()
    ]
    by_kernel = sum(cost.flops for cost in costs if cost.by == "products")
    assert by_kernel == painn_cost.whole(config, 1, none, 2).flops - 2 * config.features - 20 * square
    for cost in painn_cost.KERNELS.values():
        small, large = (cost(painn_cost.Sizes(n // 20, n, 50 * n, 3, 128, 2)) for n in (1000, 2000))
        assert 0 < small.bytes < large.bytes
        assert large.flops == 2 * small.flops


def kernel(name, start, microseconds):
    """As a trace has it."""
    span = SimpleNamespace(start=start, end=start + microseconds, elapsed_us=lambda: microseconds)
    return SimpleNamespace(name=name, time_range=span, device_type=torch.autograd.DeviceType.CUDA)


def test_a_captured_evaluation_is_classified_by_the_names_of_its_kernels():
    engine = Engine(PaiNN(PaiNNConfig(features=128, layers=3)), Settings("cpu", "general"))
    costs = painn_cost.work(engine.model.config, "fast_gpu", Evaluation(1, 100_000, 5_000_000, 2)).kernels
    events = [kernel("painn_message_fwd_kernel", 3000 * k, 2000.0) for k in range(3)]
    events.append(kernel("painn_update_last_hopper_kernel", 9000, 100.0))
    events += [kernel("edge_forces_kernel", 9100, 200.0), kernel("edge_forces_sums_kernel", 9300, 100.0)]
    events.append(kernel("unheard_of", 9500, 900.0))
    items = {item.name: item for item in operators_of(events, engine, CEILINGS, costs)}
    message = items["painn_message_fwd_kernel"]
    assert message.calls == 3
    assert message.gigaflop_per_s == pytest.approx(costs["painn_message_fwd_kernel"].flops / 6e-3 / 1e9)
    assert message.bound in ("compute", "memory")
    assert 0 < message.headroom < 1
    last = items["painn_update_last_hopper_kernel"]
    assert last.gigaflop_per_s == pytest.approx(costs["painn_update_last_kernel"].flops / 1e-4 / 1e9)
    for name, seconds in (("edge_forces_kernel", 2e-4), ("edge_forces_sums_kernel", 1e-4)):
        assert items[name].gigabytes_per_s == pytest.approx(costs[name].bytes / seconds / 1e9)
    assert items["unheard_of"].headroom is None
    assert sum(item.share for item in items.values()) == pytest.approx(1.0)


def test_kernels_of_the_search_are_classified_too():
    pytest.importorskip("triton")
    engine = Engine(PaiNN(PaiNNConfig(features=16, layers=1, cutoff=3.0)), Settings("cpu", "general"))
    system = molecules(10, 2).to("cuda" if torch.cuda.is_available() else "cpu")
    costs = search_costs(system, engine.cutoff, search(system, engine.cutoff).num_edges)
    assert costs.keys() == {"all_pairs_kernel"}
    (item,) = operators_of([kernel("all_pairs_kernel", 0, 100.0)], engine, CEILINGS, costs)
    assert item.gigabytes_per_s == pytest.approx(costs["all_pairs_kernel"].bytes / 1e-4 / 1e9)
    assert item.bound == "latency"  # so few bytes
    assert 0 < item.headroom < 1
    # More edges than were expected: the search stopped half way, and its buffers say nothing.
    assert search_costs(system, engine.cutoff, 8) == {}


def test_profile_of_a_model_with_tasks():
    model = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p1.pt"
    made = profile_engine(load(model, device="cpu", task="omat"), carbon_crystal(4))
    assert made.work is None
    assert "declared work" not in table(made)
    assert made.stages["model"] > 0


def test_a_stretch_without_kernels_is_idle():
    spans = [(0, 10), (5, 12), (20, 30), (31, 32)]
    busy, idle, gaps = occupation([kernel("any", start, end - start) for start, end in spans])
    assert busy == pytest.approx(23e-6)
    assert idle == pytest.approx(9e-6)
    assert gaps == pytest.approx([8e-6, 1e-6])


def test_positions_are_never_those_of_the_call_before():
    from atomjet.bench.timed_calls import moved

    system = molecules(10, 1)
    made = moved(system)
    assert isinstance(system, System)
    for one, other in zip(made, made[1:] + made[:1], strict=True):
        assert float((one.positions - other.positions).abs().min()) > 0


def test_nsight_compute_is_put_on_the_heaviest_kernels(tmp_path, monkeypatch):
    engine = Engine(PaiNN(PaiNNConfig(features=32, layers=2)), Settings("cpu", "general"))
    made = profile_engine(engine, molecules(10, 1))
    (tmp_path / "ncu").write_text("")
    (tmp_path / "ncu").chmod(0o755)
    given = ["profile", "my water.xyz", "--backend", "fast_gpu"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ncu_command(made, given) is None  # nothing of it ran on a GPU
    kernels = [(f"void kernel_{k}<(int)4>(float*)", 1, 1e-3) for k in range(6)]
    made = replace(made, kernels=kernels, provenance={"device_type": "cuda"})
    command = shlex.split(ncu_command(made, given))
    assert command[command.index("--nvtx-include") + 1] == "predict/"
    assert command[-6:] == ["python", "-m", "atomjet", *given][-6:]
    (names,) = (word for word in command if word.startswith("regex:"))
    found = [bool(re.fullmatch(names.removeprefix("regex:"), name)) for name, _, _ in kernels]
    assert found == [True] * 5 + [False]
    (tmp_path / "ncu").unlink()
    assert ncu_command(made, given) is None


def test_ranges_of_a_profile_have_names_in_nvidias_tools(monkeypatch):
    open_ranges, seen = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda name: (open_ranges.append(name), seen.append(name)))
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: open_ranges.pop())
    with named("predict"):
        assert open_ranges == ["predict"]
    assert (open_ranges, seen) == ([], ["predict"])


def test_command_line(tmp_path, capsys):
    model, structure = tmp_path / "tiny.safetensors", tmp_path / "water.xyz"
    tensor_file.write(model, PaiNN(PaiNNConfig(features=16, layers=2)), {"name": "tiny"})
    write(structure, molecule("H2O"))
    outputs = ["--json", str(tmp_path / "p.json"), "--trace", str(tmp_path / "t.json")]
    torch.set_num_threads(2)  # the command's own choice counts
    wanted = [str(structure), "--model", str(model), "--device", "cpu", "--copies", "2"]
    assert main(["profile", *wanted, *outputs]) == 0
    said = capsys.readouterr().out
    assert "2 threads" not in said
    assert "tiny on cpu (1 threads), backend fast_pytorch, precision default (float32); 2 structures, 6 atoms" in said
    for words in (
        "heaviest operators:",
        "ceilings measured here",
        "what is worth doing first (share of time x headroom",
    ):
        assert words in said
    made = json.loads((tmp_path / "p.json").read_text())
    assert len(made["kernels"]) == 10
    assert made["provenance"]["device_type"] == "cpu"
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    for wrong, says in (
        (["--copies", "0"], "copies 0 is not above zero"),
        (["--json", str(structure)], "it is the input"),
        (["--trace", str(tmp_path / "nowhere" / "t.json")], "there is no directory"),
    ):
        assert main(["profile", *wanted, *wrong]) == 2
        assert says in capsys.readouterr().err
    assert main(["profile", str(tmp_path / "none.xyz")]) == 2
    assert "none.xyz: no such file" in capsys.readouterr().err
