"""The models that come with the package."""

from __future__ import annotations

from pathlib import Path

from atomjet.errors import ModelFileError

FOLDER = Path(__file__).parent / "packaged"

PURPOSES = {
    "organic-xtb": "for organic molecules; the default of every command",
    "organic-xtb-ensemble": "three such models at once: the mean, and how far they disagree",
    "organic-xtb-tiny": "smaller and faster, less exact: for screening and long runs",
}
"""Purposes of packaged models, in a few words."""

PUBLISHED = {
    "uma-": ("facebook/UMA", "checkpoints/{name}.pt"),
    "esen-md-direct-all-omol": ("facebook/OMol25", "checkpoints/esen_md_direct_all.pt"),
    "esen-sm-conserving-all-omol": ("facebook/OMol25", "checkpoints/esen_sm_conserving_all.pt"),
    "esen-sm-direct-all-omol": ("facebook/OMol25", "checkpoints/esen_sm_direct_all.pt"),
}
"""Repositories on Hugging Face, and files there, of checkpoints that fairchem calls by name; by how these names begin."""


def packaged() -> dict[str, Path]:
    """Name and file of every packaged model."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def locate(name_or_path: str | Path) -> Path:
    """Find a model by packaged name or by path.

    Raises:
        ModelFileError: neither a packaged model nor a file.
    """
    known = packaged()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        names = ", ".join(known) or "none"
        if place := _published(str(name_or_path)):
            raise ModelFileError(f"no model {str(name_or_path)!r} here: {place}")
        raise ModelFileError(f"no model {str(name_or_path)!r}: not a file, and not packaged (packaged: {names})")
    return path


def _published(name: str) -> str:
    """Where to get a checkpoint that fairchem knows by this name, and how; empty for other names."""
    plain = Path(name).name.removesuffix(".pt").lower()
    for start, (repository, file) in PUBLISHED.items():
        if plain.startswith(start):
            file = file.format(name=plain)
            return (
                f"its publisher gives it to whoever accepts the licence on the page {repository!r} of Hugging Face; then "
                f"`hf auth login`, `hf download {repository} {file} --local-dir .`, and give the path {file}"
            )
    return ""
