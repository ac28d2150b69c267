"""Processes pinned to one core, stopped whatever happens, and what they used."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import CaseFailed

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 3.0


@dataclass(frozen=True)
class CpuTime:
    """CPU seconds since the processes started."""

    user: float
    system: float

    def __sub__(self, earlier: "CpuTime") -> "CpuTime":
        return CpuTime(self.user - earlier.user, self.system - earlier.system)

    @property
    def total(self) -> float:
        return self.user + self.system


def pin_to(core: int | None):
    """A `preexec_fn`: this core only (`None`: all), and an end when the parent ends, even if killed."""
    prctl = ctypes.CDLL(None).prctl

    def before_exec() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return before_exec


class Program:
    """A running program and its children: one process group, on one core, in a `with` block."""

    def __init__(self, name: str, command: list[str], core: int | None, log: Path):
        self.name = name
        self._command = command
        self._core = core
        self._log = log
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Program":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=pin_to(self._core),
            )
        return self

    def __exit__(self, *_exc) -> None:
        process = self._process
        self._signal_group(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        # Children may outlive the first process, and a proxy may drain for longer than we wait.
        self._signal_group(signal.SIGKILL)
        process.wait()

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def check_alive(self) -> None:
        """Raises `CaseFailed` with the end of the log if the program has ended."""
        code = self._process.poll()
        if code is not None:
            raise CaseFailed(f"{self.name} ended with {code}: {self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of what the program wrote."""
        text = self._log.read_text(errors="replace").strip()
        return "\n".join(text.splitlines()[-6:])[-1500:] or "(it wrote nothing)"

    def cpu_time(self) -> CpuTime:
        """CPU time of all threads of all processes of the group, from `/proc/PID/stat`."""
        user = system = 0
        for pid in self.members():
            fields = _stat_fields(pid)
            if fields:
                user += int(fields[11])
                system += int(fields[12])
        return CpuTime(user / _TICKS_PER_SECOND, system / _TICKS_PER_SECOND)

    def rss_mb(self) -> float:
        """Resident memory in MB (10^6 bytes).

        One process: its VmRSS. Several (nginx's master and worker share what they inherited): the
        largest VmRSS, and of the others only what is theirs alone.
        """
        sizes = sorted((_resident_and_private_kib(pid) for pid in self.members()), reverse=True)
        if not sizes:
            raise CaseFailed(f"{self.name} is gone: {self.log_tail()}")
        kib = sizes[0][0] + sum(private for _resident, private in sizes[1:])
        return kib * 1024 / 1e6

    def members(self) -> list[int]:
        """The processes of the group."""
        group = self._process.pid
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return [pid for pid in pids if _process_group(pid) == group]


def _stat_fields(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the state on, or nothing if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The name before may hold blanks and brackets.
    return text.rpartition(")")[2].split()


def _process_group(pid: int) -> int | None:
    fields = _stat_fields(pid)
    return int(fields[2]) if fields else None


def _resident_and_private_kib(pid: int) -> tuple[int, int]:
    resident = private = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0, 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            resident = int(line.split()[1])
    for line in rollup.splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            private += int(line.split()[1])
    return resident, private


def free_port(taken: set[int]) -> int:
    """A loopback port that nobody listens on, and adds it to `taken`.

    Below the range from which the kernel takes the ports of outgoing connections: one of those
    could sit on ours between two starts of a proxy.
    """
    for _attempt in range(1000):
        port = random.randint(15_000, 31_000)
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        taken.add(port)
        return port
    raise CaseFailed("no free port between 15000 and 31000 on 127.0.0.1")


def wait_until(ready, program: Program, seconds: float, what: str) -> None:
    """Asks `ready()` until it is true; fails when the program ends or the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        program.check_alive()
        if ready():
            return
        if time.monotonic() > deadline:
            raise CaseFailed(f"{program.name}: {what} after {seconds:.0f} s: {program.log_tail()}")
        time.sleep(0.05)


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
