"""Asks a SPIFFE Workload API with the public client `spiffe`, as each line of standard input says.

Arguments: the socket, and the number of a user to become, if it is not the one who started it.
"""

import importlib
import json
import os
import queue
import sys

import grpc
from cryptography import x509 as x509_certificates
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from spiffe import JwtSvid, WorkloadApiClient
from spiffe._proto import workload_pb2, workload_pb2_grpc
from spiffe.spiffe_id.spiffe_id import TrustDomain

TIMEOUT_S = 15
socket = f"unix://{sys.argv[1]}"
# What is loaded later, another user may not be able to read.
for part in ("grpc._channel", "grpc._interceptor", "cryptography.hazmat.backends.openssl.backend"):
    importlib.import_module(part)
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
client = WorkloadApiClient(socket, default_timeout=TIMEOUT_S)
domain = TrustDomain("cluster.local")
updates = queue.Queue()


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def shown(svid):
    """An X.509-SVID whose key must sign what its certificate checks."""
    signature = svid.private_key.sign(b"proof", ec.ECDSA(hashes.SHA256()))
    svid.leaf.public_key().verify(signature, b"proof", ec.ECDSA(hashes.SHA256()))
    return {
        "id": str(svid.spiffe_id),
        "serial": str(svid.leaf.serial_number),
        "chain": [pem(one) for one in svid.cert_chain],
    }


def roots(bundles):
    found = {}
    for bundle in bundles.bundles:
        found[str(bundle.trust_domain)] = [pem(one) for one in bundle.x509_authorities]
    return found


def x509():
    return {**shown(client.fetch_x509_svid()), "roots": roots(client.fetch_x509_bundles())}


def follow():
    """From now on the stream's updates are kept for `next`."""
    client.stream_x509_contexts(
        lambda context: updates.put(shown(context.default_svid)),
        lambda error: updates.put({"error": str(error)}),
    )
    return following()


def following():
    return updates.get(timeout=30)


def jwt(*audience):
    svid = client.fetch_jwt_svid(set(audience))
    bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(domain)
    checked = JwtSvid.parse_and_validate(svid.token, bundle, set(audience))
    return {"id": str(checked.spiffe_id), "token": svid.token, "expiry": checked.expiry}


def validate(audience, token):
    return {"id": str(client.validate_jwt_svid(token, audience).spiffe_id)}


def bare():
    """A call without the header that the standard asks for."""
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        request = workload_pb2.JWTSVIDRequest(audience=["a"])
        stub.FetchJWTSVID(request, timeout=TIMEOUT_S)
    return {}


def lists():
    """Serial numbers that the lists of revoked certificates hold; the client has no call for them."""
    header = (("workload.spiffe.io", "true"),)
    found = {}
    with grpc.insecure_channel(socket) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        for name, request in (
            ("svid", stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), timeout=TIMEOUT_S, metadata=header)),
            ("bundles", stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), timeout=TIMEOUT_S, metadata=header)),
        ):
            lists = [x509_certificates.load_der_x509_crl(one) for one in next(request).crl]
            found[name] = [f"{entry.serial_number:x}" for one in lists for entry in one]
            request.cancel()
    return found


COMMANDS = {
    "lists": lists,
    "x509": x509,
    "follow": follow,
    "next": following,
    "jwt": jwt,
    "validate": validate,
    "bare": bare,
}
for line in sys.stdin:
    name, *arguments = line.split()
    try:
        answer = COMMANDS[name](*arguments)
    except Exception as error:  # pylint: disable=broad-except
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
