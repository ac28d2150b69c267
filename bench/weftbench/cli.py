"""The command line."""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from . import programs, report
from .errors import BenchError
from .measure import Bench, CaseResult, Plan
from .control import run as control
from .control.cases import CASES as CONTROL_CASES
from .csr import run as csr
from .rpc import run as rpc
from .suites import PEERS, SUITES, Case

_LEGEND = """\
cpu, user, sys: of the proxy, per request, at saturation. p50, p99: at the fixed rate.
* the proxy had time to spare: the client was the slower one, compare cpu µs/req rather than req/s.
! the fixed rate was not held. Ratios below 1 are good for Weft, except for req/s.
"""


def main() -> int:
    """Runs the suites; 0 if every peer got through every case (and, with --check, goals held)."""
    options = _parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))
    try:
        return _run(options)
    except BenchError as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description="Weft beside Envoy, nginx and HAProxy.")
    parser.add_argument("suite", choices=[*SUITES, "control", "csr", "rpc", "all"])
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="rounds over all peers (3)")
    parser.add_argument("--seconds", type=_seconds, default=1.5, metavar="S", help="seconds of each measurement (1.5)")
    parser.add_argument("--weft", metavar="PATH", help="an existing weft program, instead of building one")
    parser.add_argument("--load", metavar="PATH", help="an existing load client of the suite control or rpc, instead of building one")
    parser.add_argument("--peers", type=_peers, default=list(PEERS), metavar="A,B", help="only these peers")
    parser.add_argument("--cases", type=lambda text: text.split(","), metavar="A,B", help="only these cases")
    parser.add_argument("--out", type=Path, default=programs.REPOSITORY / "bench" / "out", metavar="DIR", help="folder of the JSON files (bench/out)")
    parser.add_argument("--check", action="store_true", help="end with 1 if a goal is missed")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError("from 1 to 100")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.2 <= number <= 120:
        raise argparse.ArgumentTypeError("from 0.2 to 120")
    return number


def _peers(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: not one of {', '.join(PEERS)}")
    return names


def _run(options: argparse.Namespace) -> int:
    good = True
    in_all = options.suite == "all" and (options.cases is None or any(name in CONTROL_CASES for name in options.cases))
    if options.suite == "control" or in_all:
        _raise_file_limit()
        _warn_if_busy()
        whole, held = control.run(options.weft, options.load, options.cases, options.out, _cores())
        good = whole and (held or not options.check)
        if options.suite == "control":
            return 0 if good else 1
    if options.suite == "csr":
        _warn_if_busy()
        whole, held = csr.run(options.weft, options.cases, options.out, _cores(), options.rounds, options.seconds)
        return 0 if whole and (held or not options.check) else 1
    if options.suite == "rpc":
        _raise_file_limit()
        _warn_if_busy()
        plan = Plan(options.rounds, options.seconds, *_cores())
        whole, held = rpc.run(options.weft, options.load, options.peers, options.cases, options.out, plan)
        return 0 if whole and (held or not options.check) else 1
    suites = list(SUITES) if options.suite == "all" else [options.suite]
    chosen = {suite: _cases(suite, options.cases) for suite in suites}
    if not any(chosen.values()):
        known = ", ".join(case.name for suite in suites for case in SUITES[suite]())
        raise BenchError(f"--cases: none of these; the cases are {known}")
    proxy_core, client_core = _cores()
    _raise_file_limit()
    found = programs.provide(set(options.peers), suites, options.weft)
    _warn_if_busy()
    plan = Plan(options.rounds, options.seconds, proxy_core, client_core)
    directory = Path(tempfile.mkdtemp(prefix="weft-bench-"))
    try:
        with Bench(found, plan, directory) as bench:
            print(_LEGEND)
            for suite, cases in chosen.items():
                good &= _run_suite(bench, plan, suite, cases, options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if good else 1


def _run_suite(bench: Bench, plan: Plan, suite: str, cases: list[Case], options: argparse.Namespace) -> bool:
    results: list[CaseResult] = []
    for case in cases:
        result = bench.run_case(case, options.peers)
        results.append(result)
        print(report.table(suite, result, plan), flush=True)
        # After each case, so that a run that is broken off leaves what it has.
        report.write(options.out, suite, results)
    goals = report.goals(suite, results)
    if goals:
        print(report.goal_lines(goals) + "\n", flush=True)
    no_failures = not any(result.failures for result in results)
    return no_failures and (not options.check or all(goal.held for goal in goals))


def _cases(suite: str, names: list[str] | None) -> list[Case]:
    return [case for case in SUITES[suite]() if names is None or case.name in names]


def _cores() -> tuple[int, int]:
    """The core of the proxy and the core of client and upstream."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise BenchError("two cores are needed: one for the proxy, one for the client and the upstream")
    return usable[0], usable[1]


def _raise_file_limit() -> None:
    # 16 connections to each of 100 clusters are more than the usual 1,024 files.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warn_if_busy() -> None:
    load = os.getloadavg()[0]
    if load > 0.7:
        print(f"bench: the load of this machine is {load:.1f} already: the numbers will be off\n", file=sys.stderr)
