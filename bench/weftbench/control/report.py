"""The rows as a table with the goals, and as JSON."""

import json
from pathlib import Path

from .cases import Row

# A full push costs at most this part of istiod's CPU.
PUSH_SHARE = 0.10


def with_ratio(rows: list[Row]) -> list[Row]:
    """The rows, and Weft's part of istiod's CPU for the same push if both were measured."""
    cpu = {row.peer: row.value for row in rows if row.name == "push_cpu"}
    if cpu.get("weft") is None or not cpu.get("istiod"):
        return rows
    ratio = Row("push_share", "CPU for the same full push, of istiod's", "", "weft", cpu["weft"] / cpu["istiod"], PUSH_SHARE)
    return [*rows, ratio]


def table(rows: list[Row]) -> str:
    """An aligned table."""
    lines = [["measure", "peer", "seen", "at most", ""]]
    for row in rows:
        held = row.limit is None or row.peer != "weft" or row.value <= row.limit
        limit = "" if row.limit is None or row.peer != "weft" else f"{row.limit:g} {row.unit}".strip()
        lines.append([row.about, row.peer, f"{row.value:,.2f} {row.unit}".strip(), limit, "" if held else "MISSED"])
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(["control", *(f"  {line}" for line in aligned)]) + "\n"


def missed(rows: list[Row]) -> bool:
    """Whether a goal of Weft's is missed."""
    return any(row.peer == "weft" and row.limit is not None and row.value > row.limit for row in rows)


def write(folder: Path, rows: list[Row]) -> Path:
    """Writes `control.json`, one row for each number and peer, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "control.json"
    lines = ",\n ".join(
        json.dumps(
            {
                "suite": "control", "case": row.name, "peer": row.peer, "value": round(row.value, 4),
                "unit": row.unit, "limit": row.limit if row.peer == "weft" else None,
            }  # fmt: skip
        )
        for row in rows
    )
    path.write_text(f"[\n {lines}\n]\n" if lines else "[]\n")
    return path
