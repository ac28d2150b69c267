"""A client of its own process: asks the secure port for certificates, over gRPC and TLS.

It needs grpcio, so it runs with the interpreter of the peers' folder. Arguments: `host:port`, folder of
files (`root.pem`, `request.pem`, `key.pem`, `token`), `kept` or `new` connections, number, at once.
Prints JSON: `done`, `failed`, `seconds`, the first `problem`.

The first certificate is asked for with the join token, all others with that certificate. With `new`,
each request has a connection of its own, as agents do it; the server sees a whole handshake.
"""

import json
import sys
import threading
import time
from pathlib import Path

import grpc

_METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
_TIMEOUT_SECONDS = 30
_CONNECTIONS = 4


def _request(pem: bytes) -> bytes:
    """`IstioCertificateRequest` with `csr` (field 1) in protobuf."""
    return b"\x0a" + _varint(len(pem)) + pem


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def _certificates(answer: bytes) -> list[bytes]:
    """`IstioCertificateResponse.cert_chain` (field 1)."""
    found, at = [], 0
    while at < len(answer):
        if answer[at] != 0x0A:
            raise ValueError("the answer has other fields")
        length, shift, at = 0, 0, at + 1
        while True:
            byte, at = answer[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        found.append(answer[at : at + length])
        at += length
    return found


class _Caller:
    """Makes channels, and calls over them."""

    def __init__(self, address: str, folder: Path):
        self._address = address
        self._roots = (folder / "root.pem").read_bytes()
        self._key = (folder / "key.pem").read_bytes()
        self._request = _request((folder / "request.pem").read_bytes())
        token = (folder / "token").read_text().strip()
        credentials = grpc.ssl_channel_credentials(self._roots)
        with self._channel(credentials) as channel:
            answer = self.ask(channel, (("authorization", f"Bearer {token}"),))
        chain = b"".join(_certificates(answer)[:-1])
        self._credentials = grpc.ssl_channel_credentials(self._roots, self._key, chain)

    def _channel(self, credentials: grpc.ChannelCredentials) -> grpc.Channel:
        # Of its own, or channels of one address share a connection.
        options = (("grpc.use_local_subchannel_pool", 1),)
        return grpc.secure_channel(self._address, credentials, options)

    def channel(self) -> grpc.Channel:
        """A connection that shows the certificate."""
        return self._channel(self._credentials)

    def ask(self, channel: grpc.Channel, metadata=None) -> bytes:
        """One certificate."""
        call = channel.unary_unary(_METHOD)
        answer = call(self._request, timeout=_TIMEOUT_SECONDS, metadata=metadata)
        if len(_certificates(answer)) < 2:
            raise ValueError("the answer holds no certificate")
        return answer


def main() -> None:
    """Asks as often as it is told to."""
    address, folder, mode, number, at_once = sys.argv[1:]
    caller = _Caller(address, Path(folder))
    kept = [caller.channel() for _ in range(_CONNECTIONS)] if mode == "kept" else []
    for channel in kept:
        caller.ask(channel)
    left = list(range(int(number)))
    problems: list[str] = []

    def work(worker: int) -> None:
        while True:
            try:
                left.pop()
            except IndexError:
                return
            try:
                if kept:
                    caller.ask(kept[worker % _CONNECTIONS])
                else:
                    with caller.channel() as channel:
                        caller.ask(channel)
            except (grpc.RpcError, ValueError) as problem:
                problems.append(str(problem)[:300])

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(int(at_once))]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - began
    done = int(number) - len(problems)
    print(json.dumps({"done": done, "failed": len(problems), "seconds": seconds, "problem": problems[0] if problems else None}))


if __name__ == "__main__":
    main()
