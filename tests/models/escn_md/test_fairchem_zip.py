"""What is made of files: only fairchem's inference checkpoints are read, everything else is refused by name, nothing ever runs."""

import os
import pickle
import zipfile

import pytest
import torch

import atomjet
from atomjet.models.escn_md import fairchem, fairchem_zip
from atomjet.models.escn_md.experts import MixtureKey
from tests.models.escn_md.foreign import GOLDEN, atoms_of, golden, pretended, write, write_omegaconf

SMALL = GOLDEN / "uma_1p2.pt"


@pytest.fixture
def parts():
    """A fresh copy of what a checkpoint holds: model, tasks, weights."""
    content = fairchem_zip.read(SMALL)
    return content.model, content.tasks, content.weights


def refused(path, message):
    with pytest.raises(atomjet.AtomJetError, match=message):
        atomjet.load(path, device="cpu")


def test_written_back_it_is_the_same(parts, tmp_path):
    first, _ = fairchem.load(SMALL)
    second, _ = fairchem.load(write(tmp_path / "again.pt", *parts))
    assert first.config == second.config
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_omegaconf(parts, tmp_path):
    """Training runs leave OmegaConf's nodes in their checkpoints, with references into the outermost configuration."""
    model, tasks, weights = parts
    for task in tasks:
        if task["datasets"] == ["omol"]:
            task["normalizer"]["rmsd"] = "${scale.of_molecules}"
    root = {"scale": {"of_molecules": 2.5}}
    loaded, _ = fairchem.load(write_omegaconf(tmp_path / "a.pt", model, tasks, weights, root))
    assert loaded.scales[loaded.config.tasks.index("omol")] == 2.5
    assert loaded.config == fairchem.load(SMALL)[0].config
    refused(
        write_omegaconf(tmp_path / "b.pt", model, tasks, weights, {}),
        r"refers to \$\{scale.of_molecules\}, which is not",
    )


class Payload:
    """Would make a folder if it ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_payload_never_runs(parts, tmp_path):
    model, tasks, weights = parts
    ran, path = tmp_path / "ran", tmp_path / "bad.pt"
    for place in (
        (model | {"backbone": Payload(ran)}, tasks, weights),
        (model, [*tasks, Payload(ran)], weights),
        (model, tasks, weights | {"x": Payload(ran)}),
    ):
        refused(write(path, *place), r"could run code.*it wants posix\.mkdir, which is refused")
    torch.save(Payload(ran), path)
    refused(path, r"it wants posix\.mkdir")
    path.write_bytes(pickle.dumps(Payload(ran)))
    refused(path, "this is a pickle, which could run code")
    with pretended("fairchem.core.models.base.HydraModel") as (kind,):
        torch.save(kind(), path)
    refused(path, r"it wants fairchem\.core\.models\.base\.HydraModel, which is refused")
    assert not ran.exists()


def rewritten(path, out, change):
    """The same archive with one member's bytes changed, in a correct zip."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out


@pytest.mark.parametrize(
    "attack",
    [
        b"\x80\x02cbuiltins\neval\nX\x08\x00\x00\x001/0 == 1\x85R.",
        b"\x80\x02cbuiltins\ngetattr\n.",
        b"\x80\x02c__builtin__\nexec\n.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02ctorch.serialization\nload\n.",
        b"\x80\x02ctorch._utils\n_rebuild_wrapper_subclass\n.",
        b"\x80\x02ccollections\nOrderedDict.fromkeys\n.",
    ],
)
def test_other_names_are_refused(attack, tmp_path):
    path = rewritten(SMALL, tmp_path / "x.pt", lambda name, old: attack if name.endswith("data.pkl") else old)
    refused(path, "which is refused")


def test_damaged_files(tmp_path):
    content = SMALL.read_bytes()
    path = tmp_path / "x.pt"
    for length in (0, 3, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(path, "damaged|not a whole safetensors file")
    with zipfile.ZipFile(SMALL) as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size if "/data/" in info.filename else 0)
    flipped = bytearray(content)
    flipped[info.header_offset + len(info.filename) + 30 + info.file_size // 2] ^= 1
    path.write_bytes(bytes(flipped))
    refused(path, "damaged.*CRC")
    cut = rewritten(SMALL, path, lambda name, old: old[:8] if name == info.filename else old)
    refused(cut, "reaches beyond its storage")
    refused(
        rewritten(SMALL, path, lambda name, old: old[:40] if name.endswith("data.pkl") else old),
        "damaged pickle|pickle data was truncated",
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "nothing")
    refused(path, "not one that PyTorch wrote")
    torch.save({"a": torch.ones(2)}, path)
    refused(path, "holds a dict, not fairchem's MLIPInferenceCheckpoint")


def change(config, **values):
    return config | {"backbone": config["backbone"] | values}


def test_other_architectures(parts, tmp_path):
    model, tasks, weights = parts

    def attempt(model, message, tasks=tasks, weights=weights):
        refused(write(tmp_path / "x.pt", model, tasks, weights), message)

    attempt(change(model, model="fairchem.core.models.esen.eSEN_Backbone"), "the architecture is .*eSEN_Backbone; only")
    attempt({"backbone": 3}, "the architecture is nothing")
    attempt(change(model, ff_type="grid"), "option ff_type is 'grid'; only 'spectral' is supported")
    attempt(change(model, direct_forces=True), "option direct_forces is True")
    attempt(change(model, direct_stress=True), "option direct_stress is True; only False is supported")
    attempt(change(model, mmax=3), "mmax 3 is above lmax 2; no such model can be read")
    attempt(change(model, max_neighbors=2.5), "option max_neighbors is 2.5; it must be a whole number")
    attempt(
        change(model, max_neighbours=30),
        "option max_neighbours is 30; eSCNMDMoeBackbone of fairchem-core 2.24 has no such option",
    )
    plain = {"model": "fairchem.core.models.uma.escn_md.eSCNMDBackbone"}
    attempt(change(model, **plain), "option .* is .*; eSCNMDBackbone of fairchem-core 2.24 has no such option")
    attempt(change(model, moe_type="all"), "option moe_type is 'all'; only 'so2' is supported")
    attempt(change(model, num_experts=-1), "experts: Input should be greater than or equal to 0; no such model")
    # Experts where the configuration says that there are none.
    attempt(change(model, num_experts=0), "unknown tensor|is missing|expected")
    attempt(change(model, lmax="two"), "lmax: Input should be a valid integer")
    attempt(change(model, num_experts=5), r"has shape .*; expected \(5, ")
    attempt(change(model, charge_balanced_channels=[0, 2]), "is not a row of neighbouring channels")
    attempt(
        change({k: v for k, v in model.items() if k != "model_id"}), "no model_id and no model_version 1.1, as UMA 1.0"
    )
    attempt(model | {"heads": {"a": {}, "b": {}}}, r"heads \['a', 'b'\] are not one head")
    attempt(model | {"heads": {"a": {"module": "x.Linear_Energy_Head"}}}, "head Linear_Energy_Head with")
    attempt(model, "no task with an energy", tasks=[])
    attempt(model, "dataset 'oc99' is unknown", tasks=[tasks[0] | {"datasets": ["oc99"]}])
    scaled = [dict(tasks[0]), tasks[1] | {"normalizer": tasks[1]["normalizer"] | {"rmsd": 9.0}}]
    attempt(model, "is scaled by 9.0, its energy by 1.423: forces would not", tasks=scaled)
    attempt(model, "normalizer .* is not supported", tasks=[tasks[0] | {"normalizer": {"_target_": "os.system"}}])
    shifted = [tasks[0] | {"normalizer": tasks[0]["normalizer"] | {"mean": 1.0}}]
    attempt(model, "has a mean", tasks=shifted)
    pushed = [tasks[0], tasks[1] | {"normalizer": tasks[1]["normalizer"] | {"mean": 0.5}}]
    attempt(model, "task 'omol_forces' has a mean, 0.5, which no derivative of the energy has", tasks=pushed)
    references = tasks[0]["element_references"]
    attempt(
        model,
        "task 'omol_forces' has element_references, which no derivative",
        tasks=[tasks[0], tasks[1] | {"element_references": references}],
    )
    short = references["element_references"] | {"_args_": [[0.0, -1.0, -2.0]]}
    attempt(
        model,
        r"element_references have shape \(3,\); the model knows atomic numbers below 100, and each needs one",
        tasks=[tasks[0] | {"element_references": references | {"element_references": short}}],
    )
    linear = references | {"_target_": "fairchem.core.modules.normalization.element_references.LinearReferences"}
    attempt(model, "element_references are not a table", tasks=[tasks[0] | {"element_references": linear}])
    table = {"element_references": {"_target_": "numpy.load", "_args_": ["x"]}}
    attempt(model, "element_references are not a table", tasks=[tasks[0] | {"element_references": table}])


def test_no_limit_on_neighbours(parts, tmp_path):
    """0 and less stand for none, as in fairchem."""
    model, tasks, weights = parts
    for value, limit in ((0, 0), (-1, 0), (17, 17)):
        loaded, _ = fairchem.load(write(tmp_path / "x.pt", change(model, max_neighbors=value), tasks, weights))
        assert loaded.config.max_neighbors == limit


def test_head_of_another_dataset(tmp_path):
    content = fairchem_zip.read(GOLDEN / "uma_1p1.pt")
    head = content.model["heads"]["energyandforcehead"]
    heads = {"energyandforcehead": head | {"dataset_names": ["omol"]}}
    path = write(tmp_path / "x.pt", content.model | {"heads": heads}, content.tasks, content.weights)
    refused(path, "dataset 'oc20' has no head")


def test_dense_models_share_one_map_as_it_is():
    """No experts to be mixed, so no copies for each kind of system either."""
    model, _ = fairchem.load(GOLDEN / "esen_moe.pt")
    assert (model.config.experts, model.config.composition, model.config.task_embedding) == (0, "none", True)
    plain, _ = fairchem.load(GOLDEN / "esen.pt")
    assert (plain.config.experts, plain.config.task_embedding, plain.config.tasks) == (0, False, ("omol",))
    blend = model.blends.of(model, MixtureKey((), 0, 1, "omol"))
    for number, layer in enumerate(model.mixed_linears):
        assert blend.weights[number].data_ptr() == layer.weights.data_ptr()


def test_other_weights(parts, tmp_path):
    model, tasks, weights = parts

    def attempt(message, **changes):
        changed = {name: value for name, value in (weights | changes).items() if value is not None}
        refused(write(tmp_path / "x.pt", model, tasks, changed), message)

    name = "module.backbone.norm.affine_bias"
    attempt("tensor 'norm.affine_bias' is missing", **{name: None})
    attempt(r"'norm.affine_bias' has shape \(3,\); expected \(4,\)", **{name: torch.ones(3)})
    attempt("holds values that are not finite", **{name: torch.full((4,), float("nan"))})
    attempt("unknown tensor 'backbone.extra'|unknown tensor 'extra'", **{"module.backbone.extra": torch.ones(1)})
    attempt("unknown tensor 'other'", **{"module.other": torch.ones(1)})
    attempt(
        "dataset_emb_dict.omat.weight' is missing",
        **{"module.backbone.dataset_embedding.dataset_emb_dict.omat.weight": None},
    )


def test_fine_tuned_on_one_dataset(parts, tmp_path):
    """A fine-tune has one head that is not told apart by dataset, and tasks for one dataset only."""
    model, tasks, weights = parts
    head = {"module": "fairchem.core.models.uma.escn_md.MLP_EFS_Head", "wrap_property": False}
    moved = {}
    for name, tensor in weights.items():
        if "output_heads" in name:
            own = tensor[1] if name.endswith("weights") else tensor  # of the sorted omat, omc, omol: omc
            name = name.replace("energyandforcehead.head.", "tuned.").replace("weights", "weight")
            moved[name] = own
        else:
            moved[name] = tensor
    mine = [task for task in tasks if task["datasets"] == ["omc"]]
    path = write(tmp_path / "tuned.pt", model | {"heads": {"tuned": head}}, mine, moved)
    tuned = atomjet.load(path, device="cpu", precision="float64")
    assert tuned.task == "omc"
    atoms = atoms_of(golden("uma_1p2")["structures"][1])
    atoms.info["task"] = "omc"
    expected = atomjet.load(SMALL, device="cpu", precision="float64").predict(atoms)
    assert torch.equal(tuned.predict(atoms).forces, expected.forces)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sphere_channels": -8}, "channels: Input should be greater than or equal to 1"),
        ({"sphere_channels": 20000}, "channels: Input should be less than or equal to 4096"),
        ({"num_layers": 0}, "layers: Input should be greater than or equal to 1"),
        ({"num_layers": 10**9}, "layers: Input should be less than or equal to 64"),
        ({"cutoff": 0}, "cutoff: Input should be greater than 0"),
        ({"cutoff": float("nan")}, "cutoff: Input should be a finite number"),
        ({"max_num_elements": 2 * 10**9}, "max_z: Input should be less than or equal to 119"),
        ({"num_experts": -1}, "experts: Input should be greater than or equal to 0"),
        ({"charge_balanced_channels": [None, "a"]}, "damaged or of another version|row of neighbouring"),
        ({"charge_balanced_channels": 7}, "damaged or of another version|row of neighbouring"),
        ({"dataset_mapping": {"omol": ["omol"]}}, "damaged or of another version|does not map"),
        ({"dataset_list": 5, "dataset_mapping": None}, "damaged or of another version|does not map"),
    ],
)
def test_configurations_out_of_range(values, message, parts, tmp_path):
    model, tasks, weights = parts
    refused(write(tmp_path / "x.pt", change(model, **values), tasks, weights), message)


@pytest.mark.parametrize(
    "tasks", [[3], [{"datasets": 7, "property": "energy"}], [{"datasets": [["omol"]], "property": "energy"}]]
)
def test_tasks_that_are_none(tasks, parts, tmp_path):
    model, _, weights = parts
    refused(write(tmp_path / "x.pt", model, tasks, weights), "damaged|unknown or occurs twice")
