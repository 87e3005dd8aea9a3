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
