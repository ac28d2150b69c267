//! A child process of a test: in a group of its own that ends with it, with its output in a file
//! that is shown if the test fails. Must never know which program it is.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Lines of a log that a failure shows.
const LAST_LINES: usize = 40;
/// Characters of a line that a failure shows.
const LINE_LENGTH: usize = 300;

/// A running program; killed with its process group when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Open as long as this process lives: children that watch it end even if this test is
    /// killed. `None` after it was closed.
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output is appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log);
        let file = |opened: std::io::Result<File>| {
            opened.unwrap_or_else(|error| panic!("{}: {error}", log.display()))
        };
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::from(file(open())))
            .stderr(Stdio::from(file(open())))
            .process_group(0)
            .spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("starting {name}: {command:?}: {error}"));
        let stdin = child.stdin.take();
        Self {
            name: name.to_owned(),
            child,
            stdin,
            log: log.to_owned(),
        }
    }

    /// Starts a program that does not watch its standard input, in such a way that it is killed
    /// when this process is gone, however that comes about.
    pub fn start_bound(name: &str, command: &Command, log: &Path) -> Self {
        let script = "exec 3<&0; \"$@\" 3<&- </dev/null & child=$!; \
                      (cat <&3 >/dev/null; kill -9 $child 2>/dev/null) & wait $child";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script, name])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        Self::start(name, shell, log)
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        let told = self.stdin.as_mut().map(|stdin| writeln!(stdin, "{line}"));
        assert!(
            matches!(told, Some(Ok(()))),
            "{} does not listen: {told:?}",
            self.name
        );
    }

    /// All that it has written.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        // It is dead or dying; there is nothing else to learn.
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// It has not ended in time.
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        if let Some(pid) = self.pid() {
            // Gone already is as good.
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                started.elapsed() < timeout,
                "{} did not end on SIGTERM",
                self.name
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.pid() {
            // Gone already is as good.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            eprintln!("--- the end of the output of {}:", self.name);
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                eprintln!("{}", line.chars().take(LINE_LENGTH).collect::<String>());
            }
        }
    }
}
