"""Runs the suite `csr`: certificates that `weft control` issues on one core, over gRPC and TLS."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .. import programs
from ..control.planes import Plane
from ..errors import BenchError, CaseFailed
from ..processes import accepts, free_port, pin_to, wait_until

# So many requests wait for an answer at once.
_AT_ONCE = 16
_WARM_UP = 100
_IDLE_SECONDS = 2
# Certificates a second of a core.
_GOAL = 1000
_MARGIN_SECONDS = 60
CASES = {
    "kept": "connections that are kept, a P-256 key, by the present certificate",
    "new": "a new connection by mutual TLS for each, as agents ask",
}


@dataclass(frozen=True)
class _Place:
    directory: Path
    python: str
    openssl: str
    weft: str
    cores: tuple[int, int]


def run(weft: str | None, cases: list[str] | None, out: Path, cores: tuple[int, int], rounds: int, seconds: float) -> tuple[bool, bool]:
    """Whether every case was measured, and whether the goal held."""
    chosen = [name for name in CASES if cases is None or name in cases]
    if not chosen:
        raise BenchError(f"--cases: none of these; the cases are {', '.join(CASES)}")
    found = programs.provide({"weft", "envoy"}, ["csr"], weft)
    directory = Path(tempfile.mkdtemp(prefix="weft-bench-"))
    place = _Place(directory, _python(), found.openssl, found.weft, cores)
    whole, rows = True, []
    try:
        for name in chosen:
            print(f"bench: csr / {name}", file=sys.stderr, flush=True)
            try:
                seen = [_round(place, f"{name}-{number}", name, seconds) for number in range(rounds)]
            except CaseFailed as problem:
                whole = False
                print(f"  {name} failed: {problem}", flush=True)
                continue
            rows.append(_row(name, seen))
            _write(out, rows)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\n".join(["csr", *(_line(row) for row in rows)]) + "\n", flush=True)
    return whole, all(row["value"] >= _GOAL for row in rows)


def _python() -> str:
    """The interpreter that has grpcio; it is beside Envoy's."""
    python = programs.peers_folder() / "venv" / "bin" / "python3"
    for attempt in ([str(python), "-c", "import grpc"], [str(python), "-m", "pip", "install", "--quiet", "grpcio"]):
        done = subprocess.run(attempt, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode == 0:
            return str(python)
    raise BenchError(f"cannot install grpcio into {python.parent.parent}: {done.stderr.strip()[-500:]}")


def _round(place: _Place, run: str, case: str, seconds: float) -> tuple[float, float]:
    """CPU milliseconds of a certificate, and certificates a second as the client saw them."""
    home = place.directory / run
    folder, authority = home / "rules", home / "ca"
    folder.mkdir(parents=True)
    # A file without objects makes an empty folder count.
    (folder / "mesh.yaml").write_text("# nothing\n")
    taken: set[int] = set()
    port = free_port(taken)
    flags = ["--ca-dir", str(authority), "--secure-grpc-addr", f"127.0.0.1:{port}"]
    with Plane("weft", place.weft, folder, home, place.cores[0], taken, flags) as plane:
        wait_until(lambda: accepts(port), plane.program, _MARGIN_SECONDS, "does not listen")
        _files(place, home, authority)

        def ask(number: int, patience: float) -> float:
            return _ask(place, home, f"127.0.0.1:{port}", case, number, patience)

        per_second = ask(_WARM_UP, _MARGIN_SECONDS)
        number = max(round(per_second * seconds), _WARM_UP)
        _token(place, home, authority)
        idle = _idle(plane)
        before, began = plane.cpu_ms(), time.monotonic()
        rate = ask(number, seconds * 4 + _MARGIN_SECONDS)
        wall = time.monotonic() - began
        return (plane.cpu_ms() - before - idle * wall) / number, rate


def _idle(plane: Plane) -> float:
    """CPU milliseconds a second that the process uses anyway."""
    before, began = plane.cpu_ms(), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return (plane.cpu_ms() - before) / (time.monotonic() - began)


def _files(place: _Place, home: Path, authority: Path) -> None:
    """What the client needs: the roots, a key and its request, a join token."""
    shutil.copy(authority / "root-cert.pem", home / "root.pem")
    _command([
        *(place.openssl, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/O=bench", "-keyout", str(home / "key.pem"), "-out", str(home / "request.pem")),
    ])  # fmt: skip
    _token(place, home, authority)


def _token(place: _Place, home: Path, authority: Path) -> None:
    token = _command([place.weft, "token", "create", "--ca-dir", str(authority), "-n", "bench", "-s", "load"])
    (home / "token").write_text(token)


def _ask(place: _Place, home: Path, address: str, case: str, number: int, patience: float) -> float:
    script = Path(__file__).with_name("client.py")
    command = [place.python, str(script), address, str(home), case, str(number), str(_AT_ONCE)]
    said = _command(command, place.cores[1], patience)
    seen = json.loads(said)
    if seen["failed"]:
        raise CaseFailed(f"{seen['failed']} of {number} requests failed: {seen['problem']}")
    return seen["done"] / seen["seconds"]


def _command(command: list[str], core: int | None = None, patience: float = _MARGIN_SECONDS) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            preexec_fn=pin_to(core),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise CaseFailed(f"{command[0]} had no end within {patience:.0f} s") from late
    if done.returncode:
        raise CaseFailed(f"{command[0]}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _row(name: str, seen: list[tuple[float, float]]) -> dict:
    cpu = statistics.median(cost for cost, _rate in seen)
    return {
        "suite": "csr", "case": name, "peer": "weft", "value": round(1000 / cpu, 1), "unit": "/s of a core",
        "at_least": _GOAL, "cpu_us": round(cpu * 1000, 1), "client_rps": round(statistics.median(rate for _cost, rate in seen), 1),
    }  # fmt: skip


def _line(row: dict) -> str:
    held = "" if row["value"] >= _GOAL else "  MISSED"
    return (
        f"  {CASES[row['case']]}: {row['value']:,.0f} a second of a core (at least {_GOAL:,}),"
        f" {row['cpu_us']:,.0f} µs CPU each; the client got {row['client_rps']:,.0f} a second{held}"
    )


def _write(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "csr.json").write_text("[\n " + ",\n ".join(map(json.dumps, rows)) + "\n]\n")
