"""What is measured: the cases."""

from dataclasses import dataclass

from ..suites import Load

# Envoy has no filter for Bolt, MOSN none for Thrift.
PEERS_BY_PROTOCOL = {
    "bolt": ("weft", "mosn"),
    "dubbo": ("weft", "envoy", "mosn"),
    "thrift": ("weft", "envoy"),
}
MANY_CONNECTIONS = 10_000


@dataclass(frozen=True)
class RpcCase:
    """One line of the suite. Without `load`, so many connections are opened, one call is made on each,
    and the memory is taken while all are open."""

    name: str
    about: str
    protocol: str
    load: Load | None
    held: int = 0
    handshakes: None = None

    @property
    def peers(self) -> tuple[str, ...]:
        """Those that know the protocol."""
        return PEERS_BY_PROTOCOL[self.protocol]


_ONE = Load(connections=64, streams=1, rate_connections=64, rate_per_connection=75)
_EIGHT = Load(connections=64, streams=8, rate_connections=64, rate_per_connection=75)

CASES = (
    RpcCase("bolt", "Bolt, 64 connections, 1 call at once on each, 100 bytes", "bolt", _ONE),
    RpcCase("bolt_x8", "Bolt, 64 connections, 8 calls at once on each, 100 bytes", "bolt", _EIGHT),
    RpcCase("dubbo", "Dubbo, 64 connections, 1 call at once on each, 100 bytes", "dubbo", _ONE),
    RpcCase("dubbo_x8", "Dubbo, 64 connections, 8 calls at once on each, 100 bytes", "dubbo", _EIGHT),
    RpcCase("thrift", "Thrift, framed binary, 64 connections, 1 call at once on each, 100 bytes", "thrift", _ONE),
    RpcCase("bolt_held", f"Bolt, {MANY_CONNECTIONS:,} connections that have made a call", "bolt", None, MANY_CONNECTIONS),
    RpcCase("dubbo_held", f"Dubbo, {MANY_CONNECTIONS:,} connections that have made a call", "dubbo", None, MANY_CONNECTIONS),
)  # fmt: skip
