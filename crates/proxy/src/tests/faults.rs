//! Injected faults are counted, and bounded for all workers together.

use super::proxy::{Client, PATIENCE, Proxy, manager};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn faults(limit: u32) -> String {
    format!(
        "{{name: envoy.filters.http.fault, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, \
         max_active_faults: {limit}, \
         delay: {{fixed_delay: 2s, percentage: {{numerator: 100}}}}, \
         abort: {{http_status: 418, percentage: {{numerator: 100}}}}}}}},"
    )
}

/// A filter that holds every request for so long.
pub(super) fn delay(time: &str) -> String {
    format!(
        "{{name: envoy.filters.http.fault, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, \
         delay: {{fixed_delay: {time}, percentage: {{numerator: 100}}}}}}}},"
    )
}

#[tokio::test]
async fn faults_are_counted_and_bounded_over_all_workers() {
    let route = "{match: {prefix: /}, direct_response: {status: 204}}";
    let filter = manager("", &faults(2), route);
    let proxy = Proxy::start_workers(&filter, &[], PATIENCE, 4).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(proxy.address).await;
        client.send(REQUEST).await;
        clients.push(client);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(proxy.stat("http.tested.fault.active_faults").await, 2);
    let mut aborted = 0;
    for client in &mut clients {
        let head = client.until("\r\n\r\n").await;
        aborted += u64::from(head.starts_with("HTTP/1.1 418"));
    }
    assert_eq!(aborted, 2);
    for (name, wanted) in [
        ("aborts_injected", 2),
        ("delays_injected", 2),
        // The delay and the abort of each of the others.
        ("faults_overflow", 36),
        ("active_faults", 0),
    ] {
        let name = format!("http.tested.fault.{name}");
        assert_eq!(proxy.stat(&name).await, wanted, "{name}");
    }
}
