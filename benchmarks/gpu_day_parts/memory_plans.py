"""What `benchmarks/memory.py --table` has predicted, from its newest result file."""

import functools
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


@functools.cache
def predicted_mib() -> dict[tuple[str, str, int], int]:
    """Return the predicted peak by dtype, remat and batch; empty if there is no table."""
    files = sorted(RESULTS.glob("*-memory.md"))
    found: dict[tuple[str, str, int], int] = {}
    for line in files[-1].read_text().splitlines() if files else ():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 5 and cells[0] in ("float32", "bfloat16") and cells[2].isdigit():
            found[cells[0], cells[1], int(cells[2])] = int(cells[4])
    return found


def beside(result: dict[str, Any]) -> dict[str, Any]:
    """Return the prediction for a result of `benchmarks/train_step.py`; nothing for others."""
    if result.get("size_px") != 224 or "peak_mib" not in result or "remat" not in result:
        return {}
    key = (result["dtype"], result["remat"], result["batch"])
    return {"predicted_peak_mib": predicted_mib()[key]} if key in predicted_mib() else {}
