"""Small files that ask for much: each is refused in one line, within 5 s of the processor and 1 GB, in a process with no more."""

import json
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from atomjet.models.escn_md import fairchem_zip
from tests.models.escn_md.foreign import write

SMALL = Path(__file__).parent / "escn_md" / "golden" / "uma_1p2.pt"
PAINN = Path(__file__).parent / "golden" / "bessel"
SECONDS, BYTES = 5.0, 1024**3

READER = """
import json, resource, signal, sys, time
from pathlib import Path
import torch
from atomjet.errors import AtomJetError
from atomjet.models import load
from atomjet.models.escn_md import fairchem
from atomjet.models.painn import schnetpack
resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + 1024**3,) * 2)
for line in sys.stdin:
    path, config = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, 60)  # of the processor, as below
    start, said = time.process_time(), "nothing: it was accepted"
    try:
        load.convert(Path(path), None if config is None else Path(config), Path(path + ".out.safetensors"))
    except AtomJetError as error:
        said = str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    # Not `ru_maxrss`, which a process takes over from the one that started it.
    (most,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([said, seconds, int(most) * 1024]), flush=True)
"""


@pytest.fixture(scope="module")
def reader():
    """Converts a file in a process of its own: what it says, seconds of the processor, bytes at the most so far."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", READER], env=environment, **pipes) as process:

        def convert(path, config=None):
            process.stdin.write(json.dumps([str(path), None if config is None else str(config)]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield convert
        process.stdin.close()


@pytest.fixture
def refused(reader):
    def check(path, message, config=None):
        said, seconds, most = reader(path, config)
        assert message in said
        assert "\n" not in said
        assert len(said) < 1000
        assert seconds < SECONDS
        assert most < BYTES

    return check


def checkpoint_with(path, change):
    content = fairchem_zip.read(SMALL)
    return write(path, *change(content.model, content.tasks, content.weights))


def with_pickle(path, content):
    with zipfile.ZipFile(SMALL) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("/data.pkl") else old.read(name))
    return path


@pytest.mark.parametrize("record", ["data.pkl", "byteorder", "data/0"])
def test_a_record_that_inflates_to_six_gigabytes(record, tmp_path, refused):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1024**2)) + packer.flush(zlib.Z_FULL_FLUSH)
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(SMALL) as old, zipfile.ZipFile(path, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in {*old.namelist(), f"{root}/{record}"}:
            bomb = name == f"{root}/{record}"
            new.writestr(name, piece * 6144 + packer.flush() if bomb else old.read(name))
            if bomb:
                new.infolist()[-1].compress_type = zipfile.ZIP_DEFLATED
                new.infolist()[-1].file_size = 6 * 1024**3
    assert path.stat().st_size < 10 * 1024**2
    refused(path, "its records are compressed or overlap, which PyTorch never writes")


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"]" * 30_000_000, "more than 1500000 values"),
        (b"(" * 30_000_000, "more than 1500000 values"),
        (b"]" * 40_000_000, "its pickle has more than"),
        (b"\x80\x04" + b"\x8f" * 1_000_000 + b".", "is refused"),
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "is refused"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "holds a dict"),
        (b"\x80\x02})q\x00" + b"h\x00\x86q\x00" * 60 + b"Ns.", "a tuple as a key"),
        (b"\x80\x02)q\x00" + b"h\x00\x86q\x00" * 60 + b"Q.", "refers to something else than a storage"),
        (b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", "holds a int"),
    ],
    ids=["lists", "marks", "long", "sets", "bytes", "memo", "keys", "identifiers", "number"],
)
def test_pickles_of_brackets(pickled, message, tmp_path, refused):
    refused(with_pickle(tmp_path / "x.pt", pickled), message)


def test_lists_that_hold_lists_twice(tmp_path, refused):
    shared = [1]
    for _ in range(30):
        shared = [shared, shared]

    def change(model, tasks, weights):
        return model | {"backbone": model["backbone"] | {"sphere_channels": shared}}, tasks, weights

    refused(checkpoint_with(tmp_path / "x.pt", change), "or has more than 200000 values; it is damaged")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(1).expand(10**9), "reaches beyond its storage"),
        (torch.ones(10**3).expand(10**6, 10**3), "reaches beyond its storage"),
    ],
)
def test_tensors_that_say_one_number_often(tensor, message, tmp_path, refused):
    path = checkpoint_with(tmp_path / "x.pt", lambda model, tasks, weights: (model, tasks, weights | {"x": tensor}))
    refused(path, message)
    torch.save({"x": tensor}, tmp_path / "y.pt")
    refused(tmp_path / "y.pt", message, PAINN.with_suffix(".json"))


def test_many_views_of_the_same_numbers(tmp_path, refused):
    numbers = torch.ones(10**6)
    views = {str(k): numbers[: 10**6 - 1 - k] for k in range(2000)}
    path = checkpoint_with(tmp_path / "x.pt", lambda model, tasks, weights: (model, tasks, weights | views))
    refused(path, "as views of the same numbers")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_atom_basis": 20000}, "n_atom_basis: Input should be less than or equal to 4096, not 20000"),
        ({"max_z": 2_000_000_000}, "max_z: Input should be less than or equal to 119, not 2000000000"),
        ({"n_interactions": 10**9}, "n_interactions: Input should be less than or equal to 64"),
        ({"n_atom_basis": 4096, "n_interactions": 64}, "has shape"),
    ],
)
def test_hyperparameters(config, message, tmp_path, refused):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(json.loads(PAINN.with_suffix(".json").read_text()) | config))
    refused(PAINN.with_suffix(".safetensors"), message, path)


def test_json_of_brackets(tmp_path, refused, small_model):
    path = tmp_path / "c.json"
    for size, message in ((10**9, "bytes, more than 1048576"), (10**6, "nested deeper than 40 levels")):
        with path.open("wb") as file:
            file.write(b"[" * min(size, 10**6))
            file.truncate(size)
        refused(PAINN.with_suffix(".safetensors"), message, path)
    for name, start in (("header", b'{"a":'), ("metadata", b'{"__metadata__": ')):
        path = tmp_path / f"{name}.safetensors"
        for length, message in ((250_000_000, "a header of 250000000 bytes"), (2_000_000, "nested deeper than")):
            with path.open("wb") as file:
                file.write(length.to_bytes(8, "little") + start + b"[" * (min(length, 2_000_000) - len(start)))
                file.truncate(length + 8)
            refused(path, message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": 10**9}, "layers: Input should be less than or equal to 64, not 1000000000"),
        ({"max_z": 10**12}, "max_z: Input should be less than or equal to 119"),
        ({"features": 4096, "layers": 64}, "has shape"),
        ({"num_radial": 10**30}, "num_radial: "),
    ],
)
def test_configurations(config, message, tmp_path, refused, small_model):
    with safe_open(small_model, "pt") as file:
        metadata = dict(file.metadata())
    metadata["config"] = json.dumps(json.loads(metadata["config"]) | config)
    save_file(load_file(small_model), tmp_path / "x.safetensors", metadata)
    refused(tmp_path / "x.safetensors", message)


def test_a_directory_of_many_records(tmp_path, refused):
    content = bytearray(SMALL.read_bytes())
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 16] = (2**31).to_bytes(4, "little")
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", "its directory has 2147483648 bytes")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("card", '{"limits": [' + "1," * 90_000 + "1]}", "limits.0: Input should be a valid string, not 1"),
        ("card", '{"limits": [' + "1," * 900_000 + "1]}", "more than 100000 values"),
        ("config", '{"elements": [' + "[]," * 90_000 + "1]}", "elements.0: Input should be a valid integer, not []"),
        ("config", '{"elements": [' + "5," * 90_000 + "1]}", "has shape"),
        ("card", '{"errors": {' + ",".join(f'"{k}":{{}}' for k in range(90_000)) + "}}", "do not match their SHA-256"),
    ],
    ids=["faults", "more", "lists", "elements", "objects"],
)
def test_long_metadata(name, text, message, tmp_path, refused, small_model):
    with safe_open(small_model, "pt") as file:
        metadata = dict(file.metadata()) | {name: text}
    save_file(load_file(small_model), tmp_path / "x.safetensors", metadata)
    refused(tmp_path / "x.safetensors", message)
