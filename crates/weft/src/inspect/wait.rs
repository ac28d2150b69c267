//! `weft wait`: until an edit is live on all the proxies that it concerns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_inspect::wait::{Verdict, verdict};
use weft_model::{Kind, MeshSettings};
use weft_sources::{ObjectState, load_once};

use super::args::WaitArgs;
use super::fetch::{self, escaped};
use crate::{Failure, output};

/// How long the control plane may take for an answer; it reads its files meanwhile.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks, at first and at most.
const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_millis(500);

/// What is waited for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Targets {
    /// As `Kind/namespace/name`.
    objects: BTreeSet<String>,
    files: Vec<PathBuf>,
}

pub(crate) fn run(args: &WaitArgs) -> Result<ExitCode, Failure> {
    let targets = Targets::parse(&args.targets)?;
    fetch::block_on(wait(args, targets))
}

async fn wait(args: &WaitArgs, mut targets: Targets) -> Result<ExitCode, Failure> {
    let deadline = args.timeout.0.map(|time| Instant::now() + time);
    let mut pause = SOON;
    let mut refresh = true;
    loop {
        let page = look(args, &targets, refresh).await?;
        if refresh {
            targets.replace_unread(&page)?;
            if page["refreshed"] != true {
                eprintln!(
                    "note: the control plane could not say that it has read its files since; \
                     what it has read is waited for"
                );
            }
            refresh = false;
            if targets.objects.is_empty() && targets.files.is_empty() {
                return Err("there is nothing to wait for: no object in these files".to_owned());
            }
            // Files that it does not watch are asked for by their objects' names.
            continue;
        }
        let lags = match verdict(&page, args.gone) {
            Verdict::Live(proxies) => {
                output::line(&live(args.gone, proxies));
                return Ok(ExitCode::SUCCESS);
            }
            Verdict::Refused(lines) => {
                for line in lines {
                    eprintln!("{line}");
                }
                return Ok(ExitCode::FAILURE);
            }
            Verdict::Waiting(lags) => lags,
        };
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            eprintln!("not live in time:");
            for line in lags {
                eprintln!("{line}");
            }
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LATER);
    }
}

fn live(gone: bool, proxies: u64) -> String {
    let what = if gone { "gone" } else { "live" };
    match proxies {
        0 => format!("{what}; no connected proxy is concerned"),
        1 => format!("{what} on 1 proxy"),
        _ => format!("{what} on {proxies} proxies"),
    }
}

async fn look(args: &WaitArgs, targets: &Targets, refresh: bool) -> Result<Value, Failure> {
    let objects = targets
        .objects
        .iter()
        .map(|it| format!("object={}", escaped(it)));
    let files = targets.files.iter();
    let files = files.map(|it| format!("file={}", escaped(&it.display().to_string())));
    let refresh = refresh.then(|| "refresh".to_owned());
    let query: Vec<String> = objects.chain(files).chain(refresh).collect();
    let path = format!("/debug/wait?{}", query.join("&"));
    let page = fetch::get(&args.control.control, &path, LIMIT).await?;
    serde_json::from_str(&page).map_err(|error| {
        format!(
            "{}: the answer is no JSON ({error}); is it a Weft control plane?",
            args.control.control
        )
    })
}

impl Targets {
    fn parse(texts: &[String]) -> Result<Self, Failure> {
        let mut targets = Self::default();
        for text in texts {
            let path = Path::new(text);
            if path.is_dir() {
                return Err(format!(
                    "{text} is a directory; give its files, such as {text}/*.yaml"
                ));
            }
            match std::fs::canonicalize(path) {
                Ok(file) => targets.files.push(file),
                Err(error) => {
                    let name =
                        object(text).map_err(|reason| format!("{text}: {error}, and {reason}"))?;
                    targets.objects.insert(name);
                }
            }
        }
        Ok(targets)
    }

    /// Takes files that the control plane does not watch as the objects that are in them.
    fn replace_unread(&mut self, page: &Value) -> Result<(), Failure> {
        let unread = page["unread"].as_array().map_or(&[][..], Vec::as_slice);
        let is_unread = |file: &PathBuf| unread.iter().any(|it| *it == file.display().to_string());
        let (unread, read): (Vec<_>, Vec<_>) = self.files.drain(..).partition(is_unread);
        self.files = read;
        for file in unread {
            let name = file.display().to_string();
            let loaded = load_once(&[file], &MeshSettings::default());
            if let Some(problem) = loaded.problems.first() {
                return Err(format!("{problem}"));
            }
            let used = loaded
                .statuses
                .iter()
                .filter(|s| s.state != ObjectState::Ignored);
            let objects: Vec<String> = used
                .filter_map(|status| status.object.as_ref().map(ToString::to_string))
                .collect();
            eprintln!(
                "note: the control plane does not know this file: {name}; \
                 its {} objects are looked for by name",
                objects.len()
            );
            self.objects.extend(objects);
        }
        Ok(())
    }
}

/// `kind/namespace/name`, or `kind/name` in the namespace `default`; the kind in any case.
fn object(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (kind, namespace, name) = match parts[..] {
        [kind, name] => (kind, "default", name),
        [kind, namespace, name] => (kind, namespace, name),
        _ => return Err("it is no kind/namespace/name".to_owned()),
    };
    if kind.is_empty() || namespace.is_empty() || name.is_empty() {
        return Err("it is no kind/namespace/name".to_owned());
    }
    let known = Kind::ALL.into_iter().map(Kind::as_str);
    let kind = known
        .clone()
        .find(|known| known.eq_ignore_ascii_case(kind))
        .ok_or_else(|| {
            let all: Vec<&str> = known.collect();
            format!("{kind:?} is no kind; give one of {}", all.join(", "))
        })?;
    Ok(format!("{kind}/{namespace}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_in_any_case() {
        assert_eq!(
            object("virtualservice/shop/reviews").as_deref(),
            Ok("VirtualService/shop/reviews")
        );
        assert_eq!(
            object("Gateway/front").as_deref(),
            Ok("Gateway/default/front")
        );
        for wrong in [
            "reviews",
            "Gatway/a/b",
            "Gateway//b",
            "Gateway/a/b/c",
            "a.yaml",
        ] {
            assert!(object(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let error = Targets::parse(&["nowhere.yaml".to_owned()]).expect_err("no such file");
        assert!(error.contains("nowhere.yaml: No such file"), "{error}");
    }
}
