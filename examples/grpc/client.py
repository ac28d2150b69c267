"""Calls the greeter a hundred times and counts who answered. The target's scheme xds: is all that
makes the mesh choose: GRPC_XDS_BOOTSTRAP names the control plane."""

import collections
import sys

import grpc

target = sys.argv[1] if len(sys.argv) > 1 else "xds:///greeter.default.svc.cluster.local:9090"
with grpc.insecure_channel(target) as channel:
    say = channel.unary_unary("/example.Greeter/Say")
    answers = (say(b"you", timeout=10, wait_for_ready=True).decode() for _ in range(100))
    for answer, count in sorted(collections.Counter(answers).items()):
        print(f"{count:3} × {answer}")
