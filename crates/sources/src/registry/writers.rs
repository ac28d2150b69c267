//! Which files somebody is writing, as far as the system's events tell: one that was closed, moved into place or
//! removed need not be waited for. Never decides how long the others are waited for.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};

/// With more files under way, all count as being written.
const MAX_WRITTEN: usize = 1024;

/// Files under way.
#[derive(Debug, Default)]
pub(super) struct Writers {
    paths: BTreeSet<OsString>,
}

impl Writers {
    /// Takes an event of the system.
    pub(super) fn note(&mut self, event: &notify::Event) {
        let ended = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => true,
            EventKind::Create(_) | EventKind::Modify(_) => false,
            _ => return,
        };
        for path in &event.paths {
            if ended {
                self.paths.remove(path.as_os_str());
            } else if self.paths.len() < MAX_WRITTEN {
                self.paths.insert(path.as_os_str().to_owned());
            }
        }
    }

    /// Forgets everything, as after events were lost: nobody may ever tell of the ends of these.
    pub(super) fn forget(&mut self) {
        self.paths.clear();
    }

    /// Whether one of these may be in the middle of being written.
    pub(super) fn are_at<'a>(&self, mut paths: impl Iterator<Item = &'a OsStr>) -> bool {
        self.paths.len() >= MAX_WRITTEN || paths.any(|path| self.paths.contains(path))
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RenameMode};

    use super::*;

    fn event(kind: EventKind, path: &str) -> notify::Event {
        notify::Event::new(kind).add_path(path.into())
    }

    #[test]
    fn writing_begins_with_a_change_and_ends_with_closing_moving_or_removing() {
        let mut writers = Writers::default();
        let at = |writers: &Writers, path: &str| writers.are_at([OsStr::new(path)].into_iter());
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        writers.note(&event(EventKind::Create(CreateKind::File), "a"));
        writers.note(&event(data, "b"));
        assert!(at(&writers, "a") && at(&writers, "b") && !at(&writers, "c"));
        writers.note(&event(closed, "a"));
        writers.note(&event(moved, "b"));
        assert!(!at(&writers, "a") && !at(&writers, "b"));
        writers.note(&event(data, "a"));
        assert!(at(&writers, "a"), "again");
        writers.forget();
        assert!(!at(&writers, "a"));
    }

    #[test]
    fn too_many_are_all() {
        let mut writers = Writers::default();
        for number in 0..=MAX_WRITTEN {
            let kind = EventKind::Create(CreateKind::File);
            writers.note(&event(kind, &number.to_string()));
        }
        assert_eq!(writers.paths.len(), MAX_WRITTEN);
        assert!(writers.are_at([OsStr::new("other")].into_iter()));
    }
}
