"""Runs the suite: every peer in turn, fresh each time, the client and the host on the other core."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from .. import programs, report
from ..errors import BenchError, CaseFailed
from ..measure import CaseResult, Plan, Sample
from ..processes import Program, accepts, free_port, pin_to, wait_until
from .cases import CASES, RpcCase
from .configs import write_bootstrap, write_mosn

_START_SECONDS = 30
_SETTLE_SECONDS = 0.5
_WARM_UP_CALLS = 5_000
_MARGIN_SECONDS = 60
# A fixed-rate run that takes so many times what it should has not held the rate.
_RATE_SLACK = 1.2
# So long all connections are open before the memory is taken.
_HELD_SECONDS = 2.0


@dataclass(frozen=True)
class _Place:
    directory: Path
    port: int
    admin_port: int
    host_port: int


class _Bench:
    def __init__(self, found: dict[str, str], load: str, plan: Plan, directory: Path):
        self._found = found
        self._load = load
        self._plan = plan
        self._directory = directory
        self._taken: set[int] = set()

    def run_case(self, case: RpcCase) -> CaseResult:
        """All rounds of a case. A peer that fails is left out of the rounds that follow."""
        result = CaseResult(case)
        peers = [peer for peer in case.peers if peer in self._found]
        rounds = self._plan.rounds if case.load else 1
        for number in range(1, rounds + 1):
            for peer in peers:
                if peer in result.failures:
                    continue
                try:
                    sample = self._round(case, peer, self._directory / f"{case.name}-{peer}-{number}")
                except CaseFailed as problem:
                    result.failures[peer] = str(problem)
                    result.samples.pop(peer, None)
                else:
                    result.samples.setdefault(peer, []).append(sample)
        return result

    def _round(self, case: RpcCase, peer: str, directory: Path) -> Sample:
        directory.mkdir()
        place = _Place(directory, *(free_port(self._taken) for _ in range(3)))
        with contextlib.ExitStack() as running:
            serve = [self._load, "serve", case.protocol, str(place.host_port)]
            host = running.enter_context(Program("host", serve, self._plan.client_core, directory / "host.txt"))
            wait_until(lambda: accepts(place.host_port), host, _START_SECONDS, "does not listen")
            command = self._command(case, peer, place)
            proxy = running.enter_context(Program(peer, command, self._plan.proxy_core, directory / "log.txt"))
            wait_until(lambda: self._answers(case, place), proxy, _START_SECONDS, "answers no call")
            time.sleep(_SETTLE_SECONDS)
            sample = self._calls(case, proxy, place) if case.load else self._held(case, proxy, place)
            proxy.check_alive()
            return sample

    def _command(self, case: RpcCase, peer: str, place: _Place) -> list[str]:
        ports = (place.port, place.admin_port, place.host_port)
        program = self._found[peer]
        if peer == "mosn":
            return [program, "start", "-c", str(write_mosn(case.protocol, place.directory, *ports))]
        path = str(write_bootstrap(peer, case.protocol, place.directory, *ports))
        if peer == "weft":
            return [program, "proxy", "-c", path, "--concurrency", "1", "--log-level", "error"]
        return [program, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    def _answers(self, case: RpcCase, place: _Place) -> bool:
        try:
            self._client(case, place, 1, 1, 1, 0, 1)
        except CaseFailed:
            return False
        return True

    def _calls(self, case: RpcCase, proxy: Program, place: _Place) -> Sample:
        load, seconds = case.load, self._plan.seconds
        saturated = (load.connections, load.streams)
        warm = self._client(case, place, *saturated, _WARM_UP_CALLS, 0, seconds)
        calls = max(round(warm["done"] / warm["seconds"] * seconds), 4 * load.in_flight)
        before, started = proxy.cpu_time(), time.monotonic()
        full = self._client(case, place, *saturated, calls, 0, seconds)
        used, wall = proxy.cpu_time() - before, time.monotonic() - started
        sample = Sample(
            rss_mb=proxy.rss_mb(),
            cpu_us_per_request=used.total * 1e6 / calls,
            user_us=used.user * 1e6 / calls,
            sys_us=used.system * 1e6 / calls,
            rps=calls / full["seconds"],
            busy=used.total / wall,
        )
        calls = round(load.rate * seconds)
        steady = self._client(case, place, load.rate_connections, 1, calls, load.rate, seconds)
        return replace(
            sample,
            rss_mb=proxy.rss_mb(),
            p50_us=steady["p50_us"],
            p99_us=steady["p99_us"],
            rate_held=steady["seconds"] <= seconds * _RATE_SLACK + 0.1,
        )

    def _held(self, case: RpcCase, proxy: Program, place: _Place) -> Sample:
        command = [self._load, "hold", case.protocol, str(place.port), str(case.held)]
        held = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=pin_to(self._plan.client_core),
        )
        try:
            said = held.stdout.readline()
            if not said:
                raise CaseFailed(f"the client: {held.stderr.read().strip()[-500:]}")
            time.sleep(_HELD_SECONDS)
            return Sample(rss_mb=proxy.rss_mb())
        finally:
            held.kill()
            held.communicate()

    def _client(self, case: RpcCase, place: _Place, connections: int, at_once: int, calls: int, rate: int, seconds: float) -> dict:
        numbers = map(str, (place.port, connections, at_once, calls, rate))
        try:
            done = subprocess.run(
                [self._load, "calls", case.protocol, *numbers],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds * 4 + _MARGIN_SECONDS,
                preexec_fn=pin_to(self._plan.client_core),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise CaseFailed(f"the client had no end within {late.timeout:.0f} s") from late
        if done.returncode:
            raise CaseFailed(f"the client: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout)


def run(weft: str | None, load: str | None, peers: list[str], names: list[str] | None, out: Path, plan: Plan) -> tuple[bool, bool]:
    """Whether every case was measured, and whether the goals held."""
    cases = [case for case in CASES if names is None or case.name in names]
    if not cases:
        raise BenchError(f"--cases: none of these; the cases are {', '.join(case.name for case in CASES)}")
    found = _programs(weft, peers)
    client = programs.rpc_client(load)
    directory = Path(tempfile.mkdtemp(prefix="weft-bench-"))
    results: list[CaseResult] = []
    try:
        bench = _Bench(found, client, plan, directory)
        for case in cases:
            print(f"bench: rpc / {case.name}", file=sys.stderr, flush=True)
            results.append(bench.run_case(case))
            print(report.table("rpc", results[-1], plan), flush=True)
            report.write(out, "rpc", results)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    goals = report.goals("rpc", results)
    if goals:
        print(report.goal_lines(goals) + "\n", flush=True)
    return not any(result.failures for result in results), all(goal.held for goal in goals)


def _programs(weft: str | None, peers: list[str]) -> dict[str, str]:
    found = {}
    if "weft" in peers:
        found["weft"] = programs.weft(weft)
    if "envoy" in peers:
        found["envoy"] = programs.envoy()
    mosn = os.environ.get("MOSN")
    if mosn:
        found["mosn"] = programs.program_at("MOSN", mosn)
    return found
