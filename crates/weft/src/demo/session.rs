//! One run of the demo: starts the mesh, waits until it serves, leads the load and the walk
//! through it, and stays until it is told to end. Must never print: the view does.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use super::bootstrap;
use super::child::Family;
use super::client::Client;
use super::load::{self, Load};
use super::news::News;
use super::outcome::Outcome;
use super::plan::{Instance, Plan};
use super::probe::{connects, ready};
use super::rules::RulesFolder;
use super::steps::{REST, Step, StepReport, WALK};
use super::tally::Record;
use super::view::{Frame, View};
use super::walk::{self, Watch};
use crate::cli::DemoArgs;

/// Longest start of a process, for a build without optimisation on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(30);
/// When `--once` stops asking for more samples, counted from the very start.
const SAMPLE_WITHIN: Duration = Duration::from_secs(50);
/// When `--once` gives up altogether.
const ONCE_WITHIN: Duration = Duration::from_secs(58);
/// Over which time the view averages.
const SPAN: Duration = Duration::from_secs(3);
const DRAW_EVERY: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Session<'a> {
    args: &'a DemoArgs,
    root: &'a Path,
    family: &'a mut Family,
    plan: Plan,
    folder: RulesFolder,
    view: View,
    news: News,
    began: Instant,
    drawn: Instant,
}

impl<'a> Session<'a> {
    /// Chooses the places and writes all files; nothing runs yet.
    ///
    /// # Errors
    /// No free ports, or the file system refuses.
    pub(crate) fn new(
        args: &'a DemoArgs,
        root: &'a Path,
        family: &'a mut Family,
    ) -> Result<Self, String> {
        let plan = Plan::choose(args.port)?;
        let folder = RulesFolder::create(root, &plan)?;
        walk::write(&folder, &WALK[0])?;
        let url = format!("http://{}/productpage", plan.gateway);
        let view = View::new(
            args.plain,
            args.json,
            url.clone(),
            folder.watched().to_owned(),
        );
        let mut session = Self {
            args,
            root,
            family,
            news: News::follow(plan.monitoring),
            plan,
            folder,
            view,
            began: Instant::now(),
            drawn: Instant::now(),
        };
        let watched = session.folder.watched().display().to_string();
        session.view.event(&format!("the page will be at {url}"));
        session.view.event(&format!(
            "the rules are in {watched}: edit them while the demo runs"
        ));
        Ok(session)
    }

    /// Runs to the end of `--once`, or for ever.
    pub(crate) async fn run(&mut self) -> Outcome {
        let mut outcome = Outcome {
            steps: Vec::new(),
            requests: 0,
            errors: 0,
            errors_outside_fault: 0,
            seconds: 0.0,
            gateway: self.plan.gateway,
            problems: Vec::new(),
        };
        let (began, once) = (self.began, self.args.once);
        let walk = self.walk(&mut outcome);
        let result = if once {
            tokio::time::timeout_at((began + ONCE_WITHIN).into(), walk)
                .await
                .unwrap_or_else(|_| {
                    Err(format!(
                        "the walk was not over within {} s",
                        ONCE_WITHIN.as_secs()
                    ))
                })
        } else {
            walk.await
        };
        if let Err(error) = result {
            outcome.problems.push(error);
        }
        outcome.seconds = began.elapsed().as_secs_f64();
        outcome
    }

    async fn walk(&mut self, outcome: &mut Outcome) -> Result<(), String> {
        self.start().await?;
        let rate = (!self.args.once).then_some(self.args.rps);
        let mut load = Load::start(self.plan.gateway, rate);
        let loaded = Instant::now();
        let mut expected_errors = 0;
        for (number, step) in WALK.iter().enumerate() {
            let watch = self.watch(number, &load, loaded.elapsed());
            self.view.event(&format!(
                "step {} of {}: {}",
                number + 1,
                WALK.len(),
                step.title
            ));
            let before = load.record.borrow().total.errors;
            let taken = self.take(step, number, &load, watch).await;
            let failed = load.record.borrow().total.errors - before;
            // While a fault comes and while retries come to hide it, failures are the point.
            let expected = step.fault_percent.is_some();
            let step_errors = taken.as_ref().map_or(failed, |report| report.errors);
            if step.may_fail() {
                expected_errors += failed;
            } else if expected {
                expected_errors += failed - step_errors.min(failed);
            }
            count(outcome, &load, expected_errors);
            match taken {
                Ok(report) => {
                    self.view.event(&report.line());
                    outcome.problems.extend(report.problems.iter().cloned());
                    outcome.steps.push(report);
                }
                Err(_) if !self.args.once && self.folder.edited_by_hand().is_some() => break,
                Err(error) if self.args.once => return Err(error),
                // Somebody has killed something, perhaps: that is what the demo is for.
                Err(error) => self.view.event(&error),
            }
        }
        if self.args.once {
            load.stop();
            count(outcome, &load, expected_errors);
            if outcome.errors_outside_fault > 0 {
                let last = load
                    .record
                    .borrow()
                    .last_failure
                    .clone()
                    .unwrap_or_default();
                outcome.problems.push(format!(
                    "{} requests failed outside the fault step (last failure: {last})",
                    outcome.errors_outside_fault
                ));
            }
            return Ok(());
        }
        self.stay(&load).await
    }

    /// How long the step of this number is watched: with `--once` as long as it takes, except
    /// that the later ones need their time, too, at the rate seen so far.
    fn watch(&self, number: usize, load: &Load, loaded: Duration) -> Watch {
        if !self.args.once {
            return Watch::For(Duration::from_secs(self.args.step_time));
        }
        let later: u64 = WALK
            .iter()
            .skip(number + 1)
            .map(|step| step.min_samples)
            .sum();
        let requests = load.record.borrow().total.requests;
        let reserved = if requests == 0 {
            Duration::ZERO
        } else {
            loaded
                .mul_f64(later as f64 / requests as f64)
                .min(SAMPLE_WITHIN)
        };
        Watch::Convincing {
            until: self.began + (SAMPLE_WITHIN.saturating_sub(reserved)),
        }
    }

    async fn take(
        &mut self,
        step: &Step,
        number: usize,
        load: &Load,
        watch: Watch,
    ) -> Result<StepReport, String> {
        let title = format!("step {} of {}: {}", number + 1, WALK.len(), step.title);
        let Self {
            args,
            family,
            view,
            news,
            folder,
            drawn,
            ..
        } = self;
        let mut look = |step: &Step| {
            if args.once {
                if let Some(casualty) = family.casualty() {
                    return Err(casualty);
                }
            } else {
                family.revive().iter().for_each(|event| view.event(event));
                if let Some((name, _)) = folder.edited_by_hand() {
                    return Err(format!("{name} was edited"));
                }
            }
            show(view, family, news, Some(load), &title, step.split.0, drawn);
            Ok(())
        };
        walk::take(step, folder, load, watch, &mut look).await
    }

    /// After the walk: until somebody ends the demo.
    async fn stay(&mut self, load: &Load) -> Result<(), String> {
        let mut title = format!("{}: edit a file", REST.title);
        if let Some((name, _)) = self.folder.edited_by_hand() {
            self.view.event(&format!(
                "you have changed {name}: the walk ends, the mesh is yours"
            ));
        } else {
            walk::write(&self.folder, &REST)?;
            self.view.event(&format!(
                "{}: change a weight in 30-reviews.yaml",
                REST.title
            ));
        }
        let mut edited = self.folder.edited_by_hand();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for event in self.family.revive() {
                self.view.event(&event);
            }
            let now = self.folder.edited_by_hand();
            if now != edited {
                edited = now;
                let what = edited.as_ref().map_or("it back", |(name, _)| name);
                title = format!("{}: you have changed {what}", REST.title);
                self.view.event(&title);
            }
            let Self {
                family,
                view,
                news,
                drawn,
                ..
            } = self;
            show(view, family, news, Some(load), &title, &[], drawn);
        }
    }

    /// Starts every process and waits until the page is served through all of them.
    async fn start(&mut self) -> Result<(), String> {
        let folder = self.folder.watched().display().to_string();
        let plan = self.plan.clone();
        let control = [
            "control",
            "--config-dir",
            &folder,
            "--grpc-addr",
            &plan.grpc.to_string(),
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(["--monitoring-addr".to_owned(), plan.monitoring.to_string()]);
        self.family.start("control", control.collect())?;
        self.until(
            || connects(plan.grpc),
            "control",
            "it does not take connections",
        )
        .await?;
        self.view.event(&format!(
            "the control plane runs; its pages: http://{}/",
            plan.monitoring
        ));
        for instance in &plan.instances {
            self.start_instance(instance)?;
        }
        self.start_proxy("gateway", &bootstrap::gateway(&plan))?;
        for instance in &plan.instances {
            let (name, app, admin) = (instance.name(), instance.app(), instance.admin());
            self.until(|| connects(app), &name, "it does not take connections")
                .await?;
            let sidecar = format!("{name}-sidecar");
            self.until(|| ready(admin), &sidecar, "it does not become ready")
                .await?;
        }
        self.until(
            || ready(plan.gateway_admin),
            "gateway",
            "it does not become ready",
        )
        .await?;
        let probe = Client::new(plan.gateway, Duration::from_secs(5));
        let serves = async || {
            let outcome = load::ask(&probe, plan.gateway).await;
            outcome.failure.map_or(Ok(()), Err)
        };
        self.until(serves, "gateway", "it does not serve the page")
            .await?;
        self.news.complete();
        let processes = self.family.members().count();
        let seconds = self.began.elapsed().as_secs_f64();
        self.view.event(&format!(
            "{processes} processes serve the page after {seconds:.1} s"
        ));
        Ok(())
    }

    fn start_instance(&mut self, instance: &Instance) -> Result<(), String> {
        let args = [
            "demo-service",
            "--name",
            instance.service.host(),
            "--service-version",
            instance.version,
            "--listen",
            &instance.app().to_string(),
            "--proxy",
            &instance.http_proxy().to_string(),
        ]
        .map(str::to_owned);
        self.family.start(&instance.name(), args.into())?;
        let sidecar = format!("{}-sidecar", instance.name());
        self.start_proxy(&sidecar, &bootstrap::sidecar(&self.plan, instance))
    }

    fn start_proxy(&mut self, name: &str, bootstrap: &str) -> Result<(), String> {
        let folder = self.root.join("proxies");
        let file = folder.join(format!("{name}.json"));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&file, bootstrap))
            .map_err(|error| format!("writing {}: {error}", file.display()))?;
        let file = file.display().to_string();
        let args = [
            "proxy",
            "-c",
            &file,
            "--concurrency",
            "1",
            "--shutdown-time-s",
            "1",
        ];
        self.family.start(name, args.map(str::to_owned).into())
    }

    /// Waits until `probe` succeeds. `name` is the child that is waited for, `what` what it does
    /// not do if the time runs out.
    async fn until(
        &mut self,
        probe: impl AsyncFn() -> Result<(), String>,
        name: &str,
        what: &str,
    ) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let Err(error) = probe().await else {
                return Ok(());
            };
            if let Some(casualty) = self.family.casualty() {
                return Err(casualty);
            }
            let words = self.family.last_words(name);
            if lost_its_port(&words) {
                return Err(format!(
                    "{name}: a port that was free was taken before it could be used; start the demo again, \
                     or choose the port of the page with --port{words}"
                ));
            }
            if began.elapsed() > START_WITHIN {
                return Err(format!(
                    "{name}: {what} within {START_WITHIN:?}: {error}{words}"
                ));
            }
            let Self {
                family,
                view,
                news,
                drawn,
                ..
            } = self;
            show(
                view,
                family,
                news,
                None,
                &format!("starting: waiting for {name}"),
                &[],
                drawn,
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether a child says that somebody else has the address that it is to listen on: it would wait for
/// that for ever.
fn lost_its_port(words: &str) -> bool {
    words.contains("Address already in use")
}

/// Brings the totals up to date.
fn count(outcome: &mut Outcome, load: &Load, expected_errors: u64) {
    let record = load.record.borrow();
    outcome.requests = record.total.requests;
    outcome.errors = record.total.errors;
    outcome.errors_outside_fault = record.total.errors.saturating_sub(expected_errors);
}

/// Draws, if it is time to.
fn show(
    view: &mut View,
    family: &Family,
    news: &News,
    load: Option<&Load>,
    title: &str,
    wanted: &[(&'static str, u32)],
    drawn: &mut Instant,
) {
    if drawn.elapsed() < DRAW_EVERY {
        return;
    }
    *drawn = Instant::now();
    news.tell(view);
    let none = RefCell::new(Record::new());
    let record = load.map_or(&none, |load| &*load.record).borrow();
    let recent = record.recent(SPAN);
    view.show(&Frame {
        title: title.to_owned(),
        wanted,
        // While the walk wants a split, the split of its step; else what the last edit made.
        split: if wanted.is_empty() {
            &recent
        } else {
            &record.step
        },
        recent: &recent,
        span: SPAN,
        requests: record.total.requests,
        errors: record.total.errors,
        last_failure: record.last_failure.as_deref(),
        pushes: news.pushes.latest(),
        processes: family
            .members()
            .map(|(name, id)| (name.to_owned(), id))
            .collect(),
    });
}
