"""One listener, one route, one cluster of one host, in each proxy's own words."""

import json
from pathlib import Path

_TYPES = "type.googleapis.com"
_NETWORK = f"{_TYPES}/envoy.extensions.filters.network"


def write_bootstrap(peer: str, protocol: str, directory: Path, port: int, admin_port: int, host_port: int) -> Path:
    """The bootstrap of Weft or Envoy, the same but for the filter; returns its path."""
    network_filter = _meta_protocol(protocol) if peer == "weft" else _ENVOY_FILTERS[protocol]()
    endpoint = {"endpoint": {"address": _address(host_port)}}
    cluster = {
        "name": "host",
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": "host", "endpoints": [{"lb_endpoints": [endpoint]}]},
        # As many as the case with the most connections asks for.
        "circuit_breakers": {"thresholds": [{"max_connections": 20_000, "max_pending_requests": 20_000, "max_requests": 20_000}]},
    }
    listener = {"name": "bench", "address": _address(port), "filter_chains": [{"filters": [network_filter]}]}
    bootstrap = {
        "admin": {"address": _address(admin_port)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }
    return _write(directory / "bootstrap.json", bootstrap)


def write_mosn(protocol: str, directory: Path, port: int, admin_port: int, host_port: int) -> Path:
    """MOSN's file; returns its path."""
    proxy = {"downstream_protocol": protocol, "upstream_protocol": protocol, "router_config_name": "bench"}
    # MOSN finds the rule of RPC calls by this header alone.
    rule = {"match": {"headers": [{"name": "service", "value": ".*"}]}, "route": {"cluster_name": "host"}}
    listener = {
        "name": "bench",
        "address": f"127.0.0.1:{port}",
        "bind_port": True,
        "filter_chains": [{"filters": [{"type": "proxy", "config": proxy}]}],
    }
    server = {
        "default_log_path": "stdout",
        "default_log_level": "ERROR",
        "processor": 1,
        "routers": [{"router_config_name": "bench", "virtual_hosts": [{"name": "all", "domains": ["*"], "routers": [rule]}]}],
        "listeners": [listener],
    }
    cluster = {
        "name": "host",
        "type": "SIMPLE",
        "lb_type": "LB_ROUNDROBIN",
        "max_request_per_conn": 1024,
        "conn_buffer_limit_bytes": 32768,
        "hosts": [{"address": f"127.0.0.1:{host_port}"}],
    }
    whole = {
        "servers": [server],
        "cluster_manager": {"clusters": [cluster]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
    }
    return _write(directory / "mosn.json", whole)


def _meta_protocol(protocol: str) -> dict:
    route = {"name": "all", "match": {"metadata": [{"name": "method", "string_match": {"exact": "echo"}}]}, "route": {"cluster": "host"}}
    return {
        "name": "envoy.filters.network.meta_protocol_proxy",
        "typed_config": {
            "@type": f"{_TYPES}/aeraki.meta_protocol_proxy.v1alpha.MetaProtocolProxy",
            "stat_prefix": "bench",
            "protocol": {"name": protocol, "codec": {"name": f"aeraki.meta_protocol.codec.{protocol}"}},
            "route_config": {"name": "bench", "routes": [route]},
            "meta_protocol_filters": [{"name": "aeraki.meta_protocol.filters.router"}],
        },
    }


def _envoy_dubbo() -> dict:
    route = {"match": {"method": {"name": {"exact": "echo"}}}, "route": {"cluster": "host"}}
    return {
        "name": "envoy.filters.network.dubbo_proxy",
        "typed_config": {
            "@type": f"{_NETWORK}.dubbo_proxy.v3.DubboProxy",
            "stat_prefix": "bench",
            "route_config": [{"name": "bench", "interface": "bench.Echo", "routes": [route]}],
        },
    }


def _envoy_thrift() -> dict:
    route = {"match": {"method_name": "echo"}, "route": {"cluster": "host"}}
    return {
        "name": "envoy.filters.network.thrift_proxy",
        "typed_config": {
            "@type": f"{_NETWORK}.thrift_proxy.v3.ThriftProxy",
            "stat_prefix": "bench",
            "transport": "FRAMED",
            "protocol": "BINARY",
            "route_config": {"name": "bench", "routes": [route]},
        },
    }


_ENVOY_FILTERS = {"dubbo": _envoy_dubbo, "thrift": _envoy_thrift}


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _write(path: Path, value: dict) -> Path:
    path.write_text(json.dumps(value, indent=1))
    return path
