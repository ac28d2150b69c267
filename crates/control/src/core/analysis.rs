//! What is suspicious in the mesh, looked for beside the work: changes are noted when they are
//! applied, and looked at when it is quiet; what was held back is told then, too. Must never hold up what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::HashSet;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use weft_analyze::{Analysis, Depth, Finding};
use weft_core::drain::DrainSignal;
use weft_model::{Labels, MeshSettings, Object, ObjectKey, ObjectRef};
use weft_sources::{Change, ObjectStatus, Problem, Remark};

use super::Core;
use crate::emit::Fault;
use crate::node::ProxyKind;

/// Findings that are kept; the rest are counted.
const MAX_FINDINGS: usize = 1000;
/// Lines of the log for one look; the rest are in `/debug/status`.
const MAX_LINES: usize = 100;
/// Objects that a line of the log names.
const MAX_ORIGINS: usize = 10;
/// How long changes must rest before they are looked at.
const QUIET: Duration = Duration::from_millis(500);
/// The longest that they are waited for to rest.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// After a look, the thread rests so many times as long as the look took.
const REST: u32 = 20;

/// What stays the same about a finding while its text changes.
type Known = BTreeMap<(ObjectRef, String, weft_analyze::Code), Problem>;

/// See the module.
#[derive(Default)]
pub(super) struct Analyst {
    settings: MeshSettings,
    /// Changes that were not looked at yet, the last of each object.
    pending: Mutex<BTreeMap<ObjectKey, Option<Object>>>,
    changed: Notify,
    /// The mesh as it was looked at last.
    objects: Mutex<BTreeMap<ObjectKey, Object>>,
    known: Mutex<Known>,
    /// What was held back at the last look.
    held: Mutex<HashSet<Fault>>,
    /// Findings of the last look, those that are not kept included.
    pub(super) count: AtomicU64,
    /// Looks.
    pub(super) looks: AtomicU64,
}

impl Analyst {
    pub(super) fn new(settings: MeshSettings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Notes changes that are in force.
    pub(super) fn note(&self, changes: &[Change]) {
        let mut pending = self.pending.lock();
        for change in changes {
            pending.insert(change.key.clone(), change.object.clone());
        }
        drop(pending);
        self.changed.notify_one();
    }

    /// Has views looked at that no change made: those of a new kind of proxy.
    pub(super) fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Takes pending changes in and looks at all.
    fn look(&self) -> Analysis {
        let pending = std::mem::take(&mut *self.pending.lock());
        let mut objects = self.objects.lock();
        for (key, object) in pending {
            match object {
                Some(object) => objects.insert(key, object),
                None => objects.remove(&key),
            };
        }
        let all = objects.values();
        weft_analyze::analyze(&self.settings, all, Depth::References, MAX_FINDINGS)
    }
}

fn remark(finding: &Finding) -> Remark {
    Remark {
        object: finding.object.clone(),
        path: finding.path.clone(),
        message: format!("{} ({})", finding.text, finding.code),
    }
}

impl Core {
    /// Looks at the mesh, and tells what is new and what is gone. Reads the files of new findings
    /// again, for their lines.
    pub(crate) fn analyze(&self) {
        let analysis = self.analyst.look();
        let total = analysis.findings.len() + analysis.left_out;
        self.analyst.count.store(total as u64, Ordering::Relaxed);
        let before = std::mem::take(&mut *self.analyst.known.lock());
        let mut now = Known::new();
        let (mut keys, mut remarks) = (Vec::new(), Vec::new());
        for finding in &analysis.findings {
            let key = (finding.object.clone(), finding.path.clone(), finding.code);
            let remark = remark(finding);
            if let Some(problem) = before.get(&key) {
                // Its words may name something else now; it is no news.
                let message = remark.message;
                let problem = Problem {
                    message,
                    ..problem.clone()
                };
                now.insert(key, problem);
            } else {
                keys.push(key);
                remarks.push(remark);
            }
        }
        let mut placed = Vec::new();
        if !remarks.is_empty() {
            placed = weft_sources::place(&self.statuses(), &remarks);
        }
        // What is left out may have been told before; it is not known to be gone.
        let gone = before
            .iter()
            .filter(|(key, _)| analysis.left_out == 0 && !now.contains_key(*key));
        let gone: Vec<Problem> = gone.map(|(_, problem)| problem.clone()).collect();
        tell(&placed, &gone, analysis.left_out);
        now.extend(keys.into_iter().zip(placed));
        *self.analyst.known.lock() = now;
        self.analyst.looks.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells what is held back since the last look, and what no longer is.
    pub(crate) fn tell_faults(&self) {
        let now: HashSet<Fault> = self.faults().into_iter().collect();
        let mut held = self.analyst.held.lock();
        let mut new: Vec<&Fault> = now.difference(&held).collect();
        new.sort_unstable_by(|one, other| one.message.cmp(&other.message));
        for fault in new.iter().take(MAX_LINES) {
            let origins: BTreeSet<String> = fault.origins.iter().map(ToString::to_string).collect();
            let (fault, more) = (&*fault.message, origins.len().saturating_sub(MAX_ORIGINS));
            let origins: Vec<String> = origins.into_iter().take(MAX_ORIGINS).collect();
            tracing::error!(fault, ?origins, more, "held back");
        }
        if let Some(more) = new.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            tracing::error!(more, "held back; see /debug/status");
        }
        let mended = held.difference(&now).count();
        if mended > 0 {
            tracing::info!(mended, left = now.len(), "no longer held back");
        }
        *held = now;
    }

    /// What was found suspicious in the last look, by object as `Kind/namespace/name`. Gateways
    /// that no connected proxy serves are looked for now.
    pub fn warnings(&self) -> BTreeMap<String, Vec<String>> {
        let mut warnings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut add = |problem: &Problem| {
            let object = problem.object.as_ref().map(ToString::to_string);
            let texts = warnings.entry(object.unwrap_or_default()).or_default();
            texts.push(problem.to_string());
        };
        self.analyst.known.lock().values().for_each(&mut add);
        let proxies = self.connected().into_iter();
        let gateways = proxies.filter(|c| c.proxy.kind == ProxyKind::Gateway);
        let labels: Vec<Labels> = gateways
            .map(|c| c.proxy.labels.clone().into_iter().collect())
            .collect();
        let labels: Vec<&Labels> = labels.iter().collect();
        let idle = weft_analyze::idle_gateways(self.analyst.objects.lock().values(), &labels);
        let remarks: Vec<Remark> = idle.iter().take(MAX_FINDINGS).map(remark).collect();
        if !remarks.is_empty() {
            let statuses: Vec<ObjectStatus> = self.statuses();
            weft_sources::place(&statuses, &remarks)
                .iter()
                .for_each(add);
        }
        warnings
    }

    /// Findings of the last look, and how many looks there were.
    pub(crate) fn analysis_counts(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.analyst.count), load(&self.analyst.looks))
    }
}

fn tell(new: &[Problem], gone: &[Problem], left_out: usize) {
    for problem in new.iter().take(MAX_LINES) {
        tracing::warn!(%problem, "suspicious configuration");
    }
    if let Some(more) = new.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
        tracing::warn!(more, left_out, "more is suspicious; see /debug/status");
    }
    let objects = gone.iter().filter_map(|problem| {
        let object = problem.object.as_ref()?;
        Some(format!("{object}: {}", problem.path))
    });
    let objects: BTreeSet<String> = objects.collect();
    for (index, object) in objects.iter().enumerate().take(MAX_LINES + 1) {
        if index < MAX_LINES {
            tracing::info!(object, "no longer suspicious");
        } else {
            tracing::info!(more = objects.len() - MAX_LINES, "no longer suspicious");
        }
    }
}

/// Looks whenever changes have come to rest, until the drain signal comes.
pub(crate) async fn watch(
    core: Arc<Core>,
    drain: DrainSignal,
) -> Result<(), tokio::task::JoinError> {
    loop {
        tokio::select! {
            () = core.analyst.changed.notified() => {}
            () = drain.wait() => return Ok(()),
        }
        tokio::select! {
            () = rest(&core.analyst.changed) => {}
            () = drain.wait() => return Ok(()),
        }
        let looking = Arc::clone(&core);
        let start = Instant::now();
        tokio::task::spawn_blocking(move || {
            looking.tell_faults();
            looking.analyze();
        })
        .await?;
        tokio::select! {
            () = sleep(start.elapsed() * REST) => {}
            () = drain.wait() => return Ok(()),
        }
    }
}

/// Waits until no change comes any more, or for long enough.
async fn rest(changed: &Notify) {
    let latest = Instant::now() + LONGEST_WAIT;
    while Instant::now() < latest && timeout(QUIET, changed.notified()).await.is_ok() {}
}
