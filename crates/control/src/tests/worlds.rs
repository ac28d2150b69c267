//! YAML of meshes that several tests use.

/// A service of two versions, with a `DestinationRule`, a split and a gateway.
pub(crate) const SHOP: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  addresses: [10.96.0.10]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 9080, name: http, protocol: HTTP}
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}}
  - {address: 10.0.0.2, labels: {version: v2}, locality: eu/west}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews.shop.svc.cluster.local
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool:
      tcp: {maxConnections: 7, connectTimeout: 3s}
      http: {http1MaxPendingRequests: 5}
    outlierDetection: {consecutive5xxErrors: 3, interval: 5s, baseEjectionTime: 15s}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http:
  - name: split
    timeout: 2s
    route:
    - {destination: {host: reviews.shop.svc.cluster.local, subset: v1}, weight: 90}
    - {destination: {host: reviews.shop.svc.cluster.local, subset: v2}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: infra}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
  - port: {number: 8443, name: https, protocol: HTTPS}
    hosts: ["shop.example.com"]
    tls: {mode: SIMPLE, serverCertificate: /certs/tls.crt, privateKey: /certs/tls.key}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front, namespace: shop}
spec:
  hosts: [shop.example.com]
  gateways: [infra/public]
  http:
  - match: [{uri: {prefix: /reviews}, statPrefix: reviews}]
    corsPolicy: {allowOrigins: [{exact: "https://a.com"}, {regex: "https://.*"}], allowMethods: [GET], maxAge: 60s, unmatchedPreflights: IGNORE}
    rewrite: {uri: /}
    fault: {abort: {percentage: {value: 50}, httpStatus: 503}}
    route: [{destination: {host: reviews.shop.svc.cluster.local, port: {number: 9080}}}]
  - redirect: {uri: /reviews, redirectCode: 302}
"#;

/// Kinds of ports: TCP and sniffed with an address, TCP without, DNS, headless, TLS.
pub(crate) const PORTS: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: data}
spec:
  hosts: [db.data.svc.cluster.local]
  addresses: [10.96.0.20]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 5432, name: tcp-db, protocol: TCP}
  - {number: 7000, name: any}
  endpoints: [{address: 10.0.1.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: queue, namespace: data}
spec:
  hosts: [queue.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 5672, name: tcp, protocol: TCP}
  - {number: 443, name: tls, protocol: TLS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: late, namespace: data}
spec:
  hosts: [late.example.com]
  location: MESH_EXTERNAL
  resolution: NONE
  ports:
  - {number: 80, name: tcp, protocol: TCP}
";

/// Balancers and limits that Weft's own proxy has, too.
pub(crate) const BALANCED: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: all, namespace: shop}
spec:
  hosts:
  - ring.shop.svc.cluster.local
  - maglev.shop.svc.cluster.local
  - near.shop.svc.cluster.local
  - shares.shop.svc.cluster.local
  location: MESH_INTERNAL
  resolution: STATIC
  addresses: [10.96.8.1]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: grpc, protocol: GRPC}
  - {number: 90, name: tls, protocol: TLS}
  endpoints:
  - {address: 10.8.0.1, locality: eu/eu-1/a, labels: {version: v1}}
  - {address: 10.8.0.2, locality: us/us-1, labels: {version: v2}, weight: 3}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bytes, namespace: shop}
spec:
  hosts: [ring.stock.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  addresses: [10.96.8.2]
  ports: [{number: 90, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.8.0.3}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ring, namespace: shop}
spec:
  host: ring.shop.svc.cluster.local
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: ':authority'}}
    retryBudget: {percent: 25}
    connectionPool:
      tcp: {idleTimeout: 60s, maxConnectionDuration: 600s}
      http: {http2KeepAlive: {interval: 30s, timeout: 5s}}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, path: /}}}}
  - name: v2
    labels: {version: v2}
    trafficPolicy: {loadBalancer: {consistentHash: {httpQueryParameterName: q, ringHash: {}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: maglev, namespace: shop}
spec:
  host: maglev.shop.svc.cluster.local
  trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 251}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: near, namespace: shop}
spec:
  host: near.shop.svc.cluster.local
  trafficPolicy:
    outlierDetection: {interval: 5s}
    loadBalancer:
      simple: ROUND_ROBIN
      warmup: {duration: 30s, aggression: 1.5}
      localityLbSetting: {failover: [{from: eu, to: us}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shares, namespace: shop}
spec:
  host: shares.shop.svc.cluster.local
  trafficPolicy:
    loadBalancer:
      warmupDurationSecs: 30s
      localityLbSetting: {distribute: [{from: '*', to: {eu: 100}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ring, namespace: shop}
spec:
  hosts: [ring.shop.svc.cluster.local]
  http:
  - match: [{uri: {prefix: /v2}}]
    route: [{destination: {host: ring.shop.svc.cluster.local, subset: v2}}]
  - route:
    - {destination: {host: ring.shop.svc.cluster.local, subset: v1}, weight: 50}
    - {destination: {host: maglev.shop.svc.cluster.local}, weight: 50}
";

/// Routes of connections to the services of [`PORTS`].
pub(crate) const STREAMS: &str = r"---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: data}
spec:
  hosts: [db]
  tcp:
  - match: [{destinationSubnets: [10.96.0.0/16, 10.97.0.1]}, {port: 5432, destinationSubnets: [10.98.0.0/16]}]
    route:
    - {destination: {host: db}, weight: 1}
    - {destination: {host: queue.example.com, port: {number: 5672}}, weight: 2}
  - route: [{destination: {host: late.example.com}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: queue, namespace: data}
spec:
  hosts: [queue.example.com]
  tls:
  - match: [{sniHosts: [queue.example.com], destinationSubnets: [10.2.0.0/16]}]
    route: [{destination: {host: db, port: {number: 5432}}}]
  - match: [{sniHosts: [queue.example.com]}]
    route: [{destination: {host: queue.example.com}}]
";
