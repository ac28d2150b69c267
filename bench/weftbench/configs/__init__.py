"""Writes each proxy's configuration for a topology, and the upstream's.

All of them: no access log, no tracing, upstream connections kept, one worker, loopback only.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a proxy runs: its folder and ports, and the files of its certificates. `mesh_…`: those of
    mutual TLS, at `inner_port`."""

    directory: Path
    port: int
    admin_port: int
    upstream_port: int
    certificate: Path
    key: Path
    inner_port: int
    mesh_authority: Path
    mesh_certificate: Path
    mesh_key: Path
