//! The time from an event to the ACK is measured where it ends: at the ACK.

mod plane;

use std::time::Duration;

use plane::{PATIENCE, Running, SERVICE, SIDECAR, Sotw, get, start, write};
use weft_xds::TypeUrl;

/// How long the proxy takes to answer.
const SLOW: Duration = Duration::from_millis(300);

/// Count and sum of a histogram.
async fn histogram(plane: &Running, name: &str) -> (u64, f64) {
    let page = get(plane, "/metrics").await;
    let value = |end: &str| {
        let start = format!("{name}_{end} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.and_then(|value| value.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (value("count") as u64, value("sum"))
}

async fn counted(plane: &Running, wanted: u64) -> f64 {
    let mut seen = (0, 0.0);
    for _ in 0..250 {
        seen = histogram(plane, "pilot_proxy_convergence_time").await;
        if seen.0 >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seen.0, wanted);
    seen.1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn convergence_ends_with_the_ack() {
    let plane = start(&[("mesh.yaml", SERVICE)]).await;
    let types = [TypeUrl::CLUSTER, TypeUrl::LISTENER];
    let mut proxy = Sotw::connect(&plane, SIDECAR, &types).await;
    for _ in &types {
        proxy.next(PATIENCE, None).await.expect("the first answers");
    }
    tokio::time::sleep(SLOW).await;
    let none = histogram(&plane, "pilot_proxy_convergence_time").await;
    assert_eq!(none.0, 0, "what a proxy gets when it comes is no event");

    let two = SERVICE.replace(
        "ports: [",
        "ports: [{number: 81, name: http-81, protocol: HTTP}, ",
    );
    write(plane.directory.path(), "mesh.yaml", &two);
    tokio::time::sleep(SLOW).await;
    for _ in &types {
        proxy.next(PATIENCE, None).await.expect("both types");
    }
    let first = counted(&plane, 1).await;
    assert!((0.3..5.0).contains(&first), "{first}");
    let debounce = histogram(&plane, "pilot_debounce_time").await;
    assert_eq!(debounce.0, 1);
    assert!(debounce.1 < first);

    plane.drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_never_converges() {
    let plane = start(&[("mesh.yaml", SERVICE)]).await;
    let mut proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
    proxy.next(PATIENCE, None).await.expect("the first answer");
    let two = SERVICE.replace(
        "ports: [",
        "ports: [{number: 82, name: http-82, protocol: HTTP}, ",
    );
    write(plane.directory.path(), "mesh.yaml", &two);
    let refusal = "Error adding cluster outbound|82||reviews.shop.svc.cluster.local: no";
    proxy.next(PATIENCE, Some(refusal)).await.expect("the edit");
    for _ in 0..3 {
        proxy.next(SLOW, None).await;
    }
    // What is accepted afterwards counts from its own event on.
    write(plane.directory.path(), "mesh.yaml", SERVICE);
    for _ in 0..3 {
        proxy.next(SLOW, None).await;
    }
    let sum = counted(&plane, 1).await;
    assert!(sum < 0.8, "{sum}");
    let page = get(&plane, "/metrics").await;
    for line in [
        "pilot_inbound_updates{type=\"svc\"} 3",
        "pilot_xds{version=\"\"} 1",
        "pilot_proxy_convergence_time_bucket{le=\"+Inf\"} 1",
    ] {
        assert!(page.contains(line), "{line:?} in {page}");
    }
    assert!(
        page.contains("weft_xds_convergence_time_count{type=\"cds\"} 1"),
        "{page}"
    );
    plane.drain.finish().await;
}
