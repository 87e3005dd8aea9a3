"""The table in the student's own card, so that whoever has the model file has it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atomjet.distill.card import markdown
from atomjet.models import tensor_file
from atomjet.models.load import read
from atomjet.validate.organic.suite import table
from atomjet.writing import write_atomically

JUDGED = "judged"
"""Key of the card."""


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """What a card says of a result: each row with its value, limit and how many structures are within."""
    about = result["about"]
    rows = {
        row.name: {
            "value": f"{row.value:.3g} {row.unit}",
            "at_most": row.limit,
            "within": f"{row.passed} of {row.of}",
            "worst": row.structure,
        }
        for row in table(result["checks"])
    }
    return {"set": about["set"], "size": about["size"], "device": about["provenance"]["device"], "rows": rows}


def write_into_card(path: Path, result: dict[str, Any]) -> None:
    """Put a result into a model file's card; a page of the card beside the file, if there is one, is written anew."""
    module, card = read(path)
    card[JUDGED] = judged(result)
    tensor_file.write(path, module, card)
    page = path.with_suffix(".md")
    if page.exists():
        write_atomically(page, markdown(card))
