"""nginx as a proxy. It speaks HTTP/1.1 to upstreams."""

import os
from pathlib import Path

from ..suites import Topology, prefix
from . import Place

# A number that no run reaches: connections are never closed for having served enough.
UNLIMITED = 1_000_000_000


def write(topology: Topology, place: Place, stream_module: Path | None) -> Path:
    """Writes nginx.conf and returns its path; `stream_module` is where TCP needs a module file."""
    body = _http(topology, place) if topology.mode == "http" else _stream(place)
    path = place.directory / "nginx.conf"
    path.write_text(head(place.directory, stream_module if topology.mode == "tcp" else None) + body)
    return path


def head(directory: Path, module: Path | None = None) -> str:
    """What stands before `http` or `stream`, for the proxy and for the upstream."""
    lines = [f"load_module {module};"] if module else []
    # Without this, a master that runs as root starts workers that cannot read our folder.
    lines += ["user root;"] if os.geteuid() == 0 else []
    lines += [
        "daemon off;",
        "worker_processes 1;",
        f"pid {directory}/nginx.pid;",
        "error_log stderr crit;",
        "events { worker_connections 8192; }",
    ]
    return "\n".join(lines) + "\n"


def folders(directory: Path) -> str:
    """The folders that nginx would otherwise want in system places."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f" {kind}_temp_path {directory}/{kind};\n" for kind in kinds)


def _http(topology: Topology, place: Place) -> str:
    listen = f"127.0.0.1:{place.port}"
    listen += " ssl" if topology.tls else ""
    listen += " http2" if topology.downstream_http2 else ""
    parts = ["http {\n access_log off;\n", folders(place.directory)]
    for i in range(topology.clusters):
        parts.append(
            f" upstream cluster-{i} {{ server 127.0.0.1:{place.upstream_port}; "
            f"keepalive {topology.keepalive}; keepalive_requests {UNLIMITED}; keepalive_timeout 1h; }}\n"
        )
    parts.append(
        f" server {{\n  listen {listen};\n  keepalive_requests {UNLIMITED};\n  keepalive_timeout 1h;\n"
        '  proxy_http_version 1.1;\n  proxy_set_header Connection "";\n'
    )
    if topology.tls:
        parts.append(
            f"  ssl_certificate {place.certificate};\n  ssl_certificate_key {place.key};\n  ssl_protocols TLSv1.3;\n"
        )
    parts += _locations(topology)
    parts.append(" }\n}\n")
    return "".join(parts)


def _locations(topology: Topology) -> list[str]:
    if topology.routes == 1:
        return ["  location / { proxy_pass http://cluster-0; }\n"]
    return [
        f"  location {prefix(i)} {{ proxy_pass http://cluster-{i % topology.clusters}; }}\n"
        for i in range(topology.routes)
    ] + ["  location / { return 404; }\n"]


def _stream(place: Place) -> str:
    return f"stream {{ server {{ listen 127.0.0.1:{place.port}; proxy_pass 127.0.0.1:{place.upstream_port}; }} }}\n"
