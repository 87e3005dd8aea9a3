"""Model files, checkpoints, state_dicts, configurations and cards."""

import json
import math
import pickle
import warnings
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule

from atomjet.distill.checkpoint import read_checkpoint, write_checkpoint
from atomjet.distill.dataset import read_dataset, write_shard
from atomjet.distill.frames import make_frames
from atomjet.engine import Engine, Settings
from atomjet.md.checkpoint import Checkpoint, Recorded
from atomjet.models import load, tensor_file
from atomjet.models.escn_md import fairchem_zip
from tests.fuzz import cases, changed, damaged, served_or_refused, value
from tests.models.escn_md.foreign import write
from tests.potentials import random_painn

GOLDEN = Path(__file__).parents[1] / "models" / "golden"
UMA = Path(__file__).parents[1] / "models" / "escn_md" / "golden" / "uma_1p2.pt"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Bytes of a small model file, a third of them its header."""
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    card = {
        "name": "thing",
        "elements": ["H", "C"],
        "shortest_distances": {"H-H": 0.4, "H-C": 0.7},
        "limits": ["knows nothing"],
        "errors": {"held-out": {"force_mae_meV_A": 12.5}},
    }
    tensor_file.write(path, random_painn(features=4, layers=1, num_radial=4, max_z=8, elements=(1, 6)), card)
    return path.read_bytes()


def equal(one, other):
    """Whether two models with their cards are the same to the last bit."""
    first, second = one[0].state_dict(), other[0].state_dict()
    return (one[0].config, one[1], first.keys()) == (other[0].config, other[1], second.keys()) and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_damaged_model_files(content, tmp_path):
    """What still loads is the same to the last bit."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    whole = load.read(path)
    for case, generator in cases("damaged model files", 1500):
        path.write_bytes(damaged(content, generator))
        found = served_or_refused(case, load.read, path)
        assert found is None or equal(found, whole), f"case {case}: loads, and is another model"


def test_damaged_checkpoints_of_dynamics(tmp_path):
    """What still loads is the same to the last bit; so for all files from which a run goes on."""
    path = tmp_path / "run.checkpoint"
    arrays = {"positions": np.arange(12.0).reshape(4, 3), "momenta": np.ones((4, 3))}
    Checkpoint(40, {"steps": 10}, {"state": 5}, (Recorded(100, b"Ulm", 20),), arrays).save(path)
    content, whole = path.read_bytes(), Checkpoint.load(path)
    for case, generator in cases("damaged checkpoints of dynamics", 1500):
        path.write_bytes(damaged(content, generator))
        found = served_or_refused(case, Checkpoint.load, path)
        assert found is None or all(
            np.array_equal(found.arrays.get(name), values) for name, values in whole.arrays.items()
        ), f"case {case}"
        assert found is None or (found.step, found.request, found.noise, found.recorded) == (
            whole.step,
            whole.request,
            whole.noise,
            whole.recorded,
        ), f"case {case}"


def test_damaged_checkpoints_of_trainings(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"weights": torch.arange(20.0), "step": torch.tensor(7)}, {"step": 7, "run": {"seed": 3}})
    content, (tensors, header) = path.read_bytes(), read_checkpoint(path)
    for case, generator in cases("damaged checkpoints of trainings", 1000):
        path.write_bytes(damaged(content, generator))
        found = served_or_refused(case, read_checkpoint, path)
        assert found is None or found[1] == header, f"case {case}"
        assert found is None or all(torch.equal(found[0][name], value) for name, value in tensors.items()), case


def test_damaged_shards(tmp_path):
    pytest.importorskip("h5py")
    path = tmp_path / "shard.h5"
    frames = make_frames([molecule("CH4"), molecule("H2O")], "train", "md", "C")
    frames.energy[:], frames.forces[:] = [-1.0, -2.0], 0.5
    write_shard(path, frames, {"seed": 1})
    content = path.read_bytes()
    for case, generator in cases("damaged shards", 400):
        path.write_bytes(damaged(content, generator))
        found = served_or_refused(case, read_dataset, path)
        for field in fields(frames) if found is not None else ():
            one, other = getattr(found, field.name), getattr(frames, field.name)
            same = one.tolist() == other.tolist() if one.dtype.kind in "TUb" else np.array_equal(one, other, True)
            assert same, f"case {case}: {field.name}"


def usable(case, path):
    """What loads gives finite energies, or is refused in one line when it is used."""
    found = served_or_refused(case, load.read, path)
    if found is None:
        return
    engine = served_or_refused(case, lambda: Engine(found[0], Settings("cpu"), found[1]))
    if engine is None:
        return
    assert isinstance(engine.describe(), str)
    prediction = served_or_refused(case, engine.predict, molecule("CH4"))
    assert prediction is None or math.isfinite(float(prediction.energy)), f"case {case}"


@pytest.mark.parametrize("part", ["config", "card"])
@pytest.mark.parametrize("signed", [True, False])
def test_configurations_and_cards(part, signed, content, tmp_path):
    """With the right SHA-256, as a program of somebody else would write it, and in the format before, which has none of them."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    file = tensor_file.opened(path)
    tensors = file.tensors()
    for case, generator in cases(f"{part} {signed}", 300):
        text = json.dumps(changed(json.loads(file.metadata[part]), generator))
        if generator.random() < 0.3:
            text = damaged(text.encode(), generator).decode("utf-8", "replace")
        metadata = {**file.metadata, part: text}
        if signed:
            tensor_file.write_tensors(path, tensors, metadata)
        else:
            metadata |= {"atomjet": "1", "sha256": tensor_file.digest(tensors, {})}
            path.write_bytes(tensor_file.save(tensors, metadata))
        usable(case, path)


def test_damaged_checkpoints(tmp_path):
    """Anywhere in the file, where the zip's own checks notice most; and in the pickle, behind them."""
    path, whole = tmp_path / "x.pt", UMA.read_bytes()
    with zipfile.ZipFile(UMA) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for case, generator in cases("damaged checkpoints", 250):
        if generator.random() < 0.3:
            path.write_bytes(damaged(whole, generator))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, record in records.items():
                    archive.writestr(name, damaged(record, generator) if name.endswith("data.pkl") else record)
        served_or_refused(case, load.read, path)


def test_changed_checkpoints(tmp_path):
    path, original = tmp_path / "x.pt", fairchem_zip.read(UMA)
    for case, generator in cases("changed checkpoints", 200):
        model, tasks, weights = original.model, original.tasks, dict(original.weights)
        kind = generator.randrange(4)
        if kind == 0:
            model = changed(model, generator)
        elif kind == 1:
            model = model | {"backbone": changed(model["backbone"], generator)}
        elif kind == 2:
            tasks = [changed(task, generator) for task in tasks] + [value(generator)] * generator.randrange(2)
        else:
            name = generator.choice(list(weights))
            tensor = weights[name]
            others = (torch.ones(3), torch.ones(0), tensor[..., None], tensor.int(), tensor / 0, value(generator))
            weights[name] = generator.choice(others)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(path, model, tasks, weights)
        served_or_refused(case, load.read, path)


def test_state_dicts_and_hyperparameters(tmp_path):
    config, out = tmp_path / "c.json", tmp_path / "out.safetensors"
    hyper = json.loads((GOLDEN / "bessel.json").read_text())
    weights = GOLDEN / "bessel.safetensors"
    for case, generator in cases("hyperparameters", 300):
        text = json.dumps(changed(hyper, generator)).encode()
        config.write_bytes(damaged(text, generator) if generator.random() < 0.3 else text)
        served_or_refused(case, load.convert, weights, config, out)
    config.write_text(json.dumps(hyper))
    torch.save(tensor_file.opened(weights).tensors(), tmp_path / "original.pt")
    for case, generator in cases("state_dicts", 200):
        source = generator.choice((weights, tmp_path / "original.pt"))
        path = tmp_path / f"damaged{source.suffix}"
        path.write_bytes(damaged(source.read_bytes(), generator))
        served_or_refused(case, load.convert, path, config, out)


def test_pickles_of_anything(tmp_path):
    """Files that are no archive, and archives whose pickle is noise made of its own operations."""
    operations = [bytes([code]) for code in pickle._Unpickler.dispatch if code != ord(".")]
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(UMA) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for case, generator in cases("pickles", 400):
        noise = b"\x80\x02" + b"".join(
            generator.choice((generator.choice(operations), generator.randbytes(generator.randrange(4))))
            for _ in range(generator.randrange(60))
        )
        if generator.random() < 0.2:
            path.write_bytes(noise + b".")
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, record in records.items():
                    archive.writestr(name, noise + b"." if name.endswith("data.pkl") else record)
        served_or_refused(case, load.read, path)
