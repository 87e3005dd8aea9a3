"""Model files: what is written comes back; what is damaged, lying or foreign is refused by name, and nothing runs."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import atomjet
from atomjet.models import load, tensor_file
from tests.potentials import random_painn


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    tensor_file.write(path, random_painn(elements=(1, 6)), {"name": "thing", "limits": ["ø"]})
    return path


def refused(path, message):
    with pytest.raises(atomjet.AtomJetError, match=message) as caught:
        load.read(path)
    assert "\n" not in str(caught.value)


def rewritten(path, tensors=None, **metadata):
    with tensor_file.safe_open(path, "pt") as opened:
        metadata = dict(opened.metadata()) | metadata
    save_file(tensors or load_file(path), path, metadata)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path, dtype):
    model = random_painn(radial_basis="bessel").to(dtype)
    tensor_file.write(tmp_path / "m.safetensors", model, {"name": "x", "limits": ["a"]})
    back, card = load.read(tmp_path / "m.safetensors")
    assert card == {"name": "x", "limits": ["a"]}
    assert back.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
        assert back.state_dict()[name].dtype == tensor.dtype
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(path, "damaged")


def test_header_that_lies_about_its_length(path):
    content = path.read_bytes()
    path.write_bytes((2**60).to_bytes(8, "little") + content[8:])
    refused(path, "not a whole safetensors file")


def test_tensor_that_reaches_beyond_the_file(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["readout.2.bias"]["data_offsets"] = [10**9, 10**9 + 8]
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])
    refused(path, "damaged safetensors file")


def test_a_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    refused(path, "SHA-256|not finite")


def test_weights_that_are_not_the_configuration(path):
    tensors = load_file(path)
    refused(rewritten(path, {k: v for k, v in tensors.items() if k != "filters.bias"}), "'filters.bias' is missing")
    refused(rewritten(path, tensors | {"extra": torch.ones(1)}), "unknown tensor 'extra'")
    refused(rewritten(path, tensors | {"filters.bias": torch.ones(3)}), r"'filters.bias' has shape \(3,\); expected")
    bad = tensors["filters.bias"].clone()
    bad[0] = float("nan")
    refused(rewritten(path, tensors | {"filters.bias": bad}), "not finite")


def test_metadata(path):
    refused(rewritten(path, atomjet="99"), "has format 99; this version reads formats 1 and 2")
    refused(rewritten(path, atomjet="1", family="schnet"), "unknown model family 'schnet'")
    refused(rewritten(path, family="painn", config="{"), "unreadable configuration")
    refused(rewritten(path, config='{"features": -4}'), "unreadable configuration")


def test_foreign_safetensors(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "is not an AtomJet model.*atomjet convert")


def test_a_pickle_never_runs(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    for name, write in (("a.pt", torch.save), ("b.safetensors", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        write(Payload(), tmp_path / name)
        refused(tmp_path / name, "this is a pickle, which could run code")
    assert not (tmp_path / "ran").exists()


def test_no_such_file(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file")
    with pytest.raises(atomjet.AtomJetError, match="no model 'nothing': not a file, and not packaged"):
        atomjet.load("nothing")
    with pytest.raises(atomjet.AtomJetError, match="not a file"):
        atomjet.load(tmp_path)
