"""HAProxy as a proxy. Prefixes go through a map, its own way for many of them."""

from pathlib import Path

from ..suites import Topology, prefix
from . import Place


def write(topology: Topology, place: Place) -> Path:
    """Writes haproxy.cfg (and its map and PEM file) and returns its path."""
    bind = f"127.0.0.1:{place.port}"
    if topology.tls:
        pem = place.directory / "haproxy.pem"
        pem.write_text(place.certificate.read_text() + place.key.read_text())
        bind += f" ssl crt {pem} ssl-min-ver TLSv1.3 alpn {'h2' if topology.downstream_http2 else 'http/1.1'}"
    elif topology.downstream_http2:
        bind += " proto h2"
    lines = [
        *head(topology.mode),
        *([" http-reuse always"] if topology.mode == "http" else []),
        "frontend bench",
        f" bind {bind}",
        *_choice(topology, place.directory),
    ]
    server = f" server upstream 127.0.0.1:{place.upstream_port}{' proto h2' if topology.upstream_http2 else ''}"
    for i in range(topology.clusters):
        lines += [f"backend cluster-{i}", server]
    path = place.directory / "haproxy.cfg"
    path.write_text("\n".join(lines) + "\n")
    return path


def head(mode: str) -> list[str]:
    """The sections `global` and `defaults`, for the proxy and for the upstream."""
    return [
        "global",
        " nbthread 1",
        " maxconn 8000",
        "defaults",
        f" mode {mode}",
        " timeout connect 5s",
        " timeout client 1h",
        " timeout server 1h",
    ]


def _choice(topology: Topology, directory: Path) -> list[str]:
    if topology.routes == 1:
        return [" default_backend cluster-0"]
    routes = directory / "routes.map"
    rows = (f"{prefix(i)} cluster-{i % topology.clusters}\n" for i in range(topology.routes))
    routes.write_text("".join(rows))
    look_up = f"path,map_beg({routes})"
    return [
        f" http-request set-var(txn.cluster) {look_up}",
        " http-request return status 404 unless { var(txn.cluster) -m found }",
        " use_backend %[var(txn.cluster)]",
    ]
