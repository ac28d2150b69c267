//! What people see of the demo: a live picture in a terminal, plain lines anywhere else. Must
//! never decide anything.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::tally::Tally;

/// Events that the live picture remembers.
const MAX_EVENTS: usize = 100;
/// Time between two plain lines of numbers.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Widest picture.
const MAX_WIDTH: usize = 120;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

/// Where output goes and in which form.
enum Form {
    Live,
    /// Lines on standard output, or on standard error if that is for the result alone.
    Lines {
        to_stderr: bool,
        last: Option<Instant>,
    },
}

/// The numbers of one moment.
pub(crate) struct Frame<'a> {
    /// `step 2 of 6: a canary …`
    pub(crate) title: String,
    /// What the split shall be, if the walk says.
    pub(crate) wanted: &'a [(&'static str, u32)],
    /// What the split is made of: the step so far, or the last seconds.
    pub(crate) split: &'a Tally,
    /// The last seconds.
    pub(crate) recent: &'a Tally,
    /// How long "the last seconds" is.
    pub(crate) span: Duration,
    /// Since the load began.
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) last_failure: Option<&'a str>,
    /// What was pushed to whom, the latest last.
    pub(crate) pushes: Vec<String>,
    /// Processes: name and id.
    pub(crate) processes: Vec<(String, Option<u32>)>,
}

/// The view.
pub(crate) struct View {
    form: Form,
    events: Vec<String>,
    url: String,
    folder: PathBuf,
    began: Instant,
}

impl View {
    /// A live picture if standard output is a terminal and nothing speaks against it.
    pub(crate) fn new(plain: bool, to_stderr: bool, url: String, folder: PathBuf) -> Self {
        let live = !plain && !to_stderr && std::io::stdout().is_terminal();
        let form = if live {
            // The other screen, without a cursor: what was there comes back at the end.
            let _ = write!(std::io::stdout(), "\x1b[?1049h\x1b[?25l");
            Form::Live
        } else {
            Form::Lines {
                to_stderr,
                last: None,
            }
        };
        Self {
            form,
            events: Vec::new(),
            url,
            folder,
            began: Instant::now(),
        }
    }

    /// Something happened.
    pub(crate) fn event(&mut self, text: &str) {
        let at = self.began.elapsed().as_secs_f64();
        let line = format!("{at:6.1}s {text}");
        if let Form::Lines { to_stderr, .. } = self.form {
            write_line(&line, to_stderr);
            return;
        }
        if self.events.len() == MAX_EVENTS {
            self.events.remove(0);
        }
        self.events.push(line);
    }

    /// The control plane pushed something. The live picture has its own place for it.
    pub(crate) fn pushed(&mut self, lines: &[String]) {
        if matches!(self.form, Form::Lines { .. }) {
            for line in lines {
                self.event(&format!("pushed {line}"));
            }
        }
    }

    /// New numbers.
    pub(crate) fn show(&mut self, frame: &Frame<'_>) {
        match &mut self.form {
            Form::Live => self.draw(frame),
            Form::Lines { to_stderr, last } => {
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    let at = self.began.elapsed().as_secs_f64();
                    let text = if frame.requests == 0 {
                        frame.title.clone()
                    } else {
                        numbers(frame)
                    };
                    write_line(&format!("{at:6.1}s {text}"), *to_stderr);
                }
            }
        }
    }

    fn draw(&self, frame: &Frame<'_>) {
        let (width, height) = terminal_size::terminal_size().map_or((80, 24), |(width, height)| {
            (usize::from(width.0), usize::from(height.0))
        });
        let lines = self.picture(frame, width.min(MAX_WIDTH), height);
        let mut out = String::from("\x1b[H");
        for line in lines.iter().take(height) {
            out.push_str(&clipped(line, width));
            out.push_str("\x1b[K\r\n");
        }
        // The last line break would scroll a full screen.
        out.truncate(out.trim_end_matches("\r\n").len());
        out.push_str("\x1b[J");
        let mut stdout = std::io::stdout().lock();
        // A terminal that is gone ends the process by SIGHUP.
        let _ = stdout
            .write_all(out.as_bytes())
            .and_then(|()| stdout.flush());
    }

    fn picture(&self, frame: &Frame<'_>, width: usize, height: usize) -> Vec<String> {
        let success = success_percent(frame.recent);
        let colour = if success < 100.0 { RED } else { GREEN };
        let mut lines = vec![
            format!(
                "{BOLD}weft demo{RESET}  a mesh on this machine, open {CYAN}{}{RESET}",
                self.url
            ),
            String::new(),
            format!("{BOLD}{}{RESET}", frame.title),
            String::new(),
            format!(
                "load     {BOLD}{:.0}{RESET} requests/s   success {colour}{success:.2} %{RESET}   \
                 p50 {:.1} ms   p99 {:.1} ms   {DIM}{} in all, {} failed{RESET}",
                rate(frame),
                frame.recent.quantile_ms(0.5),
                frame.recent.quantile_ms(0.99),
                frame.requests,
                frame.errors,
            ),
        ];
        lines.push(match frame.last_failure {
            Some(text) if frame.recent.errors > 0 => format!("{RED}         {text}{RESET}"),
            _ => String::new(),
        });
        lines.extend(bars(frame, width));
        lines.push(String::new());
        let processes = frame.processes.iter().map(|(name, id)| match id {
            Some(id) => format!("{name} {DIM}{id}{RESET}"),
            None => format!("{RED}{name} is down{RESET}"),
        });
        lines.extend(wrapped("running  ", processes.collect(), width));
        lines.push(String::new());
        let tail = [
            String::new(),
            format!(
                "edit     {YELLOW}{}/*.yaml{RESET}, save, and watch",
                self.folder.display()
            ),
            format!(
                "{DIM}         kill a process by its number to see it missed; Ctrl-C ends all{RESET}"
            ),
        ];
        // Pushes and events share what is left of the screen.
        let left = height.saturating_sub(lines.len() + tail.len() + 1);
        let pushes = frame.pushes.len().min(left / 2);
        push_tail(&mut lines, "pushed   ", &frame.pushes, pushes);
        push_tail(&mut lines, "events   ", &self.events, left - pushes);
        lines.extend(tail);
        lines
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if matches!(self.form, Form::Live) {
            let mut stdout = std::io::stdout();
            let _ = write!(stdout, "\x1b[?25h\x1b[?1049l").and_then(|()| stdout.flush());
            // The other screen is gone with what it said.
            for event in self.events.iter().rev().take(20).rev() {
                crate::output::line(event);
            }
        }
    }
}

/// One line of numbers.
fn numbers(frame: &Frame<'_>) -> String {
    let mut line = format!(
        "{:.0} requests/s, success {:.2} %, p50 {:.1} ms, p99 {:.1} ms, reviews",
        rate(frame),
        success_percent(frame.recent),
        frame.recent.quantile_ms(0.5),
        frame.recent.quantile_ms(0.99),
    );
    for (version, share) in frame.split.shares() {
        let _ = write!(line, " {version} {share:.1} %");
    }
    line
}

fn rate(frame: &Frame<'_>) -> f64 {
    frame.recent.requests as f64 / frame.span.as_secs_f64().max(0.001)
}

fn success_percent(tally: &Tally) -> f64 {
    match tally.requests {
        0 => 100.0,
        requests => 100.0 * (requests - tally.errors) as f64 / requests as f64,
    }
}

/// A bar for each version of reviews.
fn bars(frame: &Frame<'_>, width: usize) -> Vec<String> {
    let shares = frame.split.shares();
    let room = width.saturating_sub(38).clamp(10, 60);
    let mut names: Vec<&str> = vec!["v1", "v2", "v3"];
    names.extend(
        shares
            .keys()
            .map(String::as_str)
            .filter(|name| !["v1", "v2", "v3"].contains(name)),
    );
    let bar = |(index, name): (usize, &str)| {
        let share = shares.get(name).copied().unwrap_or(0.0);
        let full = (share / 100.0 * room as f64).round() as usize;
        let wanted = frame.wanted.iter().find(|(version, _)| *version == name);
        let wanted = match wanted {
            Some((_, percent)) => format!("   {DIM}wanted {percent} %{RESET}"),
            None => String::new(),
        };
        format!(
            "{} {name:<4} {GREEN}{}{RESET}{DIM}{}{RESET} {share:5.1} %{wanted}",
            if index == 0 { "reviews " } else { "        " },
            "█".repeat(full),
            "·".repeat(room - full.min(room)),
        )
    };
    names.into_iter().enumerate().map(bar).collect()
}

fn push_tail(lines: &mut Vec<String>, heading: &str, all: &[String], count: usize) {
    for (index, text) in all.iter().rev().take(count).rev().enumerate() {
        let heading = if index == 0 { heading } else { "         " };
        lines.push(format!("{heading}{text}"));
    }
}

/// Words in lines of at most `width`.
fn wrapped(heading: &str, words: Vec<String>, width: usize) -> Vec<String> {
    let indent = " ".repeat(heading.len());
    let mut lines = vec![heading.to_owned()];
    let mut column = heading.len();
    for (index, word) in words.into_iter().enumerate() {
        let length = visible(&word) + 2;
        if index > 0 && column + length > width {
            lines.push(indent.clone());
            column = indent.len();
        }
        column += length;
        if let Some(line) = lines.last_mut() {
            line.push_str(&word);
            line.push_str("  ");
        }
    }
    lines
}

/// Characters that take room; colours do not.
fn visible(text: &str) -> usize {
    clip(text, usize::MAX).1
}

/// The first `width` visible characters.
fn clipped(text: &str, width: usize) -> String {
    clip(text, width).0
}

fn clip(text: &str, width: usize) -> (String, usize) {
    let (mut out, mut count, mut in_escape) = (String::with_capacity(text.len()), 0, false);
    for character in text.chars() {
        if in_escape {
            in_escape = !character.is_ascii_alphabetic();
            out.push(character);
        } else if character == '\x1b' {
            in_escape = true;
            out.push(character);
        } else if count < width {
            count += 1;
            // Foreign text (an error's body) must not steer the terminal.
            out.push(if character.is_control() {
                ' '
            } else {
                character
            });
        }
    }
    (out, count)
}

fn write_line(line: &str, to_stderr: bool) {
    // A reader that has gone is no reason to fail: the walk's result is what counts.
    let _ = if to_stderr {
        writeln!(std::io::stderr(), "{line}")
    } else {
        writeln!(std::io::stdout(), "{line}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_take_no_room() {
        assert_eq!(visible("\x1b[31mred\x1b[0m"), 3);
        assert_eq!(clipped("\x1b[31mred\x1b[0m", 2), "\x1b[31mre\x1b[0m");
    }

    #[test]
    fn the_picture_fits_the_screen() {
        let view = View {
            form: Form::Lines {
                to_stderr: true,
                last: None,
            },
            events: vec!["event".to_owned(); 90],
            url: "http://127.0.0.1:8080".to_owned(),
            folder: PathBuf::from("/tmp/x"),
            began: Instant::now(),
        };
        let frame = Frame {
            title: "title".to_owned(),
            wanted: &[("v1", 100)],
            split: &Tally::default(),
            recent: &Tally::default(),
            span: Duration::from_secs(3),
            requests: 0,
            errors: 0,
            last_failure: None,
            pushes: vec!["push".to_owned(); 90],
            processes: vec![("reviews-v1 sidecar".to_owned(), Some(12_345)); 14],
        };
        for height in [24, 40, 60] {
            let lines = view.picture(&frame, 80, height);
            assert!(lines.len() <= height, "{} lines of {height}", lines.len());
            assert!(lines.last().is_some_and(|line| line.contains("Ctrl-C")));
        }
    }
}
