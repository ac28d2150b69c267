"""The servers behind the proxies: fixed answers, whatever is asked.

They share a core with the client, so the leanest of the installed programs is taken for each
protocol: nginx took 11 µs a request for HTTP/1.1 where HAProxy took 15, and 18 for HTTP/2 where
HAProxy took 6.
"""

from pathlib import Path

from . import haproxy, nginx

BODY = "hello from upstream\n"
BIG_BYTES = 1 << 20


def write_http1(directory: Path, port: int) -> Path:
    """nginx.conf of the HTTP/1.1 upstream: `BODY` everywhere, 1 MiB on `/big`."""
    (directory / "big").write_bytes(b"0123456789abcdef" * (BIG_BYTES // 16))
    path = directory / "nginx.conf"
    path.write_text(
        nginx.head(directory)
        + "http {\n access_log off;\n sendfile on;\n default_type text/plain;\n"
        + nginx.folders(directory)
        + f" keepalive_requests {nginx.UNLIMITED};\n keepalive_timeout 1h;\n"
        + f" server {{\n  listen 127.0.0.1:{port};\n  root {directory};\n"
        + "  open_file_cache max=8 inactive=1h;\n  location = /big { }\n"
        + f"  location / {{ return 200 {BODY.strip()!r}; }}\n }}\n}}\n"
    )
    return path


def write_http2(directory: Path, port: int) -> Path:
    """haproxy.cfg of the cleartext HTTP/2 upstream: `BODY` everywhere."""
    lines = [
        *haproxy.head("http"),
        "frontend upstream",
        f" bind 127.0.0.1:{port} proto h2",
        f' http-request return status 200 content-type text/plain string "{BODY.strip()}"',
    ]
    path = directory / "haproxy.cfg"
    path.write_text("\n".join(lines) + "\n")
    return path
