"""Input damaged and invented at random, from one seed: whatever it is, it is served rightly or refused in one clear line.

`cases` gives each test its random numbers. Every case has a generator of its own, so that one that fails is found again by its
number alone: `ATOMJET_FUZZ_CASE=17 pytest tests/fuzz/...`. `ATOMJET_FUZZ_SCALE=10` tries ten times as many.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator

import pytest

from atomjet.errors import AtomJetError

SEED = 20261130
LONGEST = 600
"""Characters of a message that still is one clear line, beside the path in it."""


def cases(name: str, number: int) -> Iterator[tuple[int, random.Random]]:
    """Number and random numbers of each case of the test `name`; the same in every run and on every machine."""
    only = os.environ.get("ATOMJET_FUZZ_CASE")
    scale = float(os.environ.get("ATOMJET_FUZZ_SCALE", "1"))
    for case in range(int(number * scale)) if only is None else [int(only)]:
        yield case, random.Random(zlib.crc32(f"{SEED} {name} {case}".encode()))


def served_or_refused(case: int, call, *arguments):
    """The result of a call, or None where it was refused as it should be: an `AtomJetError` of one line, and no other error."""
    try:
        return call(*arguments)
    except AtomJetError as error:
        text = str(error)
    except Exception as error:
        pytest.fail(f"case {case}: {type(error).__name__} instead of an AtomJetError: {error}"[:1000])
    assert "\n" not in text, f"case {case}: more than one line: {text!r}"
    assert 10 < len(text) < LONGEST + 2 * max(len(str(argument)) for argument in arguments), (
        f"case {case}: {text[:800]}"
    )
    return None


def damaged(content: bytes, generator: random.Random) -> bytes:
    """The bytes with one to a few faults: flipped bits, pieces lost, doubled, moved, overwritten, numbers made extreme."""
    result = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 5))):
        start = generator.randrange(len(result) or 1)
        length = min(generator.choice((1, 2, 8, 100, 5000)), len(result) - start)
        kind = generator.randrange(7)
        if kind == 0 and result:
            result[start] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del result[start : start + length]
        elif kind == 2:
            result[start:start] = result[start : start + length]
        elif kind == 3:
            result[start : start + length] = generator.randbytes(length)
        elif kind == 4:
            result[start : start + 8] = generator.choice((0, 1, 2**31, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
        elif kind == 5:
            del result[start:]
        else:
            other = generator.randrange(len(result) or 1)
            result[start : start + length] = result[other : other + length]
    return bytes(result)


def value(generator: random.Random, depth: int = 0):
    """Something that JSON can say, as configurations do not expect it."""
    choices = (
        0,
        1,
        -1,
        7,
        10**9,
        10**400,
        0.0,
        -0.5,
        1e30,
        float("nan"),
        float("inf"),
        None,
        True,
        "",
        "x",
        "\x1b[1m\n",
        "H",
        "1",
    )
    kind = generator.randrange(10)
    if kind < 8 or depth > 3:
        return generator.choice(choices)
    if kind == 8:
        return [value(generator, depth + 1) for _ in range(generator.randrange(4))]
    return {
        generator.choice(("a", "H-H", "omol", "")): value(generator, depth + 1) for _ in range(generator.randrange(4))
    }


def changed(settings: dict, generator: random.Random) -> dict:
    """Settings with a few values replaced, lost, or added, at any level."""
    result = dict(settings)
    for _ in range(generator.choice((1, 1, 2, 4))):
        name = generator.choice([*result, "another"])
        inner = result.get(name)
        kind = generator.randrange(4)
        if kind == 0 and isinstance(inner, dict) and inner:
            result[name] = changed(inner, generator)
        elif kind == 1 and name in result:
            del result[name]
        elif isinstance(inner, list) and inner and kind == 2:
            result[name] = [*inner[1:], value(generator)]
        else:
            result[name] = value(generator)
    return result
