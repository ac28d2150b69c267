"""Meshes of any size as folders of Istio YAML, which both control planes read.

Service `i` is `s<i>.n<i % 20>.svc.cluster.local` with two instances, `10.<i // 250>.<i % 250>.1` and
`.2`; the load client's proxies say that they run at these addresses (bench/control/src/node.rs).
Each object has a file of its own, as a deployment tool would write them.
"""

import os
from pathlib import Path

NAMESPACES = 20
# One service in so many has a DestinationRule with subsets.
SUBSETS_EVERY = 5
_CREATED = 'creationTimestamp: "2026-01-01T00:00:00Z"'


def host(service: int) -> str:
    """The host of a service."""
    return f"s{service}.n{service % NAMESPACES}.svc.cluster.local"


class World:
    """A folder that is being edited. Every edit replaces one file at once."""

    def __init__(self, folder: Path, services: int):
        self.folder = folder
        self.services = services
        folder.mkdir()
        for service in range(services):
            self.endpoints(service, [1, 2])
            self.timeout(service, 10)
            if service % SUBSETS_EVERY == 0:
                self._write(f"rule-{service:05d}.yaml", _destination_rule(service))

    def endpoints(self, service: int, replicas: list[int]) -> None:
        """Gives a service these instances."""
        self._write(f"service-{service:05d}.yaml", _service_entry(service, replicas))

    def timeout(self, service: int, seconds: int, note: str = "first") -> None:
        """Gives a service's VirtualService this timeout; `note` is only metadata."""
        self._write(f"routes-{service:05d}.yaml", _virtual_service(service, seconds, note))

    def gateway(self, hosts: int, routes: int) -> None:
        """Adds a gateway and `hosts` VirtualServices of `routes` routes each."""
        self._write("gateway.yaml", _GATEWAY)
        for number in range(hosts):
            self.public(number, routes, 10)

    def public(self, number: int, routes: int, seconds: int) -> None:
        """Gives one of the gateway's VirtualServices this timeout."""
        self._write(f"public-{number:05d}.yaml", _public(number, routes, seconds, self.services))

    def _write(self, name: str, text: str) -> None:
        hidden = self.folder / f".{name}.new"
        hidden.write_text(text)
        os.replace(hidden, self.folder / name)


def _service_entry(service: int, replicas: list[int]) -> str:
    block = f"10.{service // 250}.{service % 250}"
    endpoints = "".join(
        f"  - {{address: {block}.{replica}, labels: {{app: s{service}, version: v{1 + replica % 2}}}}}\n"
        for replica in replicas
    )
    return f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: s{service}, namespace: n{service % NAMESPACES}, {_CREATED}}}
spec:
  hosts: [{host(service)}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
{endpoints}"""


def _virtual_service(service: int, seconds: int, note: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{service}, namespace: n{service % NAMESPACES}, {_CREATED}, annotations: {{note: "{note}"}}}}
spec:
  hosts: [{host(service)}]
  http:
  - timeout: {seconds}s
    retries: {{attempts: 2, perTryTimeout: 1s}}
    route: [{{destination: {{host: {host(service)}}}}}]
"""


def _destination_rule(service: int) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s{service}, namespace: n{service % NAMESPACES}, {_CREATED}}}
spec:
  host: {host(service)}
  trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: 100}}}}
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
"""


_GATEWAY = f"""\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: public, namespace: n0, {_CREATED}}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8080, name: http, protocol: HTTP}}
    hosts: ["*"]
"""


def _public(number: int, routes: int, seconds: int, services: int) -> str:
    rules = "".join(
        f"  - match: [{{uri: {{prefix: /path{route:04d}/}}}}]\n"
        f"    timeout: {seconds}s\n"
        f"    route: [{{destination: {{host: {host((number * routes + route) % services)}}}}}]\n"
        for route in range(routes)
    )
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: public{number}, namespace: n0, {_CREATED}}}
spec:
  hosts: [host{number}.example.com]
  gateways: [n0/public]
  http:
{rules}"""
