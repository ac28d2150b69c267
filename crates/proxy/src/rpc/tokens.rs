//! Tokens in attachments: HTTP's own filter, which sees a call as a request with headers. Must never know
//! policies.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use weft_config::call::CallView;
use weft_config::format::Pseudo;
use weft_config::http_filter::{HttpFilterConfig, OverrideLevels};
use weft_config::jwt::{JwtAuthn, RemoteKeySource};
use weft_config::rate_limit::RouteLimits;
use weft_config::{DataSource, HttpFilter, Metadata};
use weft_core::metrics::Scope;
use weft_filters::{
    Connection, CounterGroup, FaultStats, Filter, LimitCounts, LocalReply, RemoteKeys,
    RequestContext, RequestParts, Surroundings, Verdict,
};
use weft_rpc::{Attributes, Codec, Frame, RewriteError};

use crate::prefixes::AllLimits;
use crate::worker::Worker;

/// The filter of a manager in one worker.
#[derive(Debug)]
pub(super) struct TokenFilter {
    filter: Option<Filter>,
    /// Attachments that only this filter may set.
    own: HashSet<HeaderName>,
}

/// What becomes of the attachments of a call.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// Attachments that only the filter may set: these were somebody else's.
    foreign: Vec<HeaderName>,
    /// Tokens that their rule does not let go on.
    tokens: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
}

/// What the filter gets when it is made.
struct Own<'a> {
    worker: &'a Worker,
    prefix: &'a Arc<str>,
}

impl Surroundings for Own<'_> {
    fn faults(&self) -> Arc<FaultStats> {
        let kept = &self.worker.prefixes;
        kept.faults(&self.worker.registry, &self.worker.faults, self.prefix)
    }

    fn remote_keys(&self, source: &Arc<RemoteKeySource>) -> Rc<RemoteKeys> {
        self.worker.keys.get(source).0
    }

    fn limits(&self) -> Arc<dyn LimitCounts> {
        Arc::<AllLimits>::clone(&self.worker.limits)
    }

    /// The configuration has only keys that stand in it.
    fn read(&self, source: &DataSource) -> Option<Bytes> {
        weft_upstream::read(source)
            .ok()
            .map(|text| text.bytes.clone().into())
    }

    fn counters(&self, prefix: &str, names: &'static [&'static str]) -> Arc<CounterGroup> {
        let scope = Scope::rpc(Arc::clone(self.prefix));
        let kept = &self.worker.prefixes;
        kept.counters(&self.worker.registry, self.prefix, scope, (prefix, names))
    }
}

impl TokenFilter {
    pub(super) fn new(config: &Arc<JwtAuthn>, prefix: &Arc<str>, worker: &Worker) -> Self {
        let configured = HttpFilter {
            name: Arc::from("envoy.filters.http.jwt_authn"),
            disabled: false,
            config: HttpFilterConfig::Jwt(Arc::clone(config)),
        };
        let own = config.providers.iter().flat_map(|provider| {
            let claims = provider.claim_to_headers.iter().map(|(name, _)| name);
            claims.chain(&provider.forward_payload_header).cloned()
        });
        Self {
            filter: Filter::build(&configured, &Own { worker, prefix }),
            own: own.collect(),
        }
    }

    /// Looks for tokens; what they say goes to `metadata`.
    ///
    /// # Errors
    /// The answer to a call whose token is not good.
    pub(super) fn check(
        &self,
        call: &Attributes<'_>,
        connection: &Connection,
        metadata: &mut Metadata,
        worker: &Worker,
    ) -> Result<Edits, LocalReply> {
        let Some(filter) = &self.filter else {
            return Ok(Edits::default());
        };
        let refused = |why: &'static str| {
            let details = format!("jwt_authn_access_denied{{{}}}", why.replace(' ', "_"));
            Err(LocalReply::new(StatusCode::UNAUTHORIZED, details).body(why))
        };
        if !self.own.is_empty() && call.attachments().is_none() {
            // Whoever reads them would take them for the filter's.
            return refused("the attachments cannot be read");
        }
        let Some(before) = headers(call) else {
            return refused("there are too many attachments");
        };
        let mut after = before.clone();
        let path = call.pseudo(Pseudo::Path).ok().flatten();
        let path = path.and_then(|path| path.parse().ok());
        let mut path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        // Not that of the call, which could be one that needs no token.
        let mut method = Method::POST;
        let mut context = RequestContext {
            head: RequestParts {
                method: &mut method,
                path: &mut path,
                scheme: &mut "rpc",
                headers: &mut after,
            },
            cluster: None,
            routed: true,
            forwarded: true,
            overrides: OverrideLevels::default(),
            route_metadata: None,
            limits: RouteLimits::default(),
            connection,
            remote: connection.peer.ip(),
            metadata,
            body: None,
            calls: worker,
            random: [worker.random(), worker.random()],
            delayed: false,
            reroute: false,
            response: Vec::new(),
            cors: None,
            rpc: None,
        };
        // Its keys are there: there is nothing to wait for.
        let verdict = {
            let mut asking = std::pin::pin!(filter.request(&mut context));
            let mut cx = Context::from_waker(Waker::noop());
            asking.as_mut().poll(&mut cx)
        };
        match verdict {
            // It edits no other headers.
            Poll::Ready(Verdict::Continue | Verdict::Edit(_)) => {
                Ok(self.edits(call, (&before, &after)))
            }
            Poll::Ready(Verdict::Reply(reply)) => Err(reply),
            Poll::Pending => refused("the keys are not there"),
        }
    }

    fn edits(&self, call: &Attributes<'_>, (before, after): (&HeaderMap, &HeaderMap)) -> Edits {
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        let tokens = gone.filter(|name| !self.own.contains(*name));
        // Also such as could not be headers.
        let names = || call.attachments().into_iter().flatten();
        let has = |own: &&HeaderName| {
            let mut names = names();
            names.any(|(name, _)| name.eq_ignore_ascii_case(own.as_str()))
        };
        let said = |name: &HeaderName| Some((name.clone(), after.get(name)?.clone()));
        Edits {
            foreign: self.own.iter().filter(has).cloned().collect(),
            tokens: tokens.cloned().collect(),
            set: self.own.iter().filter_map(said).collect(),
        }
    }
}

impl Edits {
    /// Changes the attachments. Whether tokens could be taken out.
    ///
    /// # Errors
    /// What others say in the filter's name cannot be taken out, or what it says not be set.
    pub(super) fn apply(&self, codec: &dyn Codec, frame: &mut Frame) -> Result<bool, RewriteError> {
        let names = |list: &[HeaderName]| list.iter().map(HeaderName::to_string).collect();
        let names: [Vec<String>; 2] = [names(&self.foreign), names(&self.tokens)];
        let [foreign, tokens] = names.each_ref().map(|list| list.iter().map(|name| &**name));
        let foreign: Vec<&str> = foreign.collect();
        if !foreign.is_empty() {
            codec.remove_attachments(frame, &foreign)?;
        }
        let set = self.set.iter();
        let set = set.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let set: Vec<(&str, &str)> = set.collect();
        if !set.is_empty() {
            codec.set_attachments(frame, &set)?;
        }
        let tokens: Vec<&str> = tokens.collect();
        Ok(tokens.is_empty() || codec.remove_attachments(frame, &tokens).is_ok())
    }
}

/// The attachments that could be headers; `None`: there are more than a request could have.
fn headers(call: &Attributes<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in call.attachments().into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.try_append(name, value).ok()?;
        }
    }
    Some(headers)
}
