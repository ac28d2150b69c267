"""The suite `rpc`: calls of Bolt, Dubbo and Thrift through Weft, Envoy and MOSN."""
