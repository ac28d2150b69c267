"""A client of its own process: new TLS connections with a certificate, one request on each.

h2load shows no certificate. Arguments: port, authority, certificate, key, number, threads. Prints
JSON: `done`, `failed`, `seconds`, and the first `problem`. No session is resumed: each handshake is
a whole one, and the answer shows that the server has taken the client's certificate.
"""

import json
import socket
import ssl
import sys
import threading
import time

_REQUEST = b"GET /hello HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"
_TIMEOUT_SECONDS = 10


def _connect(context: ssl.SSLContext, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain) as secure:
            secure.sendall(_REQUEST)
            answer = secure.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"answered {answer[:40]!r}")
            while secure.recv(4096):
                pass


def main() -> None:
    """Connects as often as asked for."""
    port, authority, certificate, key, number, threads = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    # Names are SPIFFE IDs; the proxies check them.
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    left = list(range(int(number)))
    problems: list[str] = []

    def work() -> None:
        while True:
            try:
                left.pop()
            except IndexError:
                return
            try:
                _connect(context, int(port))
            except OSError as problem:
                problems.append(f"{type(problem).__name__}: {problem}")

    workers = [threading.Thread(target=work) for _ in range(int(threads))]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - began
    failed = len(problems)
    done = int(number) - failed
    print(json.dumps({"done": done, "failed": failed, "seconds": seconds, "problem": problems[0] if problems else None}))


if __name__ == "__main__":
    main()
