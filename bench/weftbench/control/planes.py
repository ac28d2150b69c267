"""The control planes as processes, and the load client that talks to them."""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

from ..errors import BenchError, CaseFailed
from ..processes import Program, accepts, free_port, pin_to, wait_until

_START_SECONDS = 180
# What istiod logs when it has read everything; its /ready also waits for the injector.
_SYNCED = "All caches have been synced up"
_ISTIOD_ENVIRONMENT = {
    "PILOT_ENABLE_ANALYSIS": "false",
    "INJECT_ENABLED": "false",
    "ENABLE_CA_SERVER": "false",
    "PILOT_CERT_PROVIDER": "none",
    "PILOT_ENABLE_WORKLOAD_ENTRY_AUTOREGISTRATION": "false",
    "POD_NAMESPACE": "istio-system",
}


class Plane:
    """A control plane on a folder, in a `with` block. `started` is when its process began."""

    def __init__(
        self, name: str, program: str, folder: Path, place: Path, core: int | None, taken: set[int], flags: list[str] | None = None
    ):
        """`flags`: more of `weft control`."""
        self.name = name
        self.port = free_port(taken)
        monitoring = free_port(taken)
        place.mkdir(exist_ok=True)
        self._log = place / f"{name}.log"
        if name == "weft":
            command = [
                program, "control", "--log-level", "error", "--config-dir", str(folder),
                "--grpc-addr", f"127.0.0.1:{self.port}", "--monitoring-addr", f"127.0.0.1:{monitoring}",
                *(flags or []),
            ]  # fmt: skip
        else:
            mesh = place / "mesh.yaml"
            mesh.write_text("{}\n")
            command = [
                *("env", "-C", str(place), *(f"{key}={value}" for key, value in _ISTIOD_ENVIRONMENT.items())),
                *(program, "discovery", "--registries=", f"--configDir={folder}", f"--meshConfig={mesh}"),
                *(f"--grpcAddr=127.0.0.1:{self.port}", f"--httpAddr=127.0.0.1:{free_port(taken)}"),
                *(f"--monitoringAddr=127.0.0.1:{monitoring}", "--secureGRPCAddr=", "--httpsAddr=", "--ctrlz_port=0"),
            ]
        self._program = Program(name, command, core, self._log)
        self._cpu: dict[str, int] = {}
        self.started = 0.0

    def __enter__(self) -> "Plane":
        self.started = time.time()
        self._program.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._program.__exit__(*exc)

    @property
    def program(self) -> Program:
        """The process."""
        return self._program

    def wait_ready(self) -> None:
        """Waits until proxies are served."""
        if self.name == "weft":
            wait_until(lambda: accepts(self.port), self._program, _START_SECONDS, "does not listen")
        else:
            synced = lambda: _SYNCED in self._log.read_text(errors="replace")  # noqa: E731
            wait_until(synced, self._program, _START_SECONDS, "has not read the folder")

    def cpu_ms(self) -> float:
        """CPU of all threads so far, in milliseconds, from the scheduler's nanoseconds. Threads that
        have ended count as far as they were seen."""
        for tasks in (f"/proc/{pid}/task" for pid in self._program.members()):
            with contextlib.suppress(OSError):
                for task in os.listdir(tasks):
                    with contextlib.suppress(OSError):
                        text = Path(tasks, task, "schedstat").read_text()
                        self._cpu[task] = int(text.split()[0])
        return sum(self._cpu.values()) / 1e6

    def rss_mb(self) -> float:
        """Resident memory in MB (10^6 bytes)."""
        return self._program.rss_mb()


class Proxies:
    """The load client, in a `with` block. A command is a line, its answer a line of JSON."""

    def __init__(self, program: str, port: int, core: int, log: Path):
        self._command = [program, f"127.0.0.1:{port}"]
        self._core = core
        self._log = log
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Proxies":
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("wb"),
            text=True,
            preexec_fn=pin_to(self._core),
        )
        return self

    def __exit__(self, *_exc) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def say(self, command: str) -> dict:
        """One command and its answer."""
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as problem:
            raise BenchError(f"the load client has ended: {problem}") from problem
        if not line:
            raise BenchError(f"the load client has ended: {self._log.read_text(errors='replace')[-500:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise CaseFailed(f"{command.split()[0]}: {answer['error']}")
        return answer

    def wait_resources(self, kind: str, count: int, seconds: float) -> dict:
        """Waits until so many resources of a type have come since the mark."""
        return self._wait(lambda stats: stats["types"][kind]["resources"] >= count, f"{count} of {kind}", seconds)

    def _wait(self, done, what: str, seconds: float) -> dict:
        end = time.monotonic() + seconds
        while True:
            stats = self.say("stats")
            if done(stats):
                return stats
            if time.monotonic() > end:
                raise CaseFailed(f"no {what} after {seconds:g} s: {stats}")
            time.sleep(0.001)
