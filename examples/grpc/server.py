"""Two instances of a greeter, v1 and v2, on loopback addresses of their own. Needs grpcio only:
messages are plain bytes, so there is nothing to generate."""

from concurrent.futures import ThreadPoolExecutor

import grpc


def greeter(version, address):
    def say(request, _context):
        return b"hello " + request + b" from " + version.encode()

    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    handler = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("example.Greeter", {"Say": handler})]
    )
    if server.add_insecure_port(address) == 0:
        raise SystemExit(f"{address} is taken")
    server.start()
    return server


servers = [greeter("v1", "127.91.4.1:9090"), greeter("v2", "127.91.4.2:9090")]
print("serving; stop with Ctrl-C", flush=True)
try:
    for server in servers:
        server.wait_for_termination()
except KeyboardInterrupt:
    for server in servers:
        server.stop(None)
