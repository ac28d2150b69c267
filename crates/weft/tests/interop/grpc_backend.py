"""Two gRPC servers that answer every call of weft.test.Echo/Version with their version."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc


def serve(version):
    def answer(_request, _context):
        return version.encode()

    handlers = {"Version": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("weft.test.Echo", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


servers = {version: serve(version) for version in ("v1", "v2")}
print(json.dumps({version: port for version, (_, port) in servers.items()}), flush=True)
# Ends with the test.
sys.stdin.read()
