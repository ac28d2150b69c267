"""What is measured of a control plane, one function a group of rows. Each starts its own process."""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CaseFailed
from .planes import Plane, Proxies
from .world import SUBSETS_EVERY, World, host

MANY = 10_000
SOME = 1_000
PROXIES = 2_000
PUSHED = 50
GATEWAY_HOSTS, GATEWAY_ROUTES = 620, 100
EDITS = 30
EVENTS_PER_SECOND = 100
EVENT_SECONDS = 5
_PATIENCE = 30.0


@dataclass(frozen=True)
class Row:
    """One number. `limit` is Weft's goal, `about` says of what."""

    name: str
    about: str
    unit: str
    peer: str
    value: float
    limit: float | None = None


class Suite:
    """Starts planes and load clients, and gives rows."""

    def __init__(self, programs: dict[str, str], load: str, directory: Path, cores: tuple[int, int]):
        self._programs = programs
        self._load = load
        self._directory = directory
        self._cores = cores
        self._taken: set[int] = set()
        self._runs = 0

    def plane(self, name: str, folder: Path, pinned: bool = True) -> Plane:
        """A control plane that is not started yet; on one core, unless it is not to be `pinned`."""
        self._runs += 1
        place = self._directory / f"run-{self._runs}"
        return Plane(name, self._programs[name], folder, place, self._cores[0] if pinned else None, self._taken)

    def proxies(self, plane: Plane) -> Proxies:
        """A load client for it."""
        return Proxies(self._load, plane.port, self._cores[1], self._directory / f"run-{self._runs}" / "load.log")

    def world(self, name: str, services: int) -> World:
        """A fresh folder."""
        return World(self._directory / name, services)

    @property
    def istiod(self) -> bool:
        """Whether istiod is measured, too."""
        return "istiod" in self._programs


def _per_edit(plane: Plane, proxies: Proxies, kind: str, edits: int, edit) -> float:
    """Milliseconds of CPU from an edit to the bytes of its push; what the idle process uses anyway is
    taken off. The median of three runs of `edits`."""
    before, began = plane.cpu_ms(), time.monotonic()
    time.sleep(2)
    idle = (plane.cpu_ms() - before) / (time.monotonic() - began)
    rounds = []
    number = 0
    for _ in range(3):
        before, began = plane.cpu_ms(), time.monotonic()
        for _ in range(edits):
            number += 1
            proxies.say("mark")
            edit(number)
            proxies.wait_resources(kind, 1, _PATIENCE)
        wall = time.monotonic() - began
        rounds.append((plane.cpu_ms() - before - idle * wall) / edits)
    return max(statistics.median(rounds), 0.0)


def large(suite: Suite, peer: str) -> Iterator[Row]:
    """10,000 services: cold start, one edit, one endpoint."""
    world = suite.world(f"large-{peer}", MANY)
    about = "cold start to the first complete configuration, 10,000 services"
    for pinned, name, where, limit in ((False, "cold_start", "all cores", 3), (True, "cold_start_one_core", "one core", None)):
        with suite.plane(peer, world.folder, pinned) as plane, suite.proxies(plane) as proxies:
            done = proxies.say(f"open sidecar 0 1 {MANY}")
            yield Row(name, f"{about}, {where}", "s", peer, done["at_ns"] / 1e9 - plane.started, limit)
    with suite.plane(peer, world.folder) as plane, suite.proxies(plane) as proxies:
        proxies.say(f"open sidecar 0 1 {MANY}")
        time.sleep(2)
        cpu = _per_edit(plane, proxies, "RDS", EDITS, lambda n: world.timeout(77, 10 + n))
        yield Row("edit_cpu", "one VirtualService edit at 10,000 services, to bytes", "ms CPU", peer, cpu, 5)
        cpu = _per_edit(plane, proxies, "EDS", EDITS, lambda n: world.endpoints(77, [1, 3 + n % 200]))
        yield Row("endpoint_cpu", "one endpoint change at 10,000 services, to bytes", "ms CPU", peer, cpu, 1)
        yield Row("large_rss", "resident memory, 10,000 services, 1 proxy", "MB", peer, plane.rss_mb())


def crowd(suite: Suite, peer: str) -> Iterator[Row]:
    """1,000 services and 2,000 proxies: memory, times from event to ACK, and what is not sent."""
    world = suite.world(f"crowd-{peer}", SOME)

    def row(name: str, about: str, unit: str, value: float, limit: float | None = None) -> Row:
        return Row(name, about, unit, peer, value, limit)

    with suite.plane(peer, world.folder) as plane, suite.proxies(plane) as proxies:
        plane.wait_ready()
        proxies.say(f"open sidecar 0 {SOME} {SOME}")
        time.sleep(2)
        half = plane.rss_mb()
        proxies.say(f"open sidecar {SOME} {PROXIES - SOME} {SOME}")
        time.sleep(3)
        full = plane.rss_mb()
        yield row("rss", "resident memory, 1,000 services, 2,000 proxies", "MB", full, 400)
        yield row("rss_per_proxy", "memory of one more idle proxy", "KB", (full - half) * 1e3 / (PROXIES - SOME), 100)
        proxies.say("mark")
        world.timeout(7, 10, note="second")
        time.sleep(3)
        yield row("metadata_bytes", "metadata-only edit, bytes to 2,000 proxies", "B", _bytes(proxies.say("stats")), 0)
        yield from _latencies(world, proxies, peer, "_one_core", "one core", 9, judged=False)
        yield row("rss_after", "resident memory after the events", "MB", plane.rss_mb())
        proxies.say("reopen")
        most = [counts["most_bytes"] for counts in proxies.say("stats")["types"].values()]
        yield row("reconnect_bytes", "reconnect without a change, most bytes of a type", "B", max(most), 1024)
    with suite.plane(peer, world.folder, pinned=False) as plane, suite.proxies(plane) as proxies:
        plane.wait_ready()
        proxies.say(f"open sidecar 0 {PROXIES} {SOME}")
        time.sleep(3)
        yield from _latencies(world, proxies, peer, "", "all cores", 8, judged=True)


def _latencies(
    world: World, proxies: Proxies, peer: str, suffix: str, where: str, replica: int, judged: bool
) -> Iterator[Row]:
    """From the writing of a file to each proxy's ACK. `replica`, which is added, differs from
    call to call: an edit that changes nothing is none."""

    def row(name: str, about: str, value: float, limit: float | None) -> Row:
        return Row(name + suffix, f"{about}, {where}", "ms", peer, value, limit if judged else None)

    quiet = _events(world, proxies, [0.7] * 8, 100, replica)
    yield row("event_p50", "event to ACK, 2,000 proxies, one event at a time, p50", quiet["p50_ms"], 20)
    yield row("event_p99", "the same, p99", quiet["p99_ms"], 150)
    pace = [1 / EVENTS_PER_SECOND] * (EVENTS_PER_SECOND * EVENT_SECONDS)
    busy = _events(world, proxies, pace, 200, replica)
    yield row("busy_p50", f"event to ACK under {EVENTS_PER_SECOND} events a second, p50", busy["p50_ms"], None)
    yield row("busy_p99", "the same, p99", busy["p99_ms"], 500)


def gateway(suite: Suite, peer: str) -> Iterator[Row]:
    """A gateway of 62,000 routes, one edit."""
    world = suite.world(f"gateway-{peer}", SOME)
    world.gateway(GATEWAY_HOSTS, GATEWAY_ROUTES)
    with suite.plane(peer, world.folder) as plane, suite.proxies(plane) as proxies:
        plane.wait_ready()
        proxies.say(f"open gateway 0 1 {SOME}")
        time.sleep(2)
        cpu = _per_edit(plane, proxies, "RDS", 10, lambda n: world.public(77, GATEWAY_ROUTES, 10 + n))
    yield Row("gateway_cpu", "a gateway of 62,000 routes, one edit, to bytes", "ms CPU", peer, cpu, 50)


def push(suite: Suite, peer: str) -> Iterator[Row]:
    """The full configuration of 1,000 services to 50 sidecars at once."""
    world = suite.world(f"push-{peer}", SOME)
    with suite.plane(peer, world.folder) as plane, suite.proxies(plane) as proxies:
        plane.wait_ready()
        time.sleep(3)
        # Whatever is made once is made for the first.
        proxies.say(f"open sidecar 999 1 {SOME}")
        time.sleep(2)
        proxies.say("mark")
        before = plane.cpu_ms()
        proxies.say(f"open sidecar 0 {PUSHED} {SOME}")
        time.sleep(1)
        cpu = plane.cpu_ms() - before
        megabytes = _bytes(proxies.say("stats")) / 1e6
    yield Row("push_cpu", f"full configuration of 1,000 services to {PUSHED} sidecars", "ms CPU", peer, cpu)
    yield Row("push_mb", "the same, bytes", "MB", peer, megabytes)


def _events(world: World, proxies: Proxies, pauses: list[float], first: int, replica: int) -> dict:
    """One endpoint change after the other, each of another service; p50 and p99 over all proxies."""
    # Those with subsets would be several resources an event.
    services = [service for service in range(first, SOME) if service % SUBSETS_EVERY][: len(pauses)]
    proxies.say("record")
    written = {}
    due = time.monotonic()
    for service, pause in zip(services, pauses, strict=True):
        written[f"outbound|80||{host(service)}"] = time.time_ns()
        world.endpoints(service, [1, 2, replica])
        due += pause
        time.sleep(max(due - time.monotonic(), 0))
    wanted = len(pauses) * PROXIES
    proxies.wait_resources("EDS", wanted, _PATIENCE)
    result = proxies.say("latencies " + json.dumps(written))
    if result["count"] < wanted:
        raise CaseFailed(f"{result['count']} of {wanted} arrivals")
    return result


def _bytes(stats: dict) -> int:
    return sum(counts["bytes"] for counts in stats["types"].values())


CASES = {"large": large, "crowd": crowd, "gateway": gateway, "push": push}
# Those that are also measured of istiod.
BESIDE_ISTIOD = {"push"}
