//! Asking a stream where it stands. Never changes it.

use tokio::sync::{mpsc, oneshot};

use super::TypeStatus;

/// Inquiries that wait for a stream; those who ask wait.
const INQUIRIES: usize = 4;

pub(super) type Inquiry = oneshot::Sender<Vec<TypeStatus>>;

/// Asks a stream where it stands.
#[derive(Clone, Debug)]
pub struct Standing(mpsc::Sender<Inquiry>);

impl Standing {
    /// Makes the asking and the answering end.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Inquiry>) {
        let (sender, inquiries) = mpsc::channel(INQUIRIES);
        (Self(sender), inquiries)
    }

    /// A stream that is closed already, for tests.
    pub fn closed() -> Self {
        Self::channel().0
    }

    /// Where the stream stands with each type, compared with the view that was published last
    /// before this call; `None` if it has ended.
    pub async fn ask(&self) -> Option<Vec<TypeStatus>> {
        let (sender, answer) = oneshot::channel();
        self.0.send(sender).await.ok()?;
        answer.await.ok()
    }
}
