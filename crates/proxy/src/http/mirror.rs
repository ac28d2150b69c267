//! Mirrored requests: sent beside the real one, their answers read and thrown away. The client
//! never waits for a mirror.

use std::rc::Rc;

use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http_body_util::BodyExt;
use weft_config::route::Mirror;
use weft_upstream::{Cluster, PickContext, RequestBody, SendOptions};

use super::admit::Head;
use super::headers::{X_ENVOY_INTERNAL, X_FORWARDED_FOR, append_joined};
use super::router::upstream_request;
use super::upload::MirrorBody;

/// A mirror without a route timeout is given up after this time.
const LONGEST: Duration = Duration::from_mins(5);

/// Sends a copy of `head` and, as it arrives, of the body.
pub(crate) fn send(
    head: &Head,
    body: Option<MirrorBody>,
    configured: &Mirror,
    cluster: Rc<Cluster>,
    timeout: Option<Duration>,
    own_address: &HeaderValue,
) {
    let mut headers = head.headers.clone();
    // The mirror's client is this proxy, as Envoy sees it.
    headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    append_joined(&mut headers, &X_FORWARDED_FOR, b",", own_address);
    if let Some(host) = shadow_host(headers.get(HOST), configured) {
        headers.insert(HOST, host);
    }
    let called = headers.get(HOST).and_then(|host| host.to_str().ok());
    let called = called.and_then(|host| cluster.called(host, None));
    let host = match &called {
        // It may have to be looked up first.
        Some(_) => None,
        None => match cluster.pick(&PickContext::default()) {
            Some(host) => Some(host),
            None => return,
        },
    };
    let body = body.map_or(RequestBody::Empty, RequestBody::boxed);
    let request = upstream_request(head, headers, body);
    let limit = timeout.unwrap_or(LONGEST);
    tokio::task::spawn_local(async move {
        let options = SendOptions::default();
        let exchange = async {
            let host = if let Some(host) = host {
                host
            } else {
                cluster.look_up(called.as_ref()?).await.ok()?;
                let called = called.as_ref();
                cluster.pick(&PickContext {
                    called,
                    ..PickContext::default()
                })?
            };
            let mut response = cluster.send(&host, request, &options).await.ok()?;
            while let Some(Ok(_)) = response.body_mut().frame().await {}
            Some(())
        };
        let _ = tokio::time::timeout(limit, exchange).await;
    });
}

/// Envoy appends `-shadow` to the host, before its port.
fn shadow_host(host: Option<&HeaderValue>, configured: &Mirror) -> Option<HeaderValue> {
    if let Some(host) = &configured.host_rewrite {
        return HeaderValue::from_str(host).ok();
    }
    if configured.keep_host {
        return None;
    }
    let host = host?.to_str().ok()?;
    let shadow = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{name}-shadow:{port}")
        }
        _ => format!("{host}-shadow"),
    };
    HeaderValue::from_str(&shadow).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(keep_host: bool, host_rewrite: Option<&str>) -> Mirror {
        Mirror {
            cluster: std::sync::Arc::from("m"),
            share: weft_config::Fraction::ALL,
            keep_host,
            host_rewrite: host_rewrite.map(std::sync::Arc::from),
        }
    }

    #[test]
    fn the_mirrors_host_is_marked() {
        let host = HeaderValue::from_static("a.example:8080");
        let shadow = |configured: &Mirror| shadow_host(Some(&host), configured);
        assert_eq!(
            shadow(&mirror(false, None)).unwrap(),
            "a.example-shadow:8080"
        );
        assert_eq!(shadow(&mirror(true, None)), None);
        assert_eq!(shadow(&mirror(false, Some("other"))).unwrap(), "other");
    }
}
