"""A Thrift client on Apache Thrift's own transports and protocols, one connection for all calls:
thrift_client.py PORT TRANSPORT PROTOCOL. A JSON command a line, a JSON answer a line."""

import json
import sys

from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.protocol.THeaderProtocol import THeaderProtocol
from thrift.protocol.TMultiplexedProtocol import TMultiplexedProtocol
from thrift.Thrift import TApplicationException, TMessageType, TType
from thrift.transport import TSocket, TTransport
from thrift.transport.THeaderTransport import THeaderClientType

port, transport, protocol = int(sys.argv[1]), sys.argv[2], sys.argv[3]
seqid = 0
connections = 0


def connect():
    global plain, socket, connections
    connections += 1
    socket = TSocket.TSocket("127.0.0.1", port)
    socket.setTimeout(20000)
    if transport == "header":
        kinds = (THeaderClientType.HEADERS,)
        plain = THeaderProtocol(socket, kinds, 2 if protocol == "compact" else 0)
    else:
        wrap = TTransport.TFramedTransport if transport == "framed" else TTransport.TBufferedTransport
        if protocol == "compact":
            plain = TCompactProtocol(wrap(socket))
        else:
            strict = protocol == "strict"
            plain = TBinaryProtocol(wrap(socket), strictRead=strict, strictWrite=strict)
    socket.open()


def send(method, item, millis, service, oneway, number, headers):
    out = TMultiplexedProtocol(plain, service) if service else plain
    for key, value in headers.items():
        plain.set_header(key.encode(), value.encode())
    out.writeMessageBegin(method, TMessageType.ONEWAY if oneway else TMessageType.CALL, number)
    out.writeStructBegin("args")
    out.writeFieldBegin("item", TType.STRING, 1)
    out.writeString(item)
    out.writeFieldEnd()
    out.writeFieldBegin("millis", TType.I32, 2)
    out.writeI32(millis)
    out.writeFieldEnd()
    out.writeFieldStop()
    out.writeStructEnd()
    out.writeMessageEnd()
    plain.trans.flush()


def receive(method, number):
    name, kind, got = plain.readMessageBegin()
    if kind == TMessageType.EXCEPTION:
        error = TApplicationException()
        error.read(plain)
        plain.readMessageEnd()
        return {"refused": error.message, "type": error.type, "method": name, "id": got == number}
    answer = {"method": name, "id": got == number}
    plain.readStructBegin()
    while True:
        _, ftype, fid = plain.readFieldBegin()
        if ftype == TType.STOP:
            break
        if fid == 0:
            answer["value"] = plain.readString()
        else:
            plain.readStructBegin()
            plain.readFieldBegin()
            answer["error"] = plain.readString()
            plain.readFieldEnd()
            plain.readFieldBegin()
            plain.readStructEnd()
        plain.readFieldEnd()
    plain.readStructEnd()
    plain.readMessageEnd()
    if name != method or got != number:
        return {"wrong": [name, got]}
    return answer


def call(command):
    global seqid
    seqid += 1
    oneway = command.get("oneway", False)
    args = (command.get("item", ""), command.get("millis", 0), command.get("service"))
    send(command["method"], *args, oneway, seqid, command.get("headers", {}))
    return {"sent": True} if oneway else receive(command["method"], seqid)


def run(command):
    if command["op"] == "call":
        return call(command)
    if command["op"] == "payload":
        text = "äß" * command["count"]
        answer = call(dict(command, method="payload", item=text))
        return {"same": answer.get("value") == text}
    if command["op"] == "many":
        seen = {}
        for _ in range(command["times"]):
            value = call(command).get("value")
            seen[value] = seen.get(value, 0) + 1
        return {"seen": seen, "connections": connections}
    # Calls of one number, sent before the first is answered, as clients do that never count.
    for item in command["items"]:
        send("payload", item, 0, None, False, 0, {})
    return {"values": [receive("payload", 0).get("value") for _ in command["items"]]}


connect()
for line in sys.stdin:
    try:
        answer = run(json.loads(line))
    except Exception as error:
        answer = {"broken": repr(error)}
        socket.close()
        connect()
    print(json.dumps(answer), flush=True)
