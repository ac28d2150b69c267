//! What a batch did to the objects, in a few lines of the log: what was read, what is gone, what
//! is right again. What is wrong is logged line by line elsewhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use weft_proto::ObjectRef;
use weft_sources::{ObjectState, ObjectStatus, Problem};

/// Objects that one line names.
const NAMED: usize = 20;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct News {
    new: usize,
    pub(super) removed: Vec<ObjectRef>,
    mended: Vec<ObjectRef>,
}

impl News {
    /// An object's status, and the one before it.
    pub(super) fn see(&mut self, before: Option<&ObjectStatus>, now: &ObjectStatus) {
        let Some(object) = &now.object else { return };
        if now.state != ObjectState::Accepted {
            return;
        }
        match before.map(|before| before.state) {
            None => self.new += 1,
            Some(ObjectState::Refused | ObjectState::KeptLastGood) => {
                self.mended.push(object.clone());
            }
            Some(_) => {}
        }
    }

    /// Logs it.
    pub(super) fn tell(&self) {
        if self.new > 0 {
            tracing::info!(objects = self.new, "new configuration");
        }
        if !self.mended.is_empty() {
            tracing::info!(objects = names(&self.mended), "accepted again");
        }
        if !self.removed.is_empty() {
            tracing::info!(objects = names(&self.removed), "no longer configured");
        }
    }
}

/// What is wrong, each once: a part of a file that cannot be read is the problem of each object
/// that may be in it.
pub(super) fn distinct(statuses: &[ObjectStatus]) -> Vec<&Problem> {
    let mut told = BTreeSet::new();
    let problems = statuses.iter().flat_map(|status| &status.problems);
    problems
        .filter(|problem| told.insert(problem.to_string()))
        .collect()
}

fn names(objects: &[ObjectRef]) -> String {
    let first: Vec<String> = objects
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let mut text = first.join(", ");
    if objects.len() > NAMED {
        let _ = write!(text, " and {} more", objects.len() - NAMED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: ObjectState) -> ObjectStatus {
        ObjectStatus {
            source: "a.yaml".into(),
            line: 1,
            place: 0,
            object: Some(object(0)),
            state,
            problems: Vec::new(),
        }
    }

    fn object(number: usize) -> ObjectRef {
        ObjectRef {
            kind: "Gateway".into(),
            namespace: "default".into(),
            name: format!("front-{number}"),
        }
    }

    #[test]
    fn what_is_new_and_what_is_right_again_is_told_apart() {
        let mut news = News::default();
        let accepted = status(ObjectState::Accepted);
        news.see(None, &accepted);
        news.see(Some(&accepted), &accepted);
        news.see(Some(&status(ObjectState::KeptLastGood)), &accepted);
        news.see(None, &status(ObjectState::Refused));
        assert_eq!((news.new, news.mended.len()), (1, 1));
    }

    #[test]
    fn a_half_written_file_is_told_once() {
        let mut store = weft_sources::FileStore::new(weft_model::MeshSettings::default());
        let service =
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
        store.apply("a.yaml", Some(service));
        let torn = store.apply(
            "a.yaml",
            Some("apiVersion: v1\nkind: Service\nmetadata: {name: a"),
        );
        assert!(torn.statuses.len() > 1, "{torn:?}");
        assert_eq!(distinct(&torn.statuses).len(), 1, "{torn:?}");
    }

    #[test]
    fn a_line_names_twenty() {
        let objects: Vec<ObjectRef> = (0..25).map(object).collect();
        let text = names(&objects);
        assert!(text.starts_with("Gateway/default/front-0, "));
        assert!(text.ends_with("front-19 and 5 more"), "{text}");
    }
}
