"""Runs the suite: builds what is missing, measures case by case, prints and writes."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from .. import programs
from ..errors import BenchError, CaseFailed
from . import report
from .cases import BESIDE_ISTIOD, CASES, Row, Suite


def run(weft: str | None, load: str | None, cases: list[str] | None, out: Path, cores: tuple[int, int]) -> tuple[bool, bool]:
    """Whether every case was measured, and whether all goals held. `ISTIOD` names istiod's binary."""
    chosen = [name for name in CASES if cases is None or name in cases]
    if not chosen:
        raise BenchError(f"--cases: none of these; the cases are {', '.join(CASES)}")
    found = {"weft": programs.weft(weft)}
    istiod = os.environ.get("ISTIOD")
    if istiod:
        if not os.access(istiod, os.X_OK):
            raise BenchError(f"ISTIOD={istiod}: no program there")
        found["istiod"] = str(Path(istiod).resolve())
    client = programs.load_client(load)
    directory = Path(tempfile.mkdtemp(prefix="weft-bench-"))
    rows: list[Row] = []
    whole = True
    try:
        suite = Suite(found, client, directory, cores)
        for name in chosen:
            for peer in found:
                if peer != "weft" and name not in BESIDE_ISTIOD:
                    continue
                print(f"bench: control / {name}: {peer}", file=sys.stderr, flush=True)
                try:
                    for row in CASES[name](suite, peer):
                        rows.append(row)
                except CaseFailed as problem:
                    whole = False
                    print(f"  {name}: {peer} failed: {problem}", flush=True)
                # A run that is broken off leaves what it has.
                report.write(out, report.with_ratio(rows))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    rows = report.with_ratio(rows)
    print(report.table(rows), flush=True)
    return whole, not report.missed(rows)
