"""The models that come with the package."""

from __future__ import annotations

from pathlib import Path

from atomjet.errors import ModelFileError

FOLDER = Path(__file__).parent / "packaged"

PURPOSES = {
    "organic-xtb": "for organic molecules; what every command takes unless told otherwise",
    "organic-xtb-ensemble": "three such models at once: the mean, and how far they disagree",
    "organic-xtb-tiny": "smaller and faster, less exact: for screening and long runs",
}
"""What packaged models are for, in a few words."""


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
        raise ModelFileError(f"no model {str(name_or_path)!r}: not a file, and not packaged (packaged: {names})")
    return path
