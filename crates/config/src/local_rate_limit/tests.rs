//! Buckets, what they are for, and what is refused.

use std::time::Duration;

use pb::extensions::filters::http::local_ratelimit::v3 as limit;

use super::convert::{filter, per_route};
use super::*;
use crate::pass::{Context, Pass};
use crate::pb;
use crate::rate_limit::{Descriptor, Hits};
use crate::testing::yaml;

fn loaded(text: &str, route: bool) -> Result<LocalRateLimit, String> {
    let message: limit::LocalRateLimit = yaml(text);
    let read = if route { per_route } else { filter };
    Pass::run(&Context::default(), "limit".to_owned(), |p| {
        read(p, &message)
    })
    .map(|loaded| loaded.value)
    .map_err(|error| error.to_string())
}

#[test]
fn tokens_come_back_at_their_rate() {
    let bucket = TokenBucket::new(4, 2, Duration::from_secs(10));
    let at = |seconds: f64| bucket.take(Duration::from_secs_f64(100.0 + seconds));
    let burst: Vec<bool> = (0..6).map(|_| at(0.0)).collect();
    assert_eq!(burst, [true, true, true, true, false, false]);
    assert!(!at(4.9), "a token takes 5 s");
    assert!(at(5.1));
    assert!(!at(5.2));
    assert!(at(10.0), "what was left of the time is not lost");
    assert!(!at(14.9));
    let full: Vec<bool> = (0..5).map(|_| at(10_000.0)).collect();
    assert_eq!(full, [true, true, true, true, false], "it is never fuller");
}

#[test]
fn no_token_is_lost_to_rounding() {
    for (max, fill, millis) in [(3, 3, 60_000), (7, 11, 333), (1000, 1000, 86_400_000)] {
        let bucket = TokenBucket::new(max, fill, Duration::from_millis(millis));
        let now = Duration::from_nanos(987_654_321_987_654);
        let taken = (0..max + 5).filter(|_| bucket.take(now)).count();
        assert_eq!(taken, max as usize, "{fill} in {millis} ms");
    }
}

#[test]
fn an_empty_bucket_lets_nobody_through() {
    let bucket = TokenBucket::new(0, 5, Duration::from_secs(1));
    assert!(!bucket.take(Duration::from_secs(5)));
}

#[test]
fn workers_share_the_tokens() {
    let bucket = TokenBucket::new(1000, 1, Duration::from_hours(1));
    let taken: usize = std::thread::scope(|scope| {
        let take = || {
            let now = Duration::from_secs(1);
            (0..600).filter(|_| bucket.take(now)).count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        let taken = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        taken.map(|taken| taken.expect("no panic")).sum()
    });
    assert_eq!(taken, 1000);
}

#[test]
fn defaults_are_envoys() {
    let limit = loaded("{stat_prefix: a}", false).expect("it is read");
    assert!(!limit.limiter.has_default());
    assert_eq!(
        (limit.enabled, limit.enforced),
        (Fraction::NONE, Fraction::NONE)
    );
    assert_eq!(limit.status, 429);
    let status = |code: u16| {
        let text = format!("{{stat_prefix: a, status: {{code: {code}}}}}");
        loaded(&text, false).map(|limit| limit.status.as_u16())
    };
    assert_eq!(status(503), Ok(503));
    assert_eq!(status(200), Ok(429), "no error");
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    const GOOD: &str = "token_bucket: {max_tokens: 1, fill_interval: 1s}";
    for (route, text, wanted) in [
        (true, "stat_prefix: a", "limit: token_bucket: is required"),
        (false, GOOD, "stat_prefix: is required"),
        (
            false,
            "stat_prefix: a, token_bucket: {max_tokens: 1}",
            "token_bucket.fill_interval: is required",
        ),
        (
            false,
            "stat_prefix: a, token_bucket: {fill_interval: 0.049s}",
            "token_bucket.fill_interval: must be 50ms",
        ),
        (
            false,
            "stat_prefix: a, token_bucket: {fill_interval: 1s, tokens_per_fill: 0}",
            "token_bucket.tokens_per_fill: must be more",
        ),
        (
            false,
            "stat_prefix: a, status: {}",
            "status.code: is required",
        ),
        (
            false,
            "stat_prefix: a, descriptors: [{entries: [{key: a, value: b}], token_bucket: {max_tokens: 1, fill_interval: 1s}}, {entries: [{key: a, value: b}], token_bucket: {max_tokens: 1, fill_interval: 1s}}]",
            "descriptors[1].entries: are those of another",
        ),
        (
            false,
            "stat_prefix: a, descriptors: [{entries: [{key: a, value: b}]}]",
            "descriptors[0].token_bucket: is required",
        ),
        (
            false,
            "stat_prefix: a, rate_limits: [{stage: 1, actions: [{remote_address: {}}]}]",
            "rate_limits[0].stage: must not be set",
        ),
        (
            false,
            "stat_prefix: a, stage: 11",
            "stage: must be at most 10",
        ),
        (
            false,
            "stat_prefix: a, enable_retry_after_header: true",
            "enable_retry_after_header: is not supported",
        ),
        (
            false,
            "stat_prefix: a, response_headers_to_add: [{header: {key: ':status', value: a}}]",
            "response_headers_to_add[0].header.key: ",
        ),
    ] {
        let error = loaded(&format!("{{{text}}}"), route).expect_err(text);
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
}

const DESCRIPTORS: &str = "{stat_prefix: a, token_bucket: {max_tokens: 100, fill_interval: 3600s}, max_dynamic_descriptors: 2, descriptors: [
    {entries: [{key: k, value: one}], token_bucket: {max_tokens: 1, fill_interval: 3600s}},
    {entries: [{key: k, value: one}, {key: l, value: x}], token_bucket: {max_tokens: 3, fill_interval: 3600s}},
    {entries: [{key: shadow, value: ''}], shadow_mode: true, token_bucket: {max_tokens: 1, fill_interval: 3600s}},
    {entries: [{key: any, value: ''}], token_bucket: {max_tokens: 2, fill_interval: 3600s}}]}";

fn of(entries: &[(&'static str, &'static str)]) -> Descriptor<'static> {
    let entries = entries.iter();
    Descriptor {
        entries: entries
            .map(|(key, value)| (*key, (*value).into()))
            .collect(),
        limit: None,
        hits: None,
        x_headers: None,
    }
}

fn taken(limiter: &Limiter, descriptors: &[Descriptor<'_>], times: usize) -> usize {
    let now = Duration::from_secs(1);
    (0..times)
        .filter(|_| limiter.take(now, descriptors, false).allowed)
        .count()
}

#[test]
fn each_descriptor_has_its_bucket() {
    let limit = loaded(DESCRIPTORS, false).expect("it is read");
    let limiter = &limit.limiter;
    assert_eq!(taken(limiter, &[of(&[("k", "one")])], 3), 1);
    assert_eq!(taken(limiter, &[of(&[("k", "one"), ("l", "x")])], 5), 3);
    assert_eq!(
        taken(limiter, &[of(&[("l", "x"), ("k", "one")])], 5),
        5,
        "order counts"
    );
    assert_eq!(taken(limiter, &[of(&[("shadow", "y")])], 5), 5);
    assert_eq!(taken(limiter, &[of(&[("any", "a")])], 5), 2);
    assert_eq!(taken(limiter, &[of(&[("any", "b")])], 5), 2);
    let both = [of(&[("any", "a")]), of(&[("k", "two")])];
    assert_eq!(taken(limiter, &both, 1), 0, "one that is empty is enough");
}

#[test]
fn values_that_nobody_names_are_bounded_and_the_one_unused_longest_goes() {
    let limit = loaded(DESCRIPTORS, false).expect("it is read");
    let limiter = &limit.limiter;
    let now = Duration::from_secs(1);
    let one = |value: &'static str| limiter.take(now, &[of(&[("any", value)])], false);
    assert!(one("a").allowed && one("b").allowed && one("a").allowed);
    assert!(!one("a").allowed, "a is used up");
    let third = one("c");
    assert!(third.allowed && third.evicted == 1, "b goes");
    assert!(!one("a").allowed, "a is still known");
    assert!(one("b").allowed && one("b").allowed, "b begins anew");
}

#[test]
fn hits_count_and_come_back() {
    let limit = loaded(DESCRIPTORS, false).expect("it is read");
    let limiter = &limit.limiter;
    let hits = |number: u64, negative: bool| {
        let mut descriptor = of(&[("k", "one"), ("l", "x")]);
        let number = Some(number);
        descriptor.hits = Some(Hits { number, negative });
        limiter.take(Duration::from_secs(1), &[descriptor], true)
    };
    assert!(!hits(4, false).allowed, "more than there are");
    let left = hits(2, false).told.map(|told| (told.max, told.remaining));
    assert_eq!(left, Some((3, 1)));
    assert!(!hits(2, false).allowed);
    assert!(hits(1, true).allowed);
    assert!(hits(2, false).allowed);
    let told = hits(1, false).told.expect("it was asked for");
    assert_eq!(
        (told.remaining, told.reset),
        (0, 3600),
        "a token takes an hour"
    );
    assert!(hits(50, true).allowed);
    let full = hits(0, false).told.map(|told| told.remaining);
    assert_eq!(full, Some(3), "it is never fuller");
}

#[test]
fn a_connection_has_buckets_of_its_own() {
    let limit = loaded(DESCRIPTORS, false).expect("it is read");
    let own = limit.limiter.another();
    assert_eq!(taken(&limit.limiter, &[of(&[("k", "one")])], 3), 1);
    assert_eq!(taken(&own, &[of(&[("k", "one")])], 3), 1);
    assert_eq!(taken(&own, &[of(&[("any", "a")])], 3), 2);
}
