//! The same bootstrap in a real Envoy and in Weft: every request of `parity/cases.txt` gets the
//! same answer, looks the same to the upstream and leaves the same line in the access log.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use weft_testkit::{ConfigFolder, one_at_a_time};

mod parity {
    pub(crate) mod cases;
    pub(crate) mod client;
    pub(crate) mod exceptions;
    pub(crate) mod proxies;
    pub(crate) mod upstream;
    pub(crate) mod wire;
}

use parity::cases::{self, Case};
use parity::client::{self, Lines};
use parity::exceptions::EXCEPTIONS;
use parity::proxies::Proxy;

/// Cases under way at a proxy at the same time; more would make times unlike each other.
const TOGETHER: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_and_weft_answer_alike() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let certificate = folder.write_certificate("a.tls.test");
    let only = std::env::var("PARITY_CASE").ok();
    let mut cases = cases::all(include_str!("parity/cases.txt"));
    cases.retain(|case| only.as_ref().is_none_or(|only| case.name.contains(only)));
    let envoy = Proxy::envoy(&folder, &certificate).await;
    let weft = Proxy::weft(&folder, &certificate).await;
    let (of_envoy, of_weft) = tokio::join!(answers(&cases, &envoy), answers(&cases, &weft));
    let mut different = Vec::new();
    let mut used = BTreeSet::new();
    for (case, (envoy, weft)) in cases.iter().zip(of_envoy.iter().zip(&of_weft)) {
        let lines = differences(case, envoy, weft, &mut used);
        if !lines.is_empty() {
            different.push(format!("=== {}\n{}", case.name, lines.join("\n")));
        }
    }
    println!("{} cases, {} exceptions used", cases.len(), used.len());
    let said = weft.output();
    assert!(!said.contains("panicked"), "Weft panicked:\n{said}");
    assert!(
        different.is_empty(),
        "{} of {} cases differ:\n{}",
        different.len(),
        cases.len(),
        different.join("\n\n")
    );
    let stale: Vec<_> = EXCEPTIONS
        .iter()
        .enumerate()
        .filter(|(at, one)| !one.varies && !used.contains(at))
        .collect();
    assert!(
        only.is_some() || stale.is_empty(),
        "exceptions that are needed no more: {stale:?}"
    );
}

/// Everything that is known of each case.
async fn answers(cases: &[Case], proxy: &Proxy) -> Vec<Lines> {
    let places = Arc::new(Semaphore::new(TOGETHER));
    let running: Vec<_> = cases
        .iter()
        .map(|case| {
            let (case, port, places) = (
                case.clone(),
                proxy.ports[&*case.listener],
                Arc::clone(&places),
            );
            tokio::spawn(async move {
                let _place = places.acquire().await.expect("nobody closes it");
                client::run(&case, port).await
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in running {
        let lines = task.await.expect("no client panics");
        all.push(
            lines
                .iter()
                .map(|line| proxy.comparable(line))
                .collect::<Lines>(),
        );
    }
    let logged = proxy
        .access_log(cases.iter().filter(|case| !case.raw).count())
        .await;
    for (case, lines) in cases.iter().zip(&mut all) {
        lines.extend(proxy.seen(case.id));
        if !case.raw {
            let log = logged.get(&case.id).cloned();
            lines.extend(log.unwrap_or_else(|| vec!["log: nothing".to_owned()]));
        }
    }
    all
}

/// Lines that only one of the two has, without those that are known to differ.
fn differences(
    case: &Case,
    envoy: &Lines,
    weft: &Lines,
    used: &mut BTreeSet<usize>,
) -> Vec<String> {
    let mut different = Vec::new();
    let mut collect = |sign: char, these: &Lines, others: &Lines| {
        let mut others = others.clone();
        for line in these {
            if let Some(at) = others.iter().position(|other| other == line) {
                others.remove(at);
                continue;
            }
            match EXCEPTIONS
                .iter()
                .position(|one| one.covers(&case.name, line))
            {
                Some(exception) => {
                    used.insert(exception);
                }
                None => different.push(format!("{sign} {line}")),
            }
        }
    };
    collect('-', envoy, weft);
    collect('+', weft, envoy);
    different
}
