import subprocess
import sys

import numpy as np
import pytest

from atomjet.distill.journal import Journal, JournalWriter, content_key

RECORD = {
    "energy": -1.5,
    "forces": np.arange(6, dtype=np.float32).reshape(2, 3),
    "note": "é",
    "empty": np.zeros((0, 3)),
}


def write(directory, records):
    writer = JournalWriter(directory)
    for key, record in records:
        writer.append(content_key(key), record)
    writer.close()
    return writer.path


def test_records_come_back_as_they_were(tmp_path):
    write(tmp_path, [("a", RECORD), ("b", {"error": "no"})])
    with Journal(tmp_path) as journal:
        assert len(journal) == 2
        back = journal[content_key("a")]
        assert journal[content_key("b")] == {"error": "no"}
    assert back.keys() == RECORD.keys()
    assert back["energy"] == -1.5
    assert back["note"] == "é"
    assert back["forces"].dtype == np.float32
    np.testing.assert_array_equal(back["forces"], RECORD["forces"])
    assert back["empty"].shape == (0, 3)


def test_a_record_torn_at_any_byte_is_dropped_and_those_before_it_stay(tmp_path):
    path = write(tmp_path, [("a", {"n": 1}), ("b", RECORD)])
    whole = path.read_bytes()
    first = len(write(tmp_path / "one", [("a", {"n": 1})]).read_bytes())
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        with Journal(tmp_path) as journal:
            assert content_key("a") in journal
            assert content_key("b") not in journal


@pytest.mark.parametrize("place", [1, 6, 10, 20, 40, -1])
def test_a_damaged_record_is_not_believed(tmp_path, place):
    path = write(tmp_path, [("a", RECORD)])
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0xFF
    path.write_bytes(damaged)
    with Journal(tmp_path) as journal:
        assert len(journal) == 0


@pytest.mark.parametrize("order", [("failure", "result"), ("result", "failure")])
def test_a_result_beats_a_failure_of_the_same_key(tmp_path, order):
    records = {"failure": {"error": "worker died"}, "result": {"n": 2}}
    write(tmp_path, [("a", records[name]) for name in order])
    with Journal(tmp_path) as journal:
        assert journal[content_key("a")] == {"n": 2}


def test_keys_tell_apart_what_differs():
    ones = np.ones(4, np.float32)
    keys = [content_key(part) for part in (ones, ones.astype(float), ones.reshape(2, 2), ones[:3], "1", 1, b"1", ["1"])]
    keys += [content_key("a", "b"), content_key("ab"), content_key("b", "a")]
    assert len(set(keys)) == len(keys)
    assert content_key({"b": 1, "a": ones.tolist()}) == content_key({"a": ones.tolist(), "b": 1})


def test_a_damaged_record_hides_none_of_those_behind_it(tmp_path):
    records = [(str(n), {"n": n, "x": np.full(50, n)}) for n in range(5)]
    path = write(tmp_path, records)
    whole = path.read_bytes()
    each = len(whole) // 5
    torn = whole[: each + 10] + whole[2 * each :]  # as a write leaves it that the disk cut short
    flipped = bytearray(whole)
    flipped[each + 30] ^= 0xFF
    longer = bytearray(whole)
    longer[each + 7] = 0xFF  # says that the record is longer than the file
    for content in (torn, bytes(flipped), bytes(longer)):
        path.write_bytes(content)
        with Journal(tmp_path) as journal:
            assert [n for n in range(5) if content_key(str(n)) in journal] == [0, 2, 3, 4]
            assert journal[content_key("4")]["n"] == 4


FULL = """
import resource, sys
import numpy as np
from atomjet.distill.journal import JournalWriter, content_key
from atomjet.errors import AtomJetError
writer = JournalWriter(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # the third record is cut short, as on a full disk
failed = []
for n in range(6):
    if n == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        writer.append(content_key(str(n)), {"n": n, "x": np.full(100, n)})
    except AtomJetError as error:
        failed.append(n)
        print(error)
writer.close()
assert failed == [2, 3], failed
"""


def test_a_full_disk_is_said_and_what_it_tore_is_taken_back(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "File too large; make room on the disk or choose another output, then run the same again" in done.stdout
    with Journal(tmp_path) as journal:
        assert [n for n in range(6) if content_key(str(n)) in journal] == [0, 1, 4, 5]
