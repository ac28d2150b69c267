"""A Thrift server on Apache Thrift's own transports, protocols and processors:
thrift_server.py PORT NAME DIALECT. DIALECT `auto` takes all that the library tells apart, `old` the old
binary protocol in frames."""

import json
import sys
import time

from thrift.protocol.TBinaryProtocol import TBinaryProtocolFactory
from thrift.protocol.THeaderProtocol import THeaderProtocolFactory
from thrift.server.TServer import TThreadedServer
from thrift.Thrift import TApplicationException, TMessageType, TProcessor, TType
from thrift.TMultiplexedProcessor import TMultiplexedProcessor
from thrift.transport import TSocket, TTransport
from thrift.transport.THeaderTransport import THeaderClientType

port, name, dialect = int(sys.argv[1]), sys.argv[2], sys.argv[3]
notes = []


class Cart(TProcessor):
    """string METHOD(1: string item, 2: i32 millis); `fail` throws (1: string message)."""

    def process(self, iprot, oprot):
        method, kind, seqid = iprot.readMessageBegin()
        item, millis = "", 0
        iprot.readStructBegin()
        while True:
            _, ftype, fid = iprot.readFieldBegin()
            if ftype == TType.STOP:
                break
            if fid == 1:
                item = iprot.readString()
            elif fid == 2:
                millis = iprot.readI32()
            else:
                iprot.skip(ftype)
            iprot.readFieldEnd()
        iprot.readStructEnd()
        iprot.readMessageEnd()
        if method == "note":
            notes.append(item)
            return
        result = {
            "where": lambda: name,
            "payload": lambda: item,
            "notes": lambda: str(len(notes)),
            "slow": lambda: time.sleep(millis / 1000) or "slept",
            "tag": lambda: headers(iprot).get(b"tag", b"").decode(),
            "fail": lambda: item,
        }.get(method)
        if result is None:
            oprot.writeMessageBegin(method, TMessageType.EXCEPTION, seqid)
            TApplicationException(TApplicationException.UNKNOWN_METHOD, "no " + method).write(oprot)
        else:
            value = result()
            oprot.writeMessageBegin(method, TMessageType.REPLY, seqid)
            oprot.writeStructBegin("result")
            if method == "fail":
                oprot.writeFieldBegin("e", TType.STRUCT, 1)
                oprot.writeStructBegin("Failed")
                oprot.writeFieldBegin("message", TType.STRING, 1)
                oprot.writeString(value)
                oprot.writeFieldEnd()
                oprot.writeFieldStop()
                oprot.writeStructEnd()
            else:
                oprot.writeFieldBegin("success", TType.STRING, 0)
                oprot.writeString(value)
            oprot.writeFieldEnd()
            oprot.writeFieldStop()
            oprot.writeStructEnd()
        oprot.writeMessageEnd()
        oprot.trans.flush()


def headers(protocol):
    read = getattr(protocol, "get_headers", None)
    return read() if read else {}


processor = TMultiplexedProcessor()
processor.registerDefault(Cart())
processor.registerProcessor("shop.Cart", Cart())
listener = TSocket.TServerSocket("127.0.0.1", port)
if dialect == "old":
    transports = TTransport.TFramedTransportFactory()
    protocols = TBinaryProtocolFactory(strictRead=False, strictWrite=False)
else:
    transports = TTransport.TBufferedTransportFactory()
    protocols = THeaderProtocolFactory(
        allowed_client_types=(
            THeaderClientType.HEADERS,
            THeaderClientType.FRAMED_BINARY,
            THeaderClientType.UNFRAMED_BINARY,
            THeaderClientType.FRAMED_COMPACT,
            THeaderClientType.UNFRAMED_COMPACT,
        )
    )
server = TThreadedServer(processor, listener, transports, protocols, daemon=True)
listen = listener.listen


def ready():
    listen()
    print(json.dumps({"ready": True}), flush=True)


listener.listen = ready
server.serve()
