"""SchNetPack's own PaiNNs, through our importer, must give SchNetPack's own numbers."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from ase import Atoms
from safetensors.torch import load_file, save_file

import atomjet
from atomjet.models.painn import schnetpack

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = ("gaussian", "bessel", "shared")


@pytest.mark.parametrize("backend", ["general", "fast_pytorch"])
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_schnetpack(name, backend, tmp_path):
    out = tmp_path / f"{name}.safetensors"
    schnetpack.convert(GOLDEN / f"{name}.safetensors", GOLDEN / f"{name}.json", out)
    engine = atomjet.load(out, device="cpu", backend=backend, precision="float64")
    golden = json.loads((GOLDEN / f"{name}.golden.json").read_text())["structures"]
    assert len(golden) == 4
    for entry in golden:
        atoms = Atoms(entry["numbers"], entry["positions"], cell=entry["cell"], pbc=entry["pbc"])
        got = engine.predict(atoms)
        assert abs(float(got.energy) / entry["energy"] - 1) < 1e-8
        assert (got.forces - torch.tensor(entry["forces"], dtype=torch.float64)).abs().max() < 1e-8
        if entry["stress"] is not None:
            assert (got.stress[0] - torch.tensor(entry["stress"], dtype=torch.float64)).abs().max() < 1e-8


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}}])
def test_state_dict_as_pt(wrap, tmp_path):
    state = load_file(GOLDEN / "bessel.safetensors")
    torch.save(wrap(state), tmp_path / "weights.pt")
    model = schnetpack.load(tmp_path / "weights.pt", GOLDEN / "bessel.json")
    same = schnetpack.load(GOLDEN / "bessel.safetensors", GOLDEN / "bessel.json")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))


class Payload:
    """A pickle that would make a file if it ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_never_runs(tmp_path):
    bad = tmp_path / "weights.pt"
    torch.save({"x": Payload(tmp_path / "ran")}, bad)
    with pytest.raises(atomjet.AtomJetError, match=r"holds more than tensors.*safetensors"):
        schnetpack.load(bad, GOLDEN / "bessel.json")
    bad.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(atomjet.AtomJetError):
        schnetpack.load(bad, GOLDEN / "bessel.json")
    assert not (tmp_path / "ran").exists()


def test_refusals_name_what_is_wrong(tmp_path):
    hyper = json.loads((GOLDEN / "bessel.json").read_text())
    state = load_file(GOLDEN / "bessel.safetensors")

    def attempt(hyper, state):
        (tmp_path / "c.json").write_text(json.dumps(hyper))
        save_file(state, tmp_path / "w.safetensors")
        return schnetpack.load(tmp_path / "w.safetensors", tmp_path / "c.json")

    with pytest.raises(atomjet.AtomJetError, match="cutoff 4.3.* Å in the weights, 5.0 Å"):
        attempt(hyper | {"cutoff": 5.0}, state)
    with pytest.raises(atomjet.AtomJetError, match="activation: Input should be 'silu'"):
        attempt(hyper | {"activation": "tanh"}, state)
    with pytest.raises(atomjet.AtomJetError, match="n_atoms_basis.*known names: n_atom_basis"):
        attempt(hyper | {"n_atoms_basis": 3}, state)
    with pytest.raises(atomjet.AtomJetError, match="'embedding.weight' has shape"):
        attempt(hyper | {"n_atom_basis": 32}, state)
    with pytest.raises(atomjet.AtomJetError, match="electronic_embeddings"):
        attempt(hyper, state | {"representation.electronic_embeddings.0.x": torch.ones(1)})
    with pytest.raises(atomjet.AtomJetError, match="'filters.bias' is missing"):
        attempt(hyper, {k: v for k, v in state.items() if k != "representation.filter_net.bias"})


def test_json_overrides_offsets(tmp_path):
    hyper = json.loads((GOLDEN / "bessel.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(hyper | {"atomrefs": {"1": -13.5}, "mean": 0.5}))
    model = schnetpack.load(GOLDEN / "bessel.safetensors", tmp_path / "c.json")
    assert model.reference_energies[1] == -13.0
    assert model.reference_energies[6] == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_atom_basis": 7}, "n_atom_basis: Input should be a multiple of 2, not 7"),
        ({"n_atom_basis": -8}, "n_atom_basis: Input should be greater than or equal to 2, not -8"),
        ({"n_atom_basis": 1e30}, "n_atom_basis: "),
        ({"n_interactions": 0}, "n_interactions: Input should be greater than or equal to 1, not 0"),
        ({"n_rbf": 1}, "n_rbf: Input should be greater than or equal to 2, not 1"),
        ({"cutoff": 0}, "cutoff: Input should be greater than 0, not 0"),
        ({"cutoff": float("nan")}, "cutoff: Input should be a finite number"),
        ({"cutoff": float("inf")}, "cutoff: Input should be a finite number"),
        ({"max_z": -1}, "max_z: Input should be greater than or equal to 2, not -1"),
        ({"elements": [500]}, r"element 500 does not lie in 1 \.\.\. 99 \(below max_z\)"),
        ({"elements": "H"}, "elements: Input should be a valid tuple, not 'H'|elements: Input should be a valid array"),
        ({"atomrefs": {"1": float("nan")}}, "atomrefs.*should be a finite number"),
        ({"atomrefs": {"500": 1.0}}, "atomic number 500, beyond max_z 100"),
        ({"mean": float("-inf")}, "mean: Input should be a finite number"),
    ],
)
def test_hyperparameters_out_of_range(values, message, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(json.loads((GOLDEN / "bessel.json").read_text()) | values))
    with pytest.raises(atomjet.AtomJetError, match=message) as caught:
        schnetpack.load(GOLDEN / "bessel.safetensors", tmp_path / "c.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "null", "[1]", '{"n_atom_basis": 8', '{"cutoff": 4.3, "cutoff": 5}', "\x00", '"x"']
)
def test_hyperparameters_that_are_none(text, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(atomjet.AtomJetError, match=r"c\.json: .*(JSON|occurs twice|known names)"):
        schnetpack.load(GOLDEN / "bessel.safetensors", tmp_path / "c.json")


def test_a_cutoff_in_the_weights_that_is_none(tmp_path):
    state = load_file(GOLDEN / "bessel.safetensors")
    for value, message in ((torch.tensor([float("nan")]), "cutoff nan"), (torch.ones(0), "cutoff in the weights has")):
        save_file(state | {"representation.cutoff_fn.cutoff": value}, tmp_path / "w.safetensors")
        with pytest.raises(atomjet.AtomJetError, match=message):
            schnetpack.load(tmp_path / "w.safetensors", GOLDEN / "bessel.json")


def test_files_of_other_kinds(tmp_path):
    for name, content, message in (
        ("a.pt", b"", "PyTorch did not write it"),
        ("b.pt", pickle.dumps({"x": 1}), "PyTorch did not write it"),
        ("c.safetensors", b"", "not a whole safetensors file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(atomjet.AtomJetError, match=message):
            schnetpack.load(tmp_path / name, GOLDEN / "bessel.json")
    for content in ([1], {"x": 1}, {"state_dict": [torch.ones(1)]}, torch.ones(1)):
        torch.save(content, tmp_path / "d.pt")
        with pytest.raises(atomjet.AtomJetError, match=r"not a state_dict; save model.state_dict\(\)"):
            schnetpack.load(tmp_path / "d.pt", GOLDEN / "bessel.json")
