"""Model files: what is written comes back; what is damaged, lying or foreign is refused by name, and nothing runs."""

import hashlib
import json
import pickle
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

import atomjet
from atomjet.models import load, registry, tensor_file
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
    """Changed by somebody who does not know of the SHA-256."""
    metadata = tensor_file.opened(path).metadata | metadata
    save_file(tensors or load_file(path), path, metadata)
    return path


def of_format_1(path, **metadata):
    """As older versions wrote it: the SHA-256 is of the tensors alone."""
    tensors = load_file(path)
    return rewritten(path, tensors, **({"atomjet": "1", "sha256": tensor_file.digest(tensors, {})} | metadata))


def renewed(path, **metadata):
    """Changed by somebody who does."""
    tensor_file.write_tensors(path, load_file(path), tensor_file.opened(path).metadata | metadata)
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
    for name, file in (
        ("uma-s-1p2p1", "facebook/UMA checkpoints/uma-s-1p2p1.pt"),
        ("somewhere/UMA-M-1p1.pt", "facebook/UMA checkpoints/uma-m-1p1.pt"),
        ("esen-sm-conserving-all-omol", "facebook/OMol25 checkpoints/esen_sm_conserving_all.pt"),
    ):
        with pytest.raises(
            atomjet.AtomJetError,
            match=rf"no model '{name}' here: .* page 'facebook/.*`hf download {file} --local-dir \.`",
        ):
            atomjet.load(name)
    with pytest.raises(atomjet.AtomJetError, match="no model 'nothing': not a file, and not packaged"):
        atomjet.load("nothing")
    with pytest.raises(atomjet.AtomJetError, match="not a file"):
        atomjet.load(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("cutoff", 4.9), ("epsilon", 1e-7), ("elements", [1, 6, 7])])
def test_a_changed_configuration(path, name, value):
    """Values that would load and give other energies."""
    config = json.loads(tensor_file.opened(path).metadata["config"]) | {name: value}
    refused(rewritten(path, config=json.dumps(config)), "weights, configuration and card do not match their SHA-256")


def test_a_changed_card(path):
    refused(rewritten(path, card='{"name": "thing", "limits": ["o"]}'), "configuration and card do not match")
    refused(rewritten(path, another="field"), "configuration and card do not match")


def test_the_digest_is_what_its_docstring_says(path):
    metadata, sha = tensor_file.opened(path).metadata, hashlib.sha256()
    for name in ("atomjet", "card", "config", "family", "format"):
        for text in (name.encode(), metadata[name].encode()):
            sha.update(b"%d " % len(text) + text)
    for name, tensor in sorted(load_file(path).items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    assert metadata["sha256"] == sha.hexdigest()


def test_the_format_before(path):
    new, card = load.read(path)
    old, old_card = load.read(of_format_1(path))
    assert (old.config, old_card) == (new.config, card)
    assert all(torch.equal(old.state_dict()[name], tensor) for name, tensor in new.state_dict().items())
    assert not load.whole_file_is_protected(path)
    load.convert(path, None, path)
    assert load.whole_file_is_protected(path)
    assert load.read(path)[1] == card
    refused(rewritten(path, atomjet="1"), "the weights do not match their SHA-256")


def test_packaged_models_are_protected():
    for path in registry.packaged().values():
        assert load.whole_file_is_protected(path)


def test_a_key_that_occurs_twice(path):
    config = tensor_file.opened(path).metadata["config"]
    refused(renewed(path, config=config[:-1] + ',"cutoff":4.0}'), "unreadable configuration: key 'cutoff' occurs twice")
    refused(renewed(path, config=config, card='{"a": {"b": 1, "b": 2}}'), "unreadable card: key 'b' occurs twice")


def test_a_header_that_says_things_twice(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].decode().rstrip()
    for twice in ('"__metadata__":{"config":"{}"}', '"filters.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'):
        encoded = (header[:-1] + "," + twice + "}").encode()
        path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])
        refused(path, "damaged safetensors file .*occurs twice")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("null", "unreadable card: the whole: .*not None"),
        ("[]", "unreadable card: the whole"),
        ('"text"', "unreadable card: the whole"),
        ("", "unreadable card: not JSON"),
        ('{"name": 3}', "unreadable card: name: Input should be a valid string, not 3"),
        ('{"summary": null}', "unreadable card: summary: Input should be a valid string, not None"),
        ('{"elements": "H C"}', "unreadable card: elements: Input should be a valid array, not 'H C'"),
        ('{"elements": [6]}', "unreadable card: elements.0: Input should be a valid string, not 6"),
        ('{"elements": ["Xy"]}', "unreadable card: elements.0: no symbol of an element, not 'Xy'"),
        ('{"limits": {"a": 1}}', "unreadable card: limits"),
        ('{"shortest_distances": {"H-H": NaN}}', "shortest_distances.H-H: Input should be a finite number, not nan"),
        ('{"shortest_distances": {"H-H": 1e999}}', "shortest_distances.H-H: Input should be a finite number"),
        ('{"shortest_distances": {"H-H": "0.5"}}', "shortest_distances.H-H: Input should be a valid number, not '0.5'"),
        ('{"shortest_distances": {"H-H": -1}}', "shortest_distances.H-H: Input should be greater than or equal to 0"),
        ('{"shortest_distances": {"HH": 0.5}}', "shortest_distances.HH.*no pair of elements such as 'C-H'"),
        ('{"shortest_distances": [1]}', "shortest_distances: Input should be an object"),
        ('{"teacher": [1]}', "unreadable card: teacher"),
        ('{"a": ' + "[" * 50 + "]" * 50 + "}", "unreadable card: nested deeper than 40 levels"),
    ],
)
def test_cards(path, card, message):
    refused(renewed(path, card=card), message)
    refused(of_format_1(path), message)


def test_a_card_is_checked_before_it_is_written(path):
    model, before = random_painn(), path.read_bytes()
    for card in ({"shortest_distances": {"H-H": float("nan")}}, {"name": 3}, {"a": object()}):
        with pytest.raises(atomjet.AtomJetError, match="the card cannot be written"):
            tensor_file.write(path, model, card)
    assert path.read_bytes() == before
    tensor_file.write(path, model, {"errors": {"held-out": {"force_cosine": float("nan")}}})
    assert load.read(path)[1] == {"errors": {"held-out": {"force_cosine": None}}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"features": 7}, "features: Input should be a multiple of 2, not 7"),
        ({"features": -8}, "features: Input should be greater than or equal to 2, not -8"),
        ({"features": "16"}, "features: Input should be a valid integer, not '16'"),
        ({"features": True}, "features: Input should be a valid integer, not True"),
        ({"layers": 0}, "layers: Input should be greater than or equal to 1, not 0"),
        ({"cutoff": 0}, "cutoff: Input should be greater than 0, not 0"),
        ({"cutoff": float("nan")}, "cutoff: Input should be a finite number, not nan"),
        ({"cutoff": float("inf")}, "cutoff: Input should be a finite number, not inf"),
        ({"cutoff": None}, "cutoff: Input should be a valid number, not None"),
        ({"max_z": -1}, "max_z: Input should be greater than or equal to 2, not -1"),
        ({"max_z": 500}, "max_z: Input should be less than or equal to 119, not 500"),
        ({"elements": [500]}, r"element 500 does not lie in 1 \.\.\. 99 \(below max_z\)"),
        ({"elements": [-1]}, "element -1 does not lie in 1"),
        ({"epsilon": -1.0}, "epsilon: Input should be greater than 0"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_configurations(path, config, message):
    text = json.dumps(json.loads(tensor_file.opened(path).metadata["config"]) | config)
    refused(renewed(path, config=text), f"unreadable configuration: .*{message}")


def test_every_flipped_bit_of_the_header_is_noticed_or_means_nothing(path):
    """A sample of them: refused, or what is read is the same to the last bit."""
    model, card = load.read(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    generator, quiet, lines = random.Random(0), 0, set()
    for _ in range(400):
        flipped = bytearray(content)
        flipped[generator.randrange(8, 8 + length)] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            other, other_card = load.read(path)
        except atomjet.AtomJetError as error:
            lines.add(str(error).count("\n"))
            continue
        quiet += 1
        assert (other.config, other_card) == (model.config, card)
        assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert quiet < 20
    assert lines == {0}
