"""The example's applications: three HTTP servers that say who they are. Standard library only."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

WHO = {"127.91.1.1": "page v1", "127.91.2.1": "reviews v1", "127.91.2.2": "reviews v2"}


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{WHO[self.server.server_address[0]]} {self.path}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


servers = [ThreadingHTTPServer((address, 9080), Answer) for address in WHO]
threads = [Thread(target=server.serve_forever) for server in servers]
for thread in threads:
    thread.start()
print("serving; stop with Ctrl-C", flush=True)
try:
    for thread in threads:
        thread.join()
except KeyboardInterrupt:
    for server in servers:
        server.shutdown()
