"""A model of ours as the teacher, with its task in the name."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

import atomjet
from atomjet.distill import batched
from atomjet.distill.frames import concatenate, make_frames
from atomjet.distill.journal import Journal
from atomjet.distill.pool import Task
from atomjet.distill.recipe import TeacherConfig
from atomjet.distill.teacher import build_teacher, describe_teacher, make_teacher
from atomjet.distill.teacher_labels import content_of, label_frame, to_ase

UMA = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2p1.pt"


def test_a_uma_checkpoint_teaches():
    spec = f"atomjet:{UMA}?task=omol&precision=float64"
    atoms = molecule("CH3CH2OH", info={"charge": 1, "spin": 2})
    atoms.calc = make_teacher(spec, {"device": "cpu"})
    engine = atomjet.load(UMA, device="cpu", task="omol", precision="float64")
    assert atoms.get_potential_energy() == float(engine.predict(atoms).energy)
    assert len(describe_teacher(spec, {})["sha256"]) == 64


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (f"atomjet:{UMA}?task=oxide", "task 'oxide' is unknown; this model knows oc20"),
        (f"atomjet:{UMA}?task", "write settings as atomjet:FILE"),
        (f"atomjet:{UMA}?tusk=omol", "refused options"),
        ("atomjet:absent.pt", "no model 'absent.pt'"),
    ],
)
def test_refusals(spec, message):
    with pytest.raises(atomjet.AtomJetError, match=message):
        make_teacher(spec, {})


def test_frames_labelled_together_have_the_labels_of_frames_labelled_alone(tmp_path, monkeypatch):
    """Charge, spin and task of each frame are kept in a batch, and a frame that is refused fails alone."""
    oxide = bulk("MgO", "rocksalt", 4.2)
    oxide.info["task"] = "omat"
    structures = [
        molecule("H2O", info={"charge": 0, "spin": 1}),
        molecule("CH3OH", info={"charge": 1, "spin": 2}),
        molecule("H2O", info={"charge": -1, "spin": 2, "task": "omol"}),
        oxide,
        Atoms("H2", [[0, 0, 0], [0, 0, 1e-6]], info={"spin": 1}),
        molecule("NH3", info={"spin": 1}),
    ]
    teacher = TeacherConfig(calculator=f"atomjet:{UMA}?task=omol&precision=float64", options={"device": "cpu"})
    frames = concatenate([make_frames([atoms], "train", "s", "m") for atoms in structures])
    tasks = [Task(bytes([f]) * 16, (teacher, *content_of(frames, f))) for f in range(len(frames))]
    monkeypatch.setattr(batched, "BATCH_ATOMS", 9)
    batched.run_batches(build_teacher(teacher).engine, to_ase, tasks, tmp_path, lambda: None)
    with Journal(tmp_path) as journal:
        records = [journal[task.key] for task in tasks]
    for record, task in zip(records, tasks, strict=True):
        if "error" not in record:
            alone = label_frame(*task.arguments)
            assert record["energy"] == pytest.approx(alone["energy"], abs=1e-8)
            assert np.allclose(record["forces"], alone["forces"], atol=1e-6)
            assert ("stress" in record) == ("stress" in alone)
    assert [f for f, record in enumerate(records) if "error" in record] == [4]
    assert np.allclose(records[3]["stress"], label_frame(*tasks[3].arguments)["stress"], atol=1e-9)
    assert records[4]["error"].startswith("StructureError: atom 0 and atom 1 are 0.000 Å apart")
    assert records[0]["energy"] != records[2]["energy"]


def test_a_model_of_ours_labels_in_full_float32_unless_told():
    assert make_teacher("atomjet:organic-xtb", {"device": "cpu"}).engine.precision == "high"
    assert make_teacher("atomjet:organic-xtb?precision=float64", {"device": "cpu"}).engine.precision == "float64"
    assert batched.engine_of(make_teacher("atomjet:organic-xtb", {"device": "cpu"})) is None
