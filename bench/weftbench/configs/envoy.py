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
_UPSTREAM_TLS = f"{_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"
_HTTP_OPTIONS = f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"


# Whose certificate both listeners of mutual TLS have.
MESH_ID = "spiffe://cluster.local/ns/bench/sa/mesh"


def write(topology: Topology, place: Place) -> Path:
    """Writes the bootstrap and returns its path."""
    bootstrap = {
        "admin": {"address": _address(place.admin_port)},
        "static_resources": {
            "listeners": _listeners(topology, place),
            "clusters": _clusters(topology, place),
        },
    }
    path = place.directory / "bootstrap.json"
    path.write_text(json.dumps(bootstrap, indent=1))
    return path


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listeners(topology: Topology, place: Place) -> list[dict]:
    if not topology.mutual:
        manager = _http_manager("bench", _routes(topology)) if topology.mode == "http" else _tcp_proxy()
        tls = _tls(topology, place) if topology.tls else None
        return [_listener("bench", place.port, manager, tls)]
    to = lambda cluster: [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]  # noqa: E731
    return [
        _listener("outbound", place.port, _http_manager("outbound", to("mesh")), None),
        _listener("inbound", place.inner_port, _http_manager("inbound", to("cluster-0")), _mesh_tls(topology, place)),
    ]


def _clusters(topology: Topology, place: Place) -> list[dict]:
    clusters = [_cluster(f"cluster-{i}", place.upstream_port, topology) for i in range(topology.clusters)]
    if topology.mutual:
        mesh = _cluster("mesh", place.inner_port, topology)
        clusters.append({**mesh, "transport_socket": _mesh_tls(topology, place, upstream=True)})
    return clusters


def _listener(name: str, port: int, network_filter: dict, tls: dict | None) -> dict:
    chain: dict = {"filters": [network_filter]}
    if tls:
        chain["transport_socket"] = tls
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _http_manager(name: str, routes: list[dict]) -> dict:
    host = {"name": "all", "domains": ["*"], "routes": routes}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _HTTP_MANAGER,
            "stat_prefix": name,
            "codec_type": "AUTO",
            "route_config": {"name": name, "virtual_hosts": [host]},
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


def _mesh_tls(topology: Topology, place: Place, upstream: bool = False) -> dict:
    """Both sides show the same certificate and check the other's authority and SPIFFE ID."""
    exact = {"san_type": "URI", "matcher": {"exact": MESH_ID}}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(place.mesh_certificate)},
                "private_key": {"filename": str(place.mesh_key)},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(place.mesh_authority)},
            "match_typed_subject_alt_names": [exact],
        },
        "alpn_protocols": ["h2"] if topology.downstream_http2 else ["http/1.1"],
    }
    context: dict = {"@type": _UPSTREAM_TLS if upstream else _TLS, "common_tls_context": common}
    if upstream:
        context["sni"] = "bench"
    else:
        context["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _cluster(name: str, port: int, topology: Topology) -> dict:
    endpoint = {"endpoint": {"address": _address(port)}}
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
