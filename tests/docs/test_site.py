"""The check of the built site finds what it is for; `make docs` builds the site and runs it."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_site", ROOT / "docs/check_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def site(folder: Path, body: str) -> Path:
    (folder / "other.html").write_text('<h2 id="units">Units</h2>')
    (folder / "picture.svg").write_text("<svg/>")
    (folder / "index.html").write_text(f'<html><body id="top">{body}</body></html>')
    return folder


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="nowhere.html">x</a>', "index.html: nowhere.html does not exist"),
        ('<img src="lost.svg">', "index.html: lost.svg does not exist"),
        ('<a href="other.html#shapes">x</a>', "index.html: other.html#shapes: the page has no such place"),
        ('<a href="#bottom">x</a>', "index.html: #bottom: the page has no such place"),
        (
            '<script src="https://example.org/x.js"></script>',
            "index.html: https://example.org/x.js is fetched from elsewhere",
        ),
        (
            '<link rel="stylesheet" href="//example.org/x.css">',
            "index.html: //example.org/x.css is fetched from elsewhere",
        ),
    ],
)
def test_a_fault_is_found(check, tmp_path, body, fault):
    assert check.faults(site(tmp_path, body)) == [fault]


def test_what_is_right_is_no_fault(check, tmp_path):
    body = """<a href="other.html#units">x</a><a href="#top">x</a><a href="https://example.org">x</a><img src="picture.svg">
      <a href="mailto:someone">x</a>"""
    assert check.faults(site(tmp_path, body)) == []
