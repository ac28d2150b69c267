//! What the control plane has to say while the demo runs: its pushes and its complaints. Must
//! never be needed for the walk.

use std::net::SocketAddr;

use super::complaints::Complaints;
use super::pushes::Pushes;
use super::view::View;

/// Both, followed in the background until it is dropped.
pub(crate) struct News {
    pub(crate) pushes: Pushes,
    complaints: Complaints,
}

impl News {
    /// Begins to ask the pages at this address. Needs a `LocalSet`.
    pub(crate) fn follow(monitoring: SocketAddr) -> Self {
        Self {
            pushes: Pushes::follow(monitoring),
            complaints: Complaints::follow(monitoring),
        }
    }

    /// From now on all that the mesh needs is there.
    pub(crate) fn complete(&self) {
        self.complaints.complete();
    }

    /// Gives the view what it was not told yet.
    pub(crate) fn tell(&self, view: &mut View) {
        view.pushed(&self.pushes.news());
        for complaint in self.complaints.news() {
            view.event(&complaint);
        }
    }
}
