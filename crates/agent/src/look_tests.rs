//! Looks at workloads over loopback.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;
use weft_proto::istio::networking::v1alpha3 as pb;

use super::*;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn probe(method: Method) -> Probe {
    let message = pb::ReadinessProbe {
        period_seconds: 1,
        health_check_method: Some(pb::readiness_probe::HealthCheckMethod::TcpSocket(
            pb::TcpHealthCheckConfig {
                host: String::new(),
                port: 1,
            },
        )),
        ..pb::ReadinessProbe::default()
    };
    Probe {
        method,
        ..Probe::read(message).expect("valid")
    }
}

/// A server that gives each connection this answer, and the request that it saw last.
async fn server(answer: &'static str) -> (u16, watch::Receiver<String>) {
    let listener = TcpListener::bind((LOCAL, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (seen, requests) = watch::channel(String::new());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap_or(0);
            seen.send_replace(String::from_utf8_lossy(&request[..read]).into_owned());
            // Who looked may have left.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, requests)
}

fn get(port: u16) -> Method {
    Method::Http {
        host: None,
        port,
        path: "/ready?x=1".into(),
        tls: false,
        headers: vec![(
            http::HeaderName::from_static("x-probe"),
            http::HeaderValue::from_static("yes"),
        )],
    }
}

#[tokio::test]
async fn statuses_below_400_are_successes() {
    let (port, seen) = server("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n").await;
    look(&probe(get(port)), Some(LOCAL))
        .await
        .expect("a success");
    let request = seen.borrow().clone();
    assert!(
        request.starts_with("GET /ready?x=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains(&format!("host: 127.0.0.1:{port}\r\n")),
        "{request}"
    );
    assert!(request.contains("x-probe: yes\r\n"), "{request}");
    assert!(
        request.contains("user-agent: istio-probe/1.0\r\n"),
        "{request}"
    );
    let (port, _) = server("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    let error = look(&probe(get(port)), Some(LOCAL)).await;
    assert!(error.expect_err("a failure").contains("503"));
    let (port, _) = server("SSH-2.0-x\r\n").await;
    let error = look(&probe(get(port)), Some(LOCAL)).await;
    assert!(error.expect_err("no HTTP").contains("does not speak"));
}

#[tokio::test]
async fn connections_and_commands_count() {
    let (port, _) = server("").await;
    let tcp = |port| Method::Tcp { host: None, port };
    look(&probe(tcp(port)), Some(LOCAL)).await.expect("open");
    let free = TcpListener::bind((LOCAL, 0)).await.expect("a free port");
    let closed = free.local_addr().expect("bound").port();
    drop(free);
    let error = look(&probe(tcp(closed)), Some(LOCAL)).await;
    assert!(error.expect_err("closed").contains(&closed.to_string()));

    let exec = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Method::Exec(words.into())
    };
    look(&probe(exec(&["true"])), None).await.expect("exit 0");
    look(&probe(exec(&["false"])), None)
        .await
        .expect_err("exit 1");
    let error = look(&probe(exec(&["sleep", "30"])), None).await;
    assert!(error.expect_err("too long").contains("within 1s"));

    // What it has started goes with it.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let script = format!("sleep 30 & echo $! > {}; wait", file.display());
    let error = look(&probe(exec(&["sh", "-c", &script])), None).await;
    error.expect_err("too long");
    let pid = std::fs::read_to_string(&file).expect("written");
    let stat = format!("/proc/{}/stat", pid.trim());
    let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    for _ in 0..100 {
        if !runs() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{pid} runs");
}

#[tokio::test]
async fn what_changes_is_told() {
    let (port, _) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let begin = Arc::new(tokio::sync::Notify::new());
    let mut health = start(probe(get(port)), Some(LOCAL), Arc::clone(&begin));
    assert!(health.borrow().is_none(), "the proxy is not ready yet");
    begin.notify_one();
    let told = tokio::time::timeout(Duration::from_secs(10), health.changed()).await;
    told.expect("in time").expect("it goes on");
    assert_eq!(*health.borrow(), Some(WorkloadHealth::Healthy));
}
