"""Calls the target as often as each line of standard input says, and counts the answers.

With `xds` as second argument, xDS says how connections are secured; where it says nothing they are not.
"""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.experimental

AT_ONCE = 8
DEADLINE_S = 30

if sys.argv[2:] == ["xds"]:
    fallback = grpc.experimental.insecure_channel_credentials()
    channel = grpc.secure_channel(sys.argv[1], grpc.xds_channel_credentials(fallback))
else:
    channel = grpc.insecure_channel(sys.argv[1])
version = channel.unary_unary("/weft.test.Echo/Version")


def call(_number):
    try:
        return version(b"", timeout=DEADLINE_S).decode()
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


with ThreadPoolExecutor(AT_ONCE) as pool:
    for line in sys.stdin:
        print(json.dumps(Counter(pool.map(call, range(int(line))))), flush=True)
