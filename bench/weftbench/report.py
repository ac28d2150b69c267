"""Tables with ratios for people, rows for programs, and the goals that Weft has set itself."""

import json
from dataclasses import dataclass
from pathlib import Path

from .measure import CaseResult, Plan
from .suites import ALL_PEERS

# Name of the value, heading, digits after the point.
_COLUMNS = (
    ("cpu_us_per_request", "cpu µs/req", 2),
    ("user_us", "user µs", 2),
    ("sys_us", "sys µs", 2),
    ("rps", "req/s", 0),
    ("p50_us", "p50 µs", 0),
    ("p99_us", "p99 µs", 0),
    ("rss_mb", "rss MB", 1),
)
_RATIOS = {"cpu_us_per_request", "rps", "p50_us", "p99_us", "rss_mb"}
# Below this part of its core, the client was the slower one, and req/s says nothing of the proxy.
_FULLY_BUSY = 0.95


@dataclass(frozen=True)
class Goal:
    """A promise and what was seen."""

    text: str
    seen: float
    limit: float

    @property
    def held(self) -> bool:
        return self.seen <= self.limit


def rows(suite: str, results: list[CaseResult]) -> list[dict]:
    """One row for each case and peer that was measured; `null` where a case has no requests."""
    return [
        {
            "suite": suite,
            "case": result.case.name,
            "peer": peer,
            **{name: _rounded(result.median(peer, name), max(digits, 1)) for name, _heading, digits in _COLUMNS},
        }
        for result in results
        for peer in ALL_PEERS
        if peer in result.samples
    ]


def write(folder: Path, suite: str, results: list[CaseResult]) -> Path:
    """Writes `<suite>.json` and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite}.json"
    lines = ",\n ".join(json.dumps(row) for row in rows(suite, results))
    path.write_text(f"[\n {lines}\n]\n" if lines else "[]\n")
    return path


def table(suite: str, result: CaseResult, plan: Plan) -> str:
    """The case as an aligned table: the peers, then Weft divided by each of them."""
    case = result.case
    title = f"{suite} / {case.name}: {case.about}"
    how = f"{plan.rounds} round(s)"
    if case.handshakes:
        how += "; req/s is what a whole core of the proxy would do"
    if case.load:
        how += f" of {plan.seconds:g} s; latency at {case.load.rate:,} req/s"
    lines = [["peer", *(heading for _name, heading, _digits in _COLUMNS), "busy"]]
    peers = [peer for peer in ALL_PEERS if peer in result.samples]
    for peer in peers:
        lines.append([peer, *(_cell(result, peer, name, digits) for name, _h, digits in _COLUMNS), _busy(result, peer)])
    if "weft" in peers:
        for peer in peers[1:]:
            lines.append([f"weft / {peer}", *(_ratio(result, peer, name) for name, _h, _d in _COLUMNS), ""])
    notes = [f"  {peer} failed: {reason}" for peer, reason in result.failures.items()]
    return "\n".join([title, f"  {how}", *_aligned(lines), *notes, ""])


def goals(suite: str, results: list[CaseResult]) -> list[Goal]:
    """What Weft promises for this suite, as far as it was measured."""
    by_name = {result.case.name: result for result in results}
    found: list[Goal] = []
    if suite in ("http1", "http2", "mtls"):
        for result in results:
            if result.case.handshakes:
                ratio = _divide(result.median("envoy", "rps"), result.median("weft", "rps"))
                if ratio is not None:
                    found.append(Goal(f"{suite} / {result.case.name}: Envoy's handshakes a second of ours", ratio, 1.00))
                continue
            ratio = _divide(result.median("weft", "cpu_us_per_request"), result.median("envoy", "cpu_us_per_request"))
            if ratio is not None:
                found.append(Goal(f"{suite} / {result.case.name}: CPU per request of Envoy's", ratio, 0.60))
    if suite == "rpc":
        found.extend(_rpc_goals(results))
    one = by_name.get("routes_1")
    for name in ("routes_10000", "routes_10000_last"):
        if one and name in by_name:
            many = by_name[name].median("weft", "cpu_us_per_request")
            ratio = _divide(many, one.median("weft", "cpu_us_per_request"))
            if ratio is not None:
                found.append(Goal(f"{suite} / {name}: CPU per request of one route's", ratio, 1.20))
    idle = by_name.get("clusters_5000_idle")
    memory = idle.median("weft", "rss_mb") if idle else None
    if memory is not None:
        found.append(Goal(f"{suite} / clusters_5000_idle: resident MB", memory, 80.0))
    return found


def _rpc_goals(results: list[CaseResult]) -> list[Goal]:
    found: list[Goal] = []
    for result in results:
        value, what = ("cpu_us_per_request", "CPU per call") if result.case.load else ("rss_mb", "memory")
        limits = {"envoy": 0.60, "mosn": 0.35} if result.case.load else {"mosn": 0.30}
        for peer, limit in limits.items():
            ratio = _divide(result.median("weft", value), result.median(peer, value))
            if ratio is not None:
                found.append(Goal(f"rpc / {result.case.name}: {what} of {peer}'s", ratio, limit))
    return found


def goal_lines(found: list[Goal]) -> str:
    """The goals, one a line."""
    return "\n".join(
        f"goal {'held  ' if goal.held else 'MISSED'}  {goal.text}: {goal.seen:.2f} (at most {goal.limit:g})"
        for goal in found
    )


def _cell(result: CaseResult, peer: str, name: str, digits: int) -> str:
    value = result.median(peer, name)
    if value is None:
        return "-" if result.rate_held(peer) else "-!"
    late = "!" if name in ("p50_us", "p99_us") and not result.rate_held(peer) else ""
    return f"{value:,.{digits}f}{late}"


def _busy(result: CaseResult, peer: str) -> str:
    busy = result.median(peer, "busy")
    if busy is None:
        return "-"
    return f"{busy:.0%}{'' if busy >= _FULLY_BUSY else '*'}"


def _ratio(result: CaseResult, peer: str, name: str) -> str:
    if name not in _RATIOS:
        return ""
    ratio = _divide(result.median("weft", name), result.median(peer, name))
    return "-" if ratio is None else f"{ratio:.2f}"


def _divide(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    return [
        "  " + "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths)))
        for line in lines
    ]
