//! Which files somebody is writing, as far as the system's events tell: one that was closed, moved into place or
//! removed need not be waited for. Never decides how long the others are waited for.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};

/// With more files under way, all count as being written.
const MAX_WRITTEN: usize = 1024;

/// Files under way.
#[derive(Debug, Default)]
pub(super) struct Writers {
    paths: BTreeSet<OsString>,
}

impl Writers {
    /// Takes an event of the system, as far as it is about `ours`.
    pub(super) fn note(&mut self, event: &notify::Event, ours: impl Fn(&Path) -> bool) {
        let ended = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => true,
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => false,
            _ => return,
        };
        for path in event.paths.iter().filter(|path| ours(path)) {
            if !ended {
                if self.paths.len() < MAX_WRITTEN {
                    self.paths.insert(path.as_os_str().to_owned());
                }
            } else if !self.paths.remove(path.as_os_str()) && !self.paths.is_empty() {
                // A folder, perhaps: nobody tells of the files in it.
                self.paths
                    .retain(|other| !Path::new(other).starts_with(path));
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
    use notify::event::{DataChange, RemoveKind, RenameMode};

    use super::*;

    fn event(kind: EventKind, path: &str) -> notify::Event {
        notify::Event::new(kind).add_path(path.into())
    }

    fn note(writers: &mut Writers, kind: EventKind, path: &str) {
        writers.note(&event(kind, path), |path| path != Path::new("foreign"));
    }

    #[test]
    fn writing_begins_with_a_change_and_ends_with_closing_moving_or_removing() {
        let mut writers = Writers::default();
        let at = |writers: &Writers, path: &str| writers.are_at([OsStr::new(path)].into_iter());
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        note(&mut writers, EventKind::Create(CreateKind::File), "a");
        note(&mut writers, data, "b");
        assert!(at(&writers, "a") && at(&writers, "b") && !at(&writers, "c"));
        note(&mut writers, closed, "a");
        note(&mut writers, moved, "b");
        assert!(!at(&writers, "a") && !at(&writers, "b"));
        note(&mut writers, data, "a");
        assert!(at(&writers, "a"), "again");
        note(&mut writers, data, "foreign");
        assert!(!at(&writers, "foreign"));
        note(&mut writers, data, "folder/c");
        note(
            &mut writers,
            EventKind::Remove(RemoveKind::Folder),
            "folder",
        );
        assert!(!at(&writers, "folder/c"));
        writers.forget();
        assert!(!at(&writers, "a"));
    }

    #[test]
    fn too_many_are_all() {
        let mut writers = Writers::default();
        for number in 0..=MAX_WRITTEN {
            let kind = EventKind::Create(CreateKind::File);
            note(&mut writers, kind, &number.to_string());
        }
        assert_eq!(writers.paths.len(), MAX_WRITTEN);
        assert!(writers.are_at([OsStr::new("other")].into_iter()));
    }
}
