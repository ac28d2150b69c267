//! Asking a stream where it stands, and telling it to end. Never changes what is sent.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};

use super::TypeStatus;

/// Inquiries that wait for a stream; those who ask wait.
const INQUIRIES: usize = 4;

pub(super) type Inquiry = oneshot::Sender<Vec<TypeStatus>>;

/// What a stream answers and obeys.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) inquiries: mpsc::Receiver<Inquiry>,
    pub(super) end: Arc<Notify>,
}

/// Asks a stream where it stands, or ends it.
#[derive(Clone, Debug)]
pub struct Standing {
    inquiries: mpsc::Sender<Inquiry>,
    end: Arc<Notify>,
}

impl Standing {
    /// Makes both ends.
    pub(super) fn channel() -> (Self, Orders) {
        let (sender, inquiries) = mpsc::channel(INQUIRIES);
        let end = Arc::<Notify>::default();
        let standing = Self {
            inquiries: sender,
            end: Arc::clone(&end),
        };
        (standing, Orders { inquiries, end })
    }

    /// A stream that is closed already, for tests.
    pub fn closed() -> Self {
        Self::channel().0
    }

    /// Where the stream stands with each type, compared with the view that was published last
    /// before this call; `None` if it has ended.
    pub async fn ask(&self) -> Option<Vec<TypeStatus>> {
        let (sender, answer) = oneshot::channel();
        self.inquiries.send(sender).await.ok()?;
        answer.await.ok()
    }

    /// Ends the stream with `UNAUTHENTICATED`: what its caller showed when it began holds no longer.
    pub fn end(&self) {
        self.end.notify_one();
    }
}
