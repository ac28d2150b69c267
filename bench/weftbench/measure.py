"""Runs the rounds: every peer in turn, fresh each time, and the medians of what they used."""

import contextlib
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from .configs import Place, envoy, haproxy, nginx, upstream
from .errors import BenchError, CaseFailed
from .load import Client, Handshakes
from .processes import Program, accepts, free_port, wait_until
from .programs import Programs
from .suites import Case, Load

_START_SECONDS = 30
# After this, a proxy that has just answered has also finished what it does at its start.
_SETTLE_SECONDS = 0.5
_WARM_UP_SECONDS = 0.5
# To find out how fast handshakes are.
_FEW_HANDSHAKES = 200
# A fixed-rate run that takes so many times what it should has not held the rate.
_RATE_SLACK = 1.2
# A proxy whose best is less than this part of the fixed rate is spared the fixed-rate run: it
# would last long and measure only the queue in front of the proxy.
_HOPELESS = 0.5


@dataclass(frozen=True)
class Plan:
    """How much is measured, and on which cores."""

    rounds: int
    seconds: float
    proxy_core: int
    client_core: int


@dataclass(frozen=True)
class Sample:
    """What one peer used in one round. Times in microseconds."""

    rss_mb: float
    cpu_us_per_request: float | None = None
    user_us: float | None = None
    sys_us: float | None = None
    rps: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    # Part of its core that the proxy used at saturation.
    busy: float | None = None
    rate_held: bool = True


@dataclass
class CaseResult:
    """The samples of one case by peer, and why peers are missing."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, peer: str, value: str) -> float | None:
        """The median over the rounds, or nothing if this was not measured."""
        seen = [getattr(sample, value) for sample in self.samples.get(peer, [])]
        known = [number for number in seen if number is not None]
        return statistics.median(known) if known else None

    def rate_held(self, peer: str) -> bool:
        """Whether the proxy held the fixed rate in every round."""
        return all(sample.rate_held for sample in self.samples.get(peer, []))


class Bench:
    """The upstreams and certificate that all cases share, in a `with` block."""

    def __init__(self, programs: Programs, plan: Plan, directory: Path):
        self._programs = programs
        self._plan = plan
        self._directory = directory
        self._taken: set[int] = set()
        self._running = contextlib.ExitStack()
        self._upstream_ports: dict[bool, int] = {}
        self._certificate = directory / "certificate.pem"
        self._key = directory / "key.pem"
        self._mesh = {name: directory / f"mesh-{name}.pem" for name in ("authority", "certificate", "key")}

    def __enter__(self) -> "Bench":
        with contextlib.ExitStack() as starting:
            self._make_certificate()
            self._make_mesh_certificate()
            for http2 in (False, True):
                self._upstream_ports[http2] = self._start_upstream(starting, http2)
            self._running = starting.pop_all()
        return self

    def __exit__(self, *exc) -> None:
        self._running.close()

    def run_case(self, case: Case, peers: list[str]) -> CaseResult:
        """All rounds of a case. A peer that fails is left out of the rounds that follow."""
        result = CaseResult(case)
        peers = [peer for peer in peers if peer in case.peers]
        places = {peer: self._place(f"{case.name}-{peer}", case) for peer in peers}
        for number in range(1, self._plan.rounds + 1):
            for peer in peers:
                if peer in result.failures:
                    continue
                _progress(f"{case.name}: round {number} of {self._plan.rounds}: {peer}")
                try:
                    sample = self._round(case, peer, places[peer])
                except CaseFailed as problem:
                    result.failures[peer] = str(problem)
                    result.samples.pop(peer, None)
                else:
                    result.samples.setdefault(peer, []).append(sample)
        _progress("")
        return result

    def _round(self, case: Case, peer: str, place: Place) -> Sample:
        command = self._command(case, peer, place)
        client = Client(
            self._programs.h2load,
            self._plan.client_core,
            place.directory,
            case.topology,
            case.load or Load(),
        )
        with Program(peer, command, self._plan.proxy_core, place.directory / "log.txt") as proxy:
            path = case.load.paths[0] if case.load else "/svc00000/item"
            wait_until(lambda: client.answers(place.port, path, "ok"), proxy, _START_SECONDS, "no answer with 200")
            if case.unrouted_path and not client.answers(place.port, case.unrouted_path, "not_found"):
                raise CaseFailed(f"{case.unrouted_path} has no route but was not answered with 404")
            time.sleep(_SETTLE_SECONDS)
            if case.handshakes:
                sample = self._measure_handshakes(case.handshakes, proxy, place)
                proxy.check_alive()
                return sample
            if case.load is None:
                return Sample(rss_mb=proxy.rss_mb())
            sample = self._measure(client, proxy, place.port)
            proxy.check_alive()
            return sample

    def _measure(self, client: Client, proxy: Program, port: int) -> Sample:
        seconds = self._plan.seconds
        expected_rps = client.warm_up(port, min(_WARM_UP_SECONDS, seconds))
        before, started = proxy.cpu_time(), time.monotonic()
        full = client.saturate(port, seconds, expected_rps)
        used, wall = proxy.cpu_time() - before, time.monotonic() - started
        sample = Sample(
            rss_mb=proxy.rss_mb(),
            cpu_us_per_request=used.total * 1e6 / full.done,
            user_us=used.user * 1e6 / full.done,
            sys_us=used.system * 1e6 / full.done,
            rps=full.rps,
            busy=used.total / wall,
        )
        if full.rps < client.rate * _HOPELESS:
            return replace(sample, rate_held=False)
        steady, latencies = client.at_fixed_rate(port, seconds, full.rps)
        return replace(
            sample,
            rss_mb=proxy.rss_mb(),
            p50_us=_percentile(latencies, 0.50),
            p99_us=_percentile(latencies, 0.99),
            rate_held=steady.seconds <= client.wanted_seconds(seconds) * _RATE_SLACK,
        )

    def _measure_handshakes(self, threads: int, proxy: Program, place: Place) -> Sample:
        """The proxy may wait for the client, whose part of a handshake costs more: what counts is the
        CPU of the proxy, and how many a second a whole core of it would do."""
        files = (place.mesh_authority, place.mesh_certificate, place.mesh_key)
        client = Handshakes(self._plan.client_core, place.inner_port, files, threads)
        per_second = client.run(_FEW_HANDSHAKES, self._plan.seconds)
        before, started = proxy.cpu_time(), time.monotonic()
        number = max(round(per_second * self._plan.seconds), _FEW_HANDSHAKES)
        client.run(number, self._plan.seconds)
        used, wall = proxy.cpu_time() - before, time.monotonic() - started
        return Sample(
            rss_mb=proxy.rss_mb(),
            cpu_us_per_request=used.total * 1e6 / number,
            user_us=used.user * 1e6 / number,
            sys_us=used.system * 1e6 / number,
            rps=number / used.total,
            busy=used.total / wall,
        )

    def _command(self, case: Case, peer: str, place: Place) -> list[str]:
        programs = self._programs
        if peer == "nginx":
            path = nginx.write(case.topology, place, programs.nginx_stream_module)
            return [programs.nginx, "-p", str(place.directory), "-c", str(path), "-e", "stderr"]
        if peer == "haproxy":
            return [programs.haproxy, "-db", "-q", "-f", str(haproxy.write(case.topology, place))]
        path = envoy.write(case.topology, place)
        if peer == "weft":
            return [programs.weft, "proxy", "-c", str(path), "--concurrency", "1", "--log-level", "error"]
        # No hot restart: it would leave shared memory behind, and changes nothing for requests.
        return [programs.envoy, "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    def _place(self, name: str, case: Case) -> Place:
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        return Place(
            directory=directory,
            port=free_port(self._taken),
            admin_port=free_port(self._taken),
            upstream_port=self._upstream_ports[case.topology.upstream_http2],
            certificate=self._certificate,
            key=self._key,
            inner_port=free_port(self._taken),
            mesh_authority=self._mesh["authority"],
            mesh_certificate=self._mesh["certificate"],
            mesh_key=self._mesh["key"],
        )

    def _start_upstream(self, running: contextlib.ExitStack, http2: bool) -> int:
        directory = self._directory / f"upstream-http{2 if http2 else 1}"
        directory.mkdir()
        port = free_port(self._taken)
        if http2:
            command = [self._programs.haproxy, "-db", "-q", "-f", str(upstream.write_http2(directory, port))]
        else:
            path = upstream.write_http1(directory, port)
            command = [self._programs.nginx, "-p", str(directory), "-c", str(path), "-e", "stderr"]
        log = directory / "log.txt"
        program = running.enter_context(Program(f"upstream {directory.name}", command, self._plan.client_core, log))
        try:
            wait_until(lambda: accepts(port), program, _START_SECONDS, "does not listen")
        except CaseFailed as problem:
            raise BenchError(str(problem)) from problem
        return port

    def _make_certificate(self) -> None:
        command = [
            *(self._programs.openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(self._key), "-out", str(self._certificate)),
        ]
        self._openssl(command)

    def _make_mesh_certificate(self) -> None:
        """An authority, and a certificate of it with a SPIFFE ID."""
        openssl, mesh = self._programs.openssl, self._mesh
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj")
        authority_key, request = self._directory / "authority-key.pem", self._directory / "mesh.csr"
        extensions = self._directory / "mesh.cnf"
        extensions.write_text(
            f"subjectAltName=critical,URI:{envoy.MESH_ID}\nkeyUsage=critical,digitalSignature\n"
            "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n"
        )
        self._openssl([
            *(openssl, "req", "-x509", *curve, "/O=bench authority", "-days", "2"),
            *("-addext", "keyUsage=critical,keyCertSign"),
            *("-keyout", str(authority_key), "-out", str(mesh["authority"])),
        ])  # fmt: skip
        self._openssl([openssl, "req", "-new", *curve, "/O=bench", "-keyout", str(mesh["key"]), "-out", str(request)])
        self._openssl([
            *(openssl, "x509", "-req", "-in", str(request), "-days", "1", "-set_serial", "1"),
            *("-CA", str(mesh["authority"]), "-CAkey", str(authority_key)),
            *("-extfile", str(extensions), "-out", str(mesh["certificate"])),
        ])  # fmt: skip

    def _openssl(self, command: list[str]) -> None:
        made = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if made.returncode:
            raise BenchError(f"openssl made no certificate: {made.stderr.strip()[-500:]}")


def _percentile(ordered: list[int], part: float) -> float:
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * part))])


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
