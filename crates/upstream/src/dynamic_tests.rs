//! Caches of names, in simulated time.

use std::io;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::dns::Answer;
use weft_config::cluster::DnsLookupFamily;

/// Knows one name, or none.
struct Book {
    asked: AtomicUsize,
    known: Mutex<Option<std::net::IpAddr>>,
}

impl Resolve for Book {
    fn resolve(&self, _name: &str) -> Answer {
        self.asked.fetch_add(1, Relaxed);
        let known = *self.known.lock();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            known
                .map(|ip| vec![ip])
                .ok_or_else(|| io::Error::other("no such name"))
        })
    }
}

fn cache(change: impl FnOnce(&mut Config)) -> (Arc<NameCache>, Arc<Book>) {
    let mut config = Config {
        name: "c".into(),
        family: DnsLookupFamily::V4Only,
        refresh: Duration::from_mins(1),
        failure_refresh: Some((Duration::from_secs(1), Duration::from_secs(1))),
        ttl: Duration::from_mins(5),
        max_hosts: 2,
        max_pending: 2,
        timeout: Duration::from_secs(5),
    };
    change(&mut config);
    let book = Arc::new(Book {
        asked: AtomicUsize::new(0),
        known: Mutex::new("10.0.0.1".parse().ok()),
    });
    let runtime = tokio::runtime::Handle::current();
    let resolver = Arc::clone(&book) as Arc<dyn Resolve>;
    let cache = NameCache::new(&Arc::new(config), resolver, runtime, &Registry::default());
    (cache, book)
}

fn called(text: &str) -> Called {
    Called::parse(text, 80).expect("an authority")
}

#[test]
fn authorities_become_keys() {
    for (text, key, name) in [
        ("A.test", "a.test:80", "a.test"),
        ("a.test:8080", "a.test:8080", "a.test"),
        ("[fd00::1]", "[fd00::1]:80", "fd00::1"),
        ("[fd00::1]:8080", "[fd00::1]:8080", "fd00::1"),
        ("fd00::1", "[fd00::1]:80", "fd00::1"),
        ("10.0.0.1", "10.0.0.1:80", "10.0.0.1"),
    ] {
        let called = called(text);
        assert_eq!((&*called.key, called.name()), (key, name), "{text}");
    }
    let long = "a".repeat(254);
    for none in [
        "",
        ":80",
        "a.test:",
        "a.test:x",
        "a.test:0",
        "a.test:65536",
        "[]:1",
        &long,
    ] {
        assert_eq!(Called::parse(none, 80), None, "{none}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_once_and_again_while_it_is_used() {
    let (cache, book) = cache(|_| ());
    let a = called("a.test");
    let (first, second) = tokio::join!(cache.resolve(&a), cache.resolve(&a));
    assert_eq!((first, second), (Ok(()), Ok(())));
    assert_eq!(book.asked.load(Relaxed), 1);
    let entry = cache.known(&a).expect("known");
    assert_eq!(entry.address(), "10.0.0.1:80".parse().ok());
    *book.known.lock() = "10.0.0.2".parse().ok();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(book.asked.load(Relaxed), 2);
    assert_eq!(entry.address(), "10.0.0.2:80".parse().ok());
    // The last address stays while look-ups fail.
    *book.known.lock() = None;
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(entry.address(), "10.0.0.2:80".parse().ok());
    assert!(cache.stats.counts.dns_query_failure.get() > 0);
    assert_eq!(cache.resolve(&a).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_name_without_an_address_fails_until_it_has_one() {
    let (cache, book) = cache(|_| ());
    *book.known.lock() = None;
    let a = called("a.test");
    let failure = Err(NameFailure::NotResolved("no_such_name".into()));
    assert_eq!(cache.resolve(&a).await, failure);
    let asked = book.asked.load(Relaxed);
    assert_eq!(cache.resolve(&a).await, failure, "as it was a moment ago");
    assert_eq!(book.asked.load(Relaxed), asked);
    *book.known.lock() = "10.0.0.1".parse().ok();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cache.resolve(&a).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn addresses_of_another_family_are_none() {
    let (cache, book) = cache(|config| config.family = DnsLookupFamily::V6Only);
    let failure = Err(NameFailure::NotResolved("no_records".into()));
    assert_eq!(cache.resolve(&called("a.test")).await, failure);
    assert_eq!(book.asked.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn bounds_hold() {
    let (cache, book) = cache(|_| ());
    let names = ["a.test", "b.test", "c.test"].map(called);
    assert_eq!(cache.resolve(&names[0]).await, Ok(()));
    assert_eq!(cache.resolve(&names[1]).await, Ok(()));
    assert_eq!(cache.resolve(&names[2]).await, Err(NameFailure::Overflow));
    assert_eq!(cache.stats.counts.host_overflow.get(), 1);
    assert_eq!(cache.stats.counts.num_hosts.get(), 2);
    // What nobody asks for makes room.
    tokio::time::sleep(Duration::from_mins(6)).await;
    assert!(cache.known(&names[0]).is_none());
    assert_eq!(cache.stats.counts.num_hosts.get(), 0);
    let (one, two, three) = tokio::join!(
        cache.resolve(&names[2]),
        cache.resolve(&names[2]),
        cache.resolve(&names[2])
    );
    assert_eq!((one, two), (Ok(()), Ok(())));
    assert_eq!(three, Err(NameFailure::PendingOverflow));
    assert_eq!(cache.stats.counts.dns_rq_pending_overflow.get(), 1);
    assert!(book.asked.load(Relaxed) >= 3);
    assert_eq!(cache.resolve(&called("127.0.0.1:7")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_takes_too_long_has_failed() {
    let (cache, _) = cache(|config| config.timeout = Duration::from_millis(1));
    let failure = Err(NameFailure::NotResolved("resolve_timeout".into()));
    assert_eq!(cache.resolve(&called("a.test")).await, failure);
    assert_eq!(cache.stats.counts.dns_query_timeout.get(), 1);
}
