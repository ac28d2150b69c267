"""The bootstrap that Envoy and Weft get, the same file for both."""

import json
from pathlib import Path

from ..suites import Topology, prefix
from . import Place

_TYPES = "type.googleapis.com/envoy.extensions"
_HTTP_MANAGER = f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_TYPES}.filters.http.router.v3.Router"
_TCP_PROXY = f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy"
_TLS = f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"
_HTTP_OPTIONS = f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"


def write(topology: Topology, place: Place) -> Path:
    """Writes the bootstrap and returns its path."""
    bootstrap = {
        "admin": {"address": _address(place.admin_port)},
        "static_resources": {
            "listeners": [_listener(topology, place)],
            "clusters": [_cluster(i, topology, place) for i in range(topology.clusters)],
        },
    }
    path = place.directory / "bootstrap.json"
    path.write_text(json.dumps(bootstrap, indent=1))
    return path


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(topology: Topology, place: Place) -> dict:
    chain: dict = {"filters": [_http_manager(topology) if topology.mode == "http" else _tcp_proxy()]}
    if topology.tls:
        chain["transport_socket"] = _tls(topology, place)
    return {"name": "bench", "address": _address(place.port), "filter_chains": [chain]}


def _http_manager(topology: Topology) -> dict:
    host = {"name": "all", "domains": ["*"], "routes": _routes(topology)}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _HTTP_MANAGER,
            "stat_prefix": "bench",
            "codec_type": "AUTO",
            "route_config": {"name": "bench", "virtual_hosts": [host]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
        },
    }


def _routes(topology: Topology) -> list[dict]:
    if topology.routes == 1:
        return [{"match": {"prefix": "/"}, "route": {"cluster": "cluster-0"}}]
    return [
        {"match": {"prefix": prefix(i)}, "route": {"cluster": f"cluster-{i % topology.clusters}"}}
        for i in range(topology.routes)
    ]


def _tcp_proxy() -> dict:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": _TCP_PROXY, "stat_prefix": "bench", "cluster": "cluster-0"},
    }


def _tls(topology: Topology, place: Place) -> dict:
    certificate = {
        "certificate_chain": {"filename": str(place.certificate)},
        "private_key": {"filename": str(place.key)},
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TLS,
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [certificate],
                "alpn_protocols": ["h2"] if topology.downstream_http2 else ["http/1.1"],
            },
        },
    }


def _cluster(index: int, topology: Topology, place: Place) -> dict:
    name = f"cluster-{index}"
    endpoint = {"endpoint": {"address": _address(place.upstream_port)}}
    cluster = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if topology.upstream_http2:
        options = {"@type": _HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    return cluster
