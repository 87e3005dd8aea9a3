"""PaiNN's kernels compile wherever there is Triton; on a Hopper GPU, its updates equal the others."""

import json
from pathlib import Path

import pytest
import torch

from atomjet import Engine, neighbor_list
from atomjet.bench.geometries import molecules
from atomjet.engine import Settings
from atomjet.models.base import General
from tests.compiling import printed
from tests.potentials import random_painn

pytest.importorskip("triton")
import triton

from atomjet.models.painn import fast_gpu
from atomjet.models.painn.fast_gpu import FastGpu
from atomjet.ops import painn_update, painn_update_hopper

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


@pytest.mark.slow
def test_kernels_compile():
    """And fit: a Hopper GPU has 227 KiB of shared memory for a program."""
    found = json.loads(printed(Path(__file__).with_name("compile_kernels.py")))
    messages = [kernel for name, kernel in found.items() if name.startswith("messages")]
    updates = [kernel for name, kernel in found.items() if name.split()[0] in ("fwd", "last", "bwd")]
    assert len(updates) == 9
    assert min(kernel["products"] for kernel in updates) > 40
    assert max(kernel["shared"] for kernel in updates) <= 227 * 1024
    assert [kernel["kernels"] for kernel in messages] == [10, 10, 10]
    others = {name: kernel["kernels"] for name, kernel in found.items() if name.startswith(("plain", "sums", "steps"))}
    assert set(others.values()) == {3, 4, 5}
    assert len(others) == 8
    # The most that a program may have on an A100, and on a Hopper GPU.
    for capability, most in ((80, 163), (90, 227)):
        assert max(found[f"plain {name} {capability}"]["shared"] for name in ("half", "split")) <= most * 1024
    # Warps of a program work by themselves: nothing within a loop goes through shared memory, at most a sum behind it.
    assert max(kernel["shared"] for kernel in messages) <= 1024


def test_a_triton_that_does_not_compile_them_runs_the_others(monkeypatch):
    """Known releases are trusted; another is tried, and what it says goes to `describe`."""
    device = torch.device("cuda", 9)  # which no machine has
    painn_update_hopper.why_not.cache_clear()
    assert painn_update_hopper.why_not(device) == ""
    monkeypatch.setattr(triton, "__version__", "4.1.0")
    painn_update_hopper.why_not.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    update, note = fast_gpu._updates(device, torch.float16, 128)
    painn_update_hopper.why_not.cache_clear()
    assert update is painn_update
    assert note.startswith("Triton 4.1.0 does not compile the kernels for Hopper (")
    engine = Engine(random_painn(features=16, layers=2, num_radial=6), Settings("cpu", "fast_gpu", "high"))
    assert "Triton" not in engine.describe()
    engine.evaluator.note = note
    assert note in engine.describe()


@pytest.mark.gpu
@pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
@pytest.mark.parametrize("features", [100, 128])
@pytest.mark.parametrize("copies", [1, 8])
@pytest.mark.parametrize("rows", painn_update_hopper.ROWS)
def test_equals_the_other_kernels(monkeypatch, features, copies, rows):
    """Within the rounding of half precision, the definition in float64 included; and itself to the last bit."""
    monkeypatch.setattr(painn_update_hopper, "rows_of", lambda q: rows)
    model = random_painn(features=features, cutoff=4.0).to("cuda")
    graph = neighbor_list(molecules(20, copies), 4.0).to("cuda")
    narrow = graph.with_vectors(graph.vectors.float())
    fast = FastGpu(random_painn(features=features, cutoff=4.0).float().to("cuda"))
    assert fast.update is painn_update_hopper
    energies, gradients = fast.energies_and_gradients(narrow)
    again, gradients_again = fast.energies_and_gradients(narrow)
    assert torch.equal(energies, again)
    assert torch.equal(gradients, gradients_again)
    exact, exact_gradients = General(model).energies_and_gradients(graph)
    fast.update = painn_update
    fast.chains = [fast._chain(layer) for layer in range(3)]
    other, other_gradients = fast.energies_and_gradients(narrow)
    for ours, theirs, bound in (
        (energies, other, 1e-3),
        (gradients, other_gradients, 2e-3),
        (energies, exact, 5e-3),
        (gradients, exact_gradients, 5e-3),
    ):
        assert float((ours - theirs).norm() / theirs.norm()) < bound
