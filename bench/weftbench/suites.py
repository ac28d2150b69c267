"""What is measured: the cases of each suite. Knows nothing of any proxy's configuration."""

from dataclasses import dataclass, field

PEERS = ("weft", "envoy", "nginx", "haproxy")
# In the order of the tables; MOSN only in the suite `rpc`.
ALL_PEERS = (*PEERS, "mosn")

# Every peer that can do HTTP/2 on both sides. nginx speaks HTTP/2 to clients only.
HTTP2_PEERS = ("weft", "envoy", "haproxy")

# Those that can be given one configuration of a mesh.
MESH_PEERS = ("weft", "envoy")

MANY_ROUTES = 10_000
MANY_CLUSTERS = 5_000
# So many different paths are in the mix of the routes suite.
ROUTE_MIX = 2_000
# So many of the 5,000 clusters get requests.
TOUCHED_CLUSTERS = 100


@dataclass(frozen=True)
class Topology:
    """What a proxy is configured to do in a case.

    `mode` is "http" or "tcp". With one route, the prefix `/` matches; with more, route `i` is the
    prefix `prefix(i)`. With more than one cluster there is one route for each cluster.

    `mutual`: a request goes through the proxy twice, as through the sidecars of caller and server: in
    clear text to the first listener, by mutual TLS to the second one, which sends it upstream.
    """

    mode: str = "http"
    downstream_http2: bool = False
    upstream_http2: bool = False
    tls: bool = False
    mutual: bool = False
    routes: int = 1
    clusters: int = 1
    # Idle upstream connections that a proxy may keep for a cluster, where it wants a number.
    keepalive: int = 64


@dataclass(frozen=True)
class Load:
    """What the client sends.

    At saturation: `connections`, each with `streams` requests in flight, as fast as they are
    answered. At the fixed rate: `rate_connections`, each with `rate_per_connection` requests a
    second. h2load's clock for that ticks every 10 ms, so that up to 100 requests a second leave
    one by one and more leave in small bursts.
    """

    connections: int = 32
    streams: int = 1
    body_bytes: int = 0
    paths: tuple[str, ...] = ("/hello",)
    rate_connections: int = 48
    rate_per_connection: int = 100

    @property
    def in_flight(self) -> int:
        """Requests that wait for an answer at once, at saturation."""
        return self.connections * self.streams

    @property
    def rate(self) -> int:
        """Requests a second of the fixed-rate run."""
        return self.rate_connections * self.rate_per_connection


@dataclass(frozen=True)
class Case:
    """One line of a suite. Without `load`, only the memory after the start is taken, or, with
    `handshakes`, new connections by mutual TLS to the second listener are made, one after the other
    in so many threads."""

    name: str
    about: str
    topology: Topology = field(default_factory=Topology)
    load: Load | None = field(default_factory=Load)
    peers: tuple[str, ...] = PEERS
    # A path that must be answered 404, which shows that the route table is in force.
    unrouted_path: str | None = None
    handshakes: int | None = None


def prefix(index: int) -> str:
    """The prefix of route `index`, all of one length."""
    return f"/svc{index:05d}/"


def spread_paths(count: int, total: int) -> tuple[str, ...]:
    """`count` paths over `total` prefixes in a fixed order that looks random.

    7919 is prime and shares no factor with the totals used here, so no path comes twice.
    """
    step = total // count
    return tuple(f"{prefix(i * step * 7919 % total)}item" for i in range(count))


def _http1() -> list[Case]:
    return [
        Case("get", "GET, HTTP/1.1 keep-alive, 32 connections"),
        Case("post_1k", "POST with 1 KiB, HTTP/1.1 keep-alive, 32 connections", load=Load(body_bytes=1024)),
        Case(
            "tls_get",
            "GET, HTTP/1.1 over TLS 1.3 to the proxy, cleartext upstream, 32 connections",
            Topology(tls=True),
        ),
    ]


def _http2() -> list[Case]:
    both = Topology(downstream_http2=True, upstream_http2=True)
    busy = Load(connections=16, streams=8, rate_connections=16, rate_per_connection=300)
    return [
        Case("get_16x8", "GET, HTTP/2 on both sides, 16 connections of 8 streams", both, busy, HTTP2_PEERS),
        Case("get_16x1", "GET, HTTP/2 on both sides, 16 connections of 1 stream", both, Load(connections=16), HTTP2_PEERS),
        Case(
            "get_16x8_to_http1",
            "GET, HTTP/2 to HTTP/1.1, 16 connections of 8 streams",
            Topology(downstream_http2=True),
            busy,
        ),
    ]


def _tcp() -> list[Case]:
    tcp = Topology(mode="tcp")
    big = Load(connections=8, paths=("/big",), rate_connections=8, rate_per_connection=10)
    return [
        Case("http_get", "GET through the TCP proxy, 32 connections", tcp),
        Case("bytes_1m", "1 MiB a request through the TCP proxy, 8 connections (req/s = MiB/s)", tcp, big),
    ]


def _routes() -> list[Case]:
    # Low enough for a proxy that looks at one route after the other.
    slow = {"rate_connections": 16, "rate_per_connection": 20}
    mix = Load(paths=spread_paths(ROUTE_MIX, MANY_ROUTES), **slow)
    last = Load(paths=(f"{prefix(MANY_ROUTES - 1)}item",), **slow)
    many = Topology(routes=MANY_ROUTES)
    return [
        Case("routes_1", f"1 prefix route, {ROUTE_MIX:,} paths", load=mix),
        Case("routes_10000", f"10,000 prefix routes, the same {ROUTE_MIX:,} paths", many, mix, unrouted_path="/none"),
        Case("routes_10000_last", "10,000 prefix routes, all requests to the last", many, last, unrouted_path="/none"),
    ]


def _clusters() -> list[Case]:
    many = Topology(routes=MANY_CLUSTERS, clusters=MANY_CLUSTERS, keepalive=16)
    mix = Load(connections=16, paths=spread_paths(TOUCHED_CLUSTERS, MANY_CLUSTERS), rate_connections=16)
    return [
        Case("clusters_1", "1 cluster, the paths of clusters_5000", load=mix),
        Case("clusters_5000_idle", "5,000 clusters after the start, no requests", many, None),
        Case(
            "clusters_5000",
            f"5,000 clusters, requests to {TOUCHED_CLUSTERS} of them, 16 connections",
            many,
            mix,
            unrouted_path="/none",
        ),
    ]


def _mtls() -> list[Case]:
    http1 = Topology(mutual=True)
    http2 = Topology(mutual=True, downstream_http2=True, upstream_http2=True)
    busy = Load(connections=16, streams=8, rate_connections=16, rate_per_connection=100)
    calm = Load(rate_per_connection=50)
    return [
        Case("http1", "GET, HTTP/1.1 by mutual TLS between two listeners, 32 connections", http1, calm, MESH_PEERS),
        Case("http2", "GET, HTTP/2 by mutual TLS between two listeners, 16 connections of 8 streams", http2, busy, MESH_PEERS),
        Case(
            "handshakes",
            "new connections by mutual TLS, P-256, nothing resumed, a GET on each",
            http1,
            None,
            MESH_PEERS,
            handshakes=4,
        ),
    ]


SUITES = {"http1": _http1, "http2": _http2, "tcp": _tcp, "routes": _routes, "clusters": _clusters, "mtls": _mtls}
