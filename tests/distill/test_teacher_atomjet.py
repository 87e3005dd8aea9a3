"""A model of ours as the teacher, with its task in the name."""

from pathlib import Path

import pytest
from ase.build import molecule

import atomjet
from atomjet.distill.teacher import describe_teacher, make_teacher

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
