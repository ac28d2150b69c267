"""The client: h2load on its core, for HTTP/1.1 as for HTTP/2, and what it reports."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import CaseFailed
from .processes import pin_to
from .suites import Load, Topology

# Connections of the fixed-rate run start so far apart, so that their clocks, which tick every
# 10 ms, tick at different times: 7 and 10 share no factor.
_STAGGER_MS = 7
_H2LOAD_MARGIN_SECONDS = 15
# A run has at least so many times the requests that are in flight at once.
_FEWEST_IN_FLIGHT = 4


@dataclass(frozen=True)
class Answers:
    """What h2load reports of one run."""

    done: int
    ok: int
    not_found: int
    # Broken off, timed out, or answered with another status than 2xx.
    bad: int
    rps: float
    seconds: float


class Client:
    """Sends a case's load to one port."""

    def __init__(self, h2load: str, core: int, directory: Path, topology: Topology, load: Load):
        self._h2load = h2load
        self._core = core
        self._log_file = directory / "latencies.tsv"
        self._paths_file = directory / "paths.txt"
        self._load = load
        scheme = "https" if topology.tls else "http"
        self._base = f"{scheme}://127.0.0.1:{{port}}"
        self._protocol = [] if topology.downstream_http2 else ["--h1"]
        self._body: list[str] = []
        if load.body_bytes:
            body = directory / "body.bin"
            body.write_bytes(b"x" * load.body_bytes)
            self._body = ["-d", str(body)]

    def answers(self, port: int, path: str, status: str) -> bool:
        """Whether a single request is answered, with `status` "ok" or "not_found"."""
        try:
            seen = self._run(["-n", "1", "-c", "1", f"{self._base.format(port=port)}{path}"], 5)
        except CaseFailed:
            return False
        return getattr(seen, status) == 1

    def warm_up(self, port: int, seconds: float) -> float:
        """As fast as answers come, for so many seconds; returns the requests a second.

        A slow proxy may have answered nothing yet when the time is over.
        """
        length = ["-D", f"{round(seconds * 1000)}ms"]
        return _none_bad(self._run(self._at_once() + length + self._targets(port), seconds)).rps

    def saturate(self, port: int, seconds: float, expected_rps: float) -> Answers:
        """As fast as answers come, for about so many seconds; fails on any answer but 200.

        A number of requests ends the run, not a clock: a clock would leave requests half done,
        whose CPU time would be charged to those that are answered.
        """
        requests = max(round(expected_rps * seconds), _FEWEST_IN_FLIGHT * self._load.in_flight)
        answers = self._run([*self._at_once(), "-n", str(requests), *self._targets(port)], seconds * 4)
        return _all_ok(answers, requests)

    def at_fixed_rate(self, port: int, seconds: float, saturated_rps: float) -> tuple[Answers, list[int]]:
        """The fixed rate for about so many seconds, and the sorted latencies in microseconds.

        A latency runs from the sending of a request to the end of its answer.
        `saturated_rps` is what the proxy did as fast as it could: the run may last as long as
        that makes it last.
        """
        load = self._load
        requests = round(load.rate * seconds)
        arguments = [
            *self._body,
            *("-n", str(requests), "-c", str(load.rate_connections)),
            *("-m", str(max(load.streams, 1)), "--rps", str(load.rate_per_connection)),
            *("-r", "1", f"--rate-period={_STAGGER_MS}ms", f"--log-file={self._log_file}"),
        ]
        longest = max(seconds, requests / saturated_rps) * 2
        answers = _all_ok(self._run(arguments + self._targets(port), longest), requests)
        rows = self._log_file.read_text().splitlines()
        return answers, sorted(int(row.split("\t")[2]) for row in rows)

    @property
    def rate(self) -> int:
        """Requests a second of the fixed-rate run."""
        return self._load.rate

    def wanted_seconds(self, seconds: float) -> float:
        """How long the fixed-rate run takes when the rate is held."""
        return seconds + self._load.rate_connections * _STAGGER_MS / 1000

    def _at_once(self) -> list[str]:
        return ["-c", str(self._load.connections), "-m", str(self._load.streams), *self._body]

    def _targets(self, port: int) -> list[str]:
        base = self._base.format(port=port)
        if len(self._load.paths) == 1:
            return [f"{base}{self._load.paths[0]}"]
        self._paths_file.write_text("".join(f"{base}{path}\n" for path in self._load.paths))
        return ["-i", str(self._paths_file)]

    def _run(self, arguments: list[str], seconds: float) -> Answers:
        command = [self._h2load, "-t", "1", *self._protocol, *arguments]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds + _H2LOAD_MARGIN_SECONDS,
                preexec_fn=pin_to(self._core),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise CaseFailed(f"h2load got no end within {late.timeout:.0f} s") from late
        return _parse(done.stdout, done.stderr)


class Handshakes:
    """New connections by mutual TLS, each with a request. `files`: authority, certificate, key."""

    def __init__(self, core: int, port: int, files: tuple[Path, Path, Path], threads: int):
        self._core = core
        self._port = port
        self._files = files
        self._threads = threads

    def run(self, number: int, seconds: float) -> float:
        """So many; connections a second. Fails if one of them fails."""
        script = Path(__file__).with_name("handshaker.py")
        arguments = [str(self._port), *map(str, self._files), str(number), str(self._threads)]
        longest = seconds * 4 + _H2LOAD_MARGIN_SECONDS
        try:
            done = subprocess.run(
                [sys.executable, str(script), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=longest,
                preexec_fn=pin_to(self._core),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise CaseFailed(f"the handshakes had no end within {longest:.0f} s") from late
        if done.returncode:
            raise CaseFailed(f"the client of handshakes: {done.stderr.strip()[-500:]}")
        seen = json.loads(done.stdout)
        if seen["failed"]:
            raise CaseFailed(f"{seen['failed']} of {number} connections failed: {seen['problem']}")
        return seen["done"] / seen["seconds"]


def _parse(text: str, errors: str) -> Answers:
    finished = re.search(r"finished in ([\d.]+)(us|ms|s|m), ([\d.]+) req/s", text)
    requests = re.search(r"requests: \d+ total, \d+ started, (\d+) done, \d+ succeeded, (\d+) failed", text)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    if not (finished and requests and statuses):
        raise CaseFailed(f"h2load's answer cannot be read: {(errors or text).strip()[-500:]}")
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[finished[2]]
    return Answers(
        done=int(requests[1]),
        ok=int(statuses[1]),
        not_found=int(statuses[3]),
        bad=int(requests[2]) + sum(int(statuses[group]) for group in (2, 3, 4)),
        rps=float(finished[3]),
        seconds=float(finished[1]) * unit,
    )


def _all_ok(answers: Answers, requests: int) -> Answers:
    if answers.done < requests:
        raise CaseFailed(f"{requests - answers.done} of {requests} requests got no answer")
    return _none_bad(answers)


def _none_bad(answers: Answers) -> Answers:
    if answers.bad:
        raise CaseFailed(f"{answers.bad} of {answers.done + answers.bad} requests failed or were not answered with 200")
    return answers
