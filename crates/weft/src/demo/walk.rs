//! The walk itself: writes the rules of a step, waits until answers follow them, watches, judges.
//! An edit is live when the mesh's answers carry its mark, never when some time has passed. Must
//! never know how the mesh is run.

use std::time::{Duration, Instant};

use super::load::Load;
use super::rules::{RATINGS_FILE, REVIEWS_FILE, RulesFolder, ratings, reviews};
use super::steps::{Step, StepReport};

/// Answers in a row that carry the mark before a step counts as live.
const LIVE_RUN: u32 = 32;
/// Longest time from an edit to its answers.
const LIVE_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a step is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Watch {
    /// Until its counts are convincing, but no longer than to this moment.
    Convincing { until: Instant },
    /// This long.
    For(Duration),
}

/// Called between looks: shows the numbers, and says why to give up, if there is a reason.
pub(crate) type Look<'a> = &'a mut dyn FnMut(&Step) -> Result<(), String>;

/// Writes the rules of a step.
///
/// # Errors
/// The file system refuses.
pub(crate) fn write(folder: &RulesFolder, step: &Step) -> Result<(), String> {
    // Ratings first: the mark of reviews then follows the fault.
    folder.write(RATINGS_FILE, ratings(step.fault_percent))?;
    folder.write(REVIEWS_FILE, reviews(step.split, step.retries, step.name))
}

/// Takes one step.
///
/// # Errors
/// The edit does not reach the traffic, or `look` gave up.
pub(crate) async fn take(
    step: &Step,
    folder: &RulesFolder,
    load: &Load,
    watch: Watch,
    look: Look<'_>,
) -> Result<StepReport, String> {
    load.record.borrow_mut().begin_step();
    let edited = Instant::now();
    write(folder, step)?;
    let live_after = until_live(step, load, edited, look).await?;
    load.record.borrow_mut().begin_step();
    let began = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        look(step)?;
        let over = match watch {
            Watch::For(time) => began.elapsed() >= time,
            Watch::Convincing { until } => {
                let late = Instant::now() >= until;
                step.enough(&load.record.borrow().step, began.elapsed(), late)
            }
        };
        if over {
            let few = matches!(watch, Watch::For(_));
            return Ok(step.report(&load.record.borrow().step, live_after, few));
        }
    }
}

/// Waits until answers follow the edit. Returns how long the first of them took.
async fn until_live(
    step: &Step,
    load: &Load,
    edited: Instant,
    look: Look<'_>,
) -> Result<Duration, String> {
    let mut first = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        look(step)?;
        let record = load.record.borrow();
        let run = record.run_of(step.name);
        if run > 0 && first.is_none() {
            first = Some(edited.elapsed());
        }
        let fault_seen = !step.may_fail() || record.step.errors > 0;
        if let Some(first) = first
            && run >= LIVE_RUN
            && fault_seen
        {
            return Ok(first);
        }
        if edited.elapsed() > LIVE_WITHIN {
            let seen = if run == 0 {
                "no answer follows"
            } else {
                "not all answers follow"
            };
            let failure = record.last_failure.as_deref().unwrap_or("none");
            return Err(format!(
                "{}: {seen} the new rules {LIVE_WITHIN:?} after {REVIEWS_FILE} was written \
                 ({} requests since, last failure: {failure})",
                step.name, record.step.requests
            ));
        }
    }
}
