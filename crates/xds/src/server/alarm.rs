//! A timer for deadlines that mostly move away before they come: it is set anew only for an earlier one, and may so
//! ring too soon. Never knows what it rings for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::Sleep;

/// A future that is ready once for each ring, and pending while nothing is set.
#[derive(Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    rings: Option<Instant>,
}

impl Alarm {
    /// Sees to it that it rings at this time or before.
    pub(super) fn rings_by(&mut self, deadline: Instant) {
        if self.rings.is_some_and(|rings| rings <= deadline) {
            return;
        }
        self.rings = Some(deadline);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline.into()),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline.into()))),
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.rings.is_none() {
            return Poll::Pending;
        }
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(context));
        }
        self.rings = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn waits(alarm: &mut Alarm) -> Duration {
        let began = tokio::time::Instant::now();
        let rung = tokio::time::timeout(Duration::from_secs(100), alarm).await;
        rung.map_or(Duration::MAX, |()| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_by_the_earliest_deadline_and_once() {
        let mut alarm = Alarm::default();
        assert_eq!(waits(&mut alarm).await, Duration::MAX, "nothing is set");
        let seconds = |s| tokio::time::Instant::now().into_std() + Duration::from_secs(s);
        alarm.rings_by(seconds(5));
        alarm.rings_by(seconds(3));
        alarm.rings_by(seconds(9));
        assert_eq!(waits(&mut alarm).await.as_secs(), 3);
        assert_eq!(
            waits(&mut alarm).await,
            Duration::MAX,
            "the later one is asked for anew"
        );
        alarm.rings_by(seconds(2));
        assert_eq!(waits(&mut alarm).await.as_secs(), 2);
    }
}
