//! Child processes of this same binary: started with a pipe as standard input that closes when
//! this process dies (they end with it), watched, and ended. Must never know what they do.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How long children get to end by themselves.
const GRACE: Duration = Duration::from_millis(1500);
/// Lines of a child's log that an error shows.
const LAST_LINES: usize = 15;
/// A child that dies more often than this is left alone.
const MAX_RESTARTS: u32 = 20;
/// Time without a child after its death: long enough to see what its absence does.
const RESTART_AFTER: Duration = Duration::from_secs(3);

/// One child: how it is started, and its process if it runs.
pub(crate) struct Member {
    /// `reviews-v2` or `reviews-v2 sidecar`.
    pub(crate) name: String,
    args: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
    died: Option<Instant>,
    restarts: u32,
}

/// All children.
pub(crate) struct Family {
    program: PathBuf,
    logs: PathBuf,
    members: Vec<Member>,
}

impl Family {
    /// No child yet; their logs go to `logs`.
    ///
    /// # Errors
    /// This program's own file is not known, or the folder cannot be made.
    pub(crate) fn new(logs: PathBuf) -> Result<Self, String> {
        let program = std::env::current_exe()
            .map_err(|error| format!("finding this program's own file: {error}"))?;
        std::fs::create_dir_all(&logs)
            .map_err(|error| format!("making {}: {error}", logs.display()))?;
        Ok(Self {
            program,
            logs,
            members: Vec::new(),
        })
    }

    /// Starts a child: this program with `args` and `--until-stdin-closes`.
    ///
    /// # Errors
    /// The system refuses; the text names the child.
    pub(crate) fn start(&mut self, name: &str, args: Vec<String>) -> Result<(), String> {
        let mut member = Member {
            name: name.to_owned(),
            args,
            log: self.logs.join(format!("{}.log", name.replace(' ', "-"))),
            process: None,
            died: None,
            restarts: 0,
        };
        member.spawn(&self.program)?;
        self.members.push(member);
        Ok(())
    }

    /// Name and process id of every child; no id while it is down.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, Option<u32>)> {
        self.members.iter().map(|member| {
            (
                member.name.as_str(),
                member.process.as_ref().and_then(Child::id),
            )
        })
    }

    /// The first child that has ended, as an error with its last words.
    pub(crate) fn casualty(&mut self) -> Option<String> {
        self.members.iter_mut().find_map(|member| {
            let status = member.ended()?;
            Some(format!(
                "{} ended by itself ({status}){}",
                member.name,
                last_words(&member.log)
            ))
        })
    }

    /// Notes who has died and starts again who has been dead for a while. Returns what happened,
    /// a line each.
    pub(crate) fn revive(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        for member in &mut self.members {
            if let Some(status) = member.ended() {
                member.process = None;
                member.died = Some(Instant::now());
                let next = if member.restarts < MAX_RESTARTS {
                    format!("starts again in {} s", RESTART_AFTER.as_secs())
                } else {
                    "died too often and stays down".to_owned()
                };
                events.push(format!("{} is gone ({status}); {next}", member.name));
            }
            let due = member
                .died
                .is_some_and(|died| died.elapsed() >= RESTART_AFTER);
            if due && member.restarts < MAX_RESTARTS {
                member.restarts += 1;
                member.died = None;
                match member.spawn(&self.program) {
                    Ok(()) => events.push(format!("{} runs again", member.name)),
                    Err(error) => events.push(error),
                }
            }
        }
        events
    }

    /// The last lines of a child's log, for an error.
    pub(crate) fn last_words(&self, name: &str) -> String {
        self.members
            .iter()
            .find(|member| member.name == name)
            .map_or_else(String::new, |member| last_words(&member.log))
    }

    /// Ends all children: first by closing their input, then by force. Returns when all are gone.
    pub(crate) async fn end(&mut self) {
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                drop(process.stdin.take());
            }
        }
        let deadline = Instant::now() + GRACE;
        for member in &mut self.members {
            let Some(mut process) = member.process.take() else {
                continue;
            };
            if tokio::time::timeout_at(deadline, process.wait())
                .await
                .is_err()
            {
                // It may have ended in between, which is all that is wanted.
                let _ = process.kill().await;
            }
        }
    }
}

impl Member {
    fn spawn(&mut self, program: &Path) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| format!("opening {}: {error}", self.log.display()))?;
        let out = log
            .try_clone()
            .map_err(|error| format!("opening {}: {error}", self.log.display()))?;
        let process = Command::new(program)
            .args(&self.args)
            .arg("--until-stdin-closes")
            // A backtrace would push the message out of the last lines.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(log))
            // A group of its own: Ctrl-C in the terminal is for the demo, which ends its
            // children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("starting {}: {error}", self.name))?;
        self.process = Some(process);
        Ok(())
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().ok().flatten()
    }
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return "; it logged nothing".to_owned();
    }
    let tail = &lines[lines.len().saturating_sub(LAST_LINES)..];
    format!("; the end of its log:\n    {}", tail.join("\n    "))
}
