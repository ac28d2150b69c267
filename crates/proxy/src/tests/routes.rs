//! Requests whose routes change while they are under way.

use std::net::SocketAddr;
use std::sync::Arc;

use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use weft_proto::bootstrap::read_yaml_message;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;
use weft_xds::server::Event;
use weft_xds::server::grpc::{
    Connection, ConnectionId, Counters, Options, ViewSource, incoming, server_builder, service,
};
use weft_xds::{Resource, ResourceSet, TypeUrl, View};

use super::proxy::{Client, PATIENCE, Proxy, Upstream, manager_with, route_config};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
pub(super) const RDS: &str =
    "rds: {route_config_name: r, config_source: {ads: {}, resource_api_version: V3}}";
/// A filter that asks a service, and for the route again if that has added a header.
const GUARD: &str = "{name: guard, typed_config: {\"@type\": \
    type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, \
    clear_route_cache: true, http_service: {server_uri: \
    {uri: \"http://guard\", cluster: guard, timeout: 10s}, \
    authorization_response: {allowed_upstream_headers: {patterns: [{exact: x-to}]}}}}},";

/// A control plane that has nothing but routes.
pub(super) struct Routes(watch::Sender<View>);

impl ViewSource for Routes {
    fn connect(&self, _: &Connection) -> Result<watch::Receiver<View>, Status> {
        Ok(self.0.subscribe())
    }
    fn event(&self, _: ConnectionId, _: &Event) {}
    fn closed(&self, _: ConnectionId) {}
}

/// Routes by which everything is answered with these words.
fn answering(words: &str) -> View {
    let route = format!(
        "{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {words}}}}}}}"
    );
    view_of(&route)
}

/// These routes of one virtual host for all domains, under the name `r`.
pub(super) fn view_of(routes: &str) -> View {
    let text = route_config(routes);
    let name = RouteConfiguration::full_name();
    let message: RouteConfiguration = read_yaml_message("r", &text, &name).unwrap();
    let resource = Resource::new(&TypeUrl::ROUTE, "r", message.encode_to_vec());
    View::new([ResourceSet::new(TypeUrl::ROUTE, [resource])])
}

/// A request that the service has been asked about: its client, and the service's connection.
async fn asked(proxy: &Proxy, guard: &Upstream) -> (Client, Client) {
    let mut client = Client::connect(proxy.address).await;
    client.send(REQUEST).await;
    let mut check = guard.accept().await;
    check.until("\r\n\r\n").await;
    (client, check)
}

/// The answer after the service has agreed.
async fn agreed((mut client, mut check): (Client, Client)) -> String {
    check
        .send("HTTP/1.1 200 OK\r\nx-to: there\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .await;
    let answer = client.rest().await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    body.to_owned()
}

/// A control plane that has a view, and where it listens.
pub(super) async fn control_plane(view: View) -> (Arc<Routes>, SocketAddr, JoinHandle<()>) {
    let routes = Arc::new(Routes(watch::Sender::new(view)));
    let counters = Arc::<Counters>::default();
    let ads = service(
        Arc::clone(&routes),
        Options::default(),
        Arc::clone(&counters),
    );
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server_builder(Options::default().max_connection_age);
    let server = server.serve_with_incoming(ads, incoming(listener, 10, counters));
    (
        routes,
        address,
        tokio::spawn(async move { drop(server.await) }),
    )
}

#[tokio::test]
async fn a_request_that_is_routed_again_keeps_its_route_configuration() {
    let (routes, address, server) = control_plane(answering("old")).await;
    let (guard, guard_address) = Upstream::start().await;
    let clusters = [("ads_http2", address), ("guard", guard_address)];
    let proxy = Proxy::start(&manager_with(RDS, GUARD), &clusters).await;

    let before = asked(&proxy, &guard).await;
    routes.0.send_replace(answering("new"));
    let changed = async { while agreed(asked(&proxy, &guard).await).await != "new" {} };
    let changed = tokio::time::timeout(PATIENCE, changed).await;
    changed.expect("the new routes come into force");
    assert_eq!(agreed(before).await, "old");
    server.abort();
}
