//! Statistics by interface and method, so many of them at most: names come from whoever calls.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use ahash::AHashMap;
use weft_core::metrics::{Counter, Histogram, Registry, Scope, StatSet, StatVisitor, Value};
use weft_rpc::Call;

/// Methods of a connection manager that have statistics of their own; all others are counted together.
const MAX_METHODS: usize = 256;
/// A longer name is one of the others.
const MAX_NAME: usize = 128;
/// What stands for an interface and a method that have no statistics of their own, or cannot be read.
const OTHER: &str = "(other)";

/// `meta_protocol.<protocol>.<stat prefix>.method.<interface>|<method>.…` of one worker.
#[derive(Debug)]
pub(super) struct MethodStats {
    /// `method.<interface>|<method>.`
    prefix: Box<str>,
    request: Counter,
    response_success: Counter,
    response_business_exception: Counter,
    response_error: Counter,
    local_response_error: Counter,
    request_time_ms: Histogram,
}

/// How a call with an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Success,
    Exception,
    Error,
}

impl MethodStats {
    fn new(interface: &str, method: &str) -> Self {
        Self {
            prefix: format!("method.{interface}|{method}.").into(),
            request: Counter::default(),
            response_success: Counter::default(),
            response_business_exception: Counter::default(),
            response_error: Counter::default(),
            local_response_error: Counter::default(),
            request_time_ms: Histogram::default(),
        }
    }

    /// Its host has answered after so many milliseconds.
    pub(super) fn answered(&self, ending: Ending, millis: u64) {
        self.request_time_ms.record(millis);
        match ending {
            Ending::Success => self.response_success.inc(),
            Ending::Exception => self.response_business_exception.inc(),
            Ending::Error => self.response_error.inc(),
        }
    }

    /// It was answered here.
    pub(super) fn refused(&self) {
        self.local_response_error.inc();
    }
}

impl StatSet for MethodStats {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        for (name, counter) in [
            ("request", &self.request),
            ("response_success", &self.response_success),
            (
                "response_business_exception",
                &self.response_business_exception,
            ),
            ("response_error", &self.response_error),
            ("local_response_error", &self.local_response_error),
        ] {
            let name = format!("{}{name}", self.prefix);
            visitor.value(&name, Value::Counter(counter.get()));
        }
        let name = format!("{}request_time_ms", self.prefix);
        let times = Value::Histogram(self.request_time_ms.snapshot());
        visitor.value(&name, times);
    }
}

type ByMethod = AHashMap<Box<str>, Arc<MethodStats>>;

/// Those of a stat prefix in one worker.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    /// By interface, then by method.
    by_name: RefCell<AHashMap<Box<str>, ByMethod>>,
    count: Cell<usize>,
    other: RefCell<Option<Arc<MethodStats>>>,
}

impl Methods {
    /// Counts a call, and gives the statistics of its method.
    pub(super) fn count(
        &self,
        call: &Call<'_>,
        registry: &Registry,
        owner: &Arc<str>,
    ) -> Arc<MethodStats> {
        let stats = self.of(call, registry, owner);
        stats.request.inc();
        stats
    }

    /// Counts a call that must not take a place: a method that has none is one of the others.
    pub(super) fn count_known(
        &self,
        call: &Call<'_>,
        registry: &Registry,
        owner: &Arc<str>,
    ) -> Arc<MethodStats> {
        let stats = self.known(call);
        let stats = stats.unwrap_or_else(|| self.other(registry, owner));
        stats.request.inc();
        stats
    }

    fn known(&self, call: &Call<'_>) -> Option<Arc<MethodStats>> {
        let known = self.by_name.borrow();
        let stats = known.get(call.interface?)?.get(call.method?)?;
        Some(Arc::clone(stats))
    }

    fn of(&self, call: &Call<'_>, registry: &Registry, owner: &Arc<str>) -> Arc<MethodStats> {
        if let Some(stats) = self.known(call) {
            return stats;
        }
        let (Some(interface), Some(method)) = (call.interface, call.method) else {
            return self.other(registry, owner);
        };
        let full = self.count.get() >= MAX_METHODS;
        if full || !is_name(interface) || !is_name(method) {
            return self.other(registry, owner);
        }
        let stats = shown(interface, method, registry, owner);
        let mut all = self.by_name.borrow_mut();
        let methods = all.entry(interface.into()).or_default();
        methods.insert(method.into(), Arc::clone(&stats));
        self.count.set(self.count.get() + 1);
        stats
    }

    fn other(&self, registry: &Registry, owner: &Arc<str>) -> Arc<MethodStats> {
        let mut other = self.other.borrow_mut();
        let stats = other.get_or_insert_with(|| shown(OTHER, OTHER, registry, owner));
        Arc::clone(stats)
    }
}

fn shown(interface: &str, method: &str, registry: &Registry, owner: &Arc<str>) -> Arc<MethodStats> {
    let stats = Arc::new(MethodStats::new(interface, method));
    registry.register(Scope::rpc(Arc::clone(owner)), &stats);
    stats
}

/// Whether a text can be a part of a statistic's name.
fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'|';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_kept_out_take_no_place() {
        let (registry, methods) = (Registry::default(), Methods::default());
        let owner = Arc::from("d.p");
        let names: Vec<String> = (0..300).map(|number| format!("m{number}")).collect();
        let of = |method| Call {
            interface: Some("shop.Cart"),
            method: Some(method),
            ..Call::default()
        };
        for name in &names {
            methods.count_known(&of(name), &registry, &owner);
        }
        methods.count(&of("m299"), &registry, &owner);
        methods.count_known(&of("m299"), &registry, &owner);
        let all = registry.collect();
        let [(_, values)] = &all[..] else {
            panic!("{all:?}")
        };
        let request = |name: &str| values.get(&format!("method.{name}.request"));
        let counted = |count| Some(Value::Counter(count));
        assert_eq!(request("shop.Cart|m299").cloned(), counted(2));
        assert_eq!(request("(other)|(other)").cloned(), counted(300));
        assert!(request("shop.Cart|m1").is_none());
    }

    #[test]
    fn so_many_methods_are_told_apart_and_the_rest_is_counted_together() {
        let (registry, methods) = (Registry::default(), Methods::default());
        let owner = Arc::from("d.p");
        let mut names: Vec<String> = (0..300).map(|number| format!("m{number}")).collect();
        names.extend(["a|b".to_owned(), "x".repeat(129), "a b".to_owned()]);
        for name in names.iter().chain(&names) {
            let call = Call {
                interface: Some("shop.Cart"),
                method: Some(name),
                ..Call::default()
            };
            let stats = methods.count(&call, &registry, &owner);
            stats.answered(Ending::Success, 3);
        }
        methods.count(&Call::default(), &registry, &owner).refused();
        let all = registry.collect();
        let [(scope, values)] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!(*scope, Scope::rpc("d.p"));
        let counter = |name: &str| match values.get(name) {
            Some(Value::Counter(count)) => *count,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(counter("method.shop.Cart|m0.request"), 2);
        assert_eq!(counter("method.shop.Cart|m255.response_success"), 2);
        let others = 2 * (300 - 256 + 3);
        assert_eq!(counter("method.(other)|(other).request"), others + 1);
        assert_eq!(counter("method.(other)|(other).local_response_error"), 1);
        let requests = values.keys().filter(|name| name.ends_with(".request"));
        assert_eq!(requests.count(), 257);
    }
}
