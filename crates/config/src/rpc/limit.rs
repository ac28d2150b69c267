//! `aeraki.meta_protocol.filters.local_ratelimit`: how many calls in how much time, by what they are. Knows
//! no clock: callers bring the time.
//!
//! Source: Aeraki, `aeraki.meta_protocol_proxy.filters.local_ratelimit.v1alpha`.

use std::sync::Arc;
use std::time::Duration;

use weft_proto::aeraki::meta_protocol_proxy as aeraki;
use weft_rpc::Attributes;

use super::AttributeMatch;
use super::convert::route_match;
use crate::local_rate_limit::{TokenBucket, bucket};
use crate::pass::Pass;
use aeraki::filters::local_ratelimit::v1alpha as limit;

/// Conditions of one filter; each is looked at for every call.
const MAX_CONDITIONS: usize = 1000;

/// A limit of calls. Its buckets are one for all workers.
#[derive(Debug)]
pub struct RpcLimit {
    /// Middle part of the names of its statistics.
    pub stat_prefix: Arc<str>,
    /// The first whose matches all hold gives the bucket.
    conditions: Vec<(Vec<AttributeMatch>, TokenBucket)>,
    /// For all other calls; `None`: they have no limit.
    rest: Option<TokenBucket>,
}

impl RpcLimit {
    /// Takes a token for a call at a time since any fixed moment, if there is one.
    pub fn admits(&self, call: &Attributes<'_>, now: Duration) -> bool {
        let holds = |matches: &[AttributeMatch]| matches.iter().all(|one| one.matches(call));
        let special = self.conditions.iter().find(|(matches, _)| holds(matches));
        let bucket = special.map(|(_, bucket)| bucket).or(self.rest.as_ref());
        bucket.is_none_or(|bucket| bucket.take(now))
    }
}

pub(super) fn read(p: &mut Pass<'_>, message: &limit::LocalRateLimit) -> Option<RpcLimit> {
    let limit::LocalRateLimit {
        stat_prefix,
        token_bucket,
        conditions,
    } = message;
    if token_bucket.is_none() && conditions.is_empty() {
        p.refuse("needs token_bucket or conditions");
    }
    if conditions.len() > MAX_CONDITIONS {
        p.refuse_field(
            "conditions",
            format!("has more than {MAX_CONDITIONS} entries"),
        );
    }
    let rest = p.opt("token_bucket", token_bucket.as_ref(), filled);
    let conditions = p.each("conditions", conditions, |p, message| {
        let limit::LocalRateLimitCondition {
            r#match,
            token_bucket,
        } = message;
        let matches = p.required("match", r#match.as_ref(), route_match);
        let bucket = p.required("token_bucket", token_bucket.as_ref(), filled);
        Some((matches?, bucket?))
    });
    Some(RpcLimit {
        stat_prefix: p.name("stat_prefix", stat_prefix)?,
        conditions,
        rest,
    })
}

fn filled(p: &mut Pass<'_>, message: &crate::pb::typ::TokenBucket) -> Option<TokenBucket> {
    if message.max_tokens == 0 {
        p.refuse_field("max_tokens", "must be more than 0");
    }
    bucket(p, message)
}
