//! Answers of one connection that its client leaves lying: a part was given to the connection and
//! nothing asked for since. An HTTP/2 client may do so with one stream while it takes others, so
//! each answer has its own time.
//!
//! A frame costs a store: the clock is read by the sweep, a few times a second.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::http::upload::Received;

/// Requests beside an answer that is over its time may still end within this.
const OTHERS: Duration = Duration::from_secs(5);
/// Who takes something more often than this is slow, but alive.
const SLOW: Duration = Duration::from_secs(1);

/// How long an answer may be left lying.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patience {
    /// Longest silence.
    pub(crate) idle: Option<Duration>,
    /// When the stream has to be over.
    pub(crate) deadline: Option<Instant>,
    /// The request's body: while it moves, the stream is not silent.
    pub(crate) received: Option<Rc<Received>>,
}

/// Names an answer among those of its connection.
pub(crate) type Key = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The connection has asked for more.
    Asked,
    /// Given since the last sweep.
    Given,
    /// Left lying since then.
    Lying(Instant),
    /// Over its time since then.
    Over(Instant),
}

#[derive(Debug)]
struct Answer {
    patience: Patience,
    state: State,
    overdue: bool,
}

/// The answers under way of one connection. Places are used again, so that there are never more
/// than there were answers at the same time.
#[derive(Debug, Default)]
pub(super) struct Answers {
    all: Vec<Option<Answer>>,
    free: Vec<Key>,
}

/// What a sweep found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    /// An answer is over its time; others may still be wanted.
    Over,
    /// Nothing else is under way, or has been given its time.
    Hopeless,
}

impl Answers {
    pub(super) fn add(&mut self, patience: Patience) -> Key {
        let answer = Some(Answer {
            patience,
            state: State::Given,
            overdue: false,
        });
        if let Some(key) = self.free.pop()
            && let Some(place) = self.all.get_mut(key)
        {
            *place = answer;
            return key;
        }
        self.all.push(answer);
        self.all.len() - 1
    }

    /// A part was given (`true`), or more asked for. Says whether the stream's time is over.
    pub(super) fn set(&mut self, key: Key, given: bool) -> bool {
        let Some(Some(answer)) = self.all.get_mut(key) else {
            return false;
        };
        answer.state = if given { State::Given } else { State::Asked };
        answer.overdue
    }

    /// The answer is gone. Says whether it was over its time.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let Some(answer) = self.all.get_mut(key).and_then(Option::take) else {
            return false;
        };
        self.free.push(key);
        matches!(answer.state, State::Over(_))
    }

    /// Looks at all of a connection with so many requests in flight.
    pub(super) fn sweep(&mut self, now: Instant, in_flight: u32) -> Verdict {
        let mut over = 0;
        let mut since = now;
        for answer in self.all.iter_mut().flatten() {
            answer.look(now);
            if let State::Over(at) = answer.state {
                over += 1;
                since = since.min(at);
            }
        }
        match over {
            0 => Verdict::Fine,
            _ if over >= in_flight || now.duration_since(since) >= OTHERS => Verdict::Hopeless,
            _ => Verdict::Over,
        }
    }
}

impl Answer {
    fn look(&mut self, now: Instant) {
        let patience = &self.patience;
        self.overdue = patience.deadline.is_some_and(|deadline| now >= deadline);
        match self.state {
            State::Asked | State::Over(_) => {}
            State::Given => self.state = State::Lying(now),
            State::Lying(since) => {
                let received = patience.received.as_ref();
                let moved = received.and_then(|received| received.moved_at.get());
                let moved = moved.map_or(since, |moved| moved.max(since));
                let idle = patience.idle;
                let silent = idle.is_some_and(|idle| now.duration_since(moved) >= idle);
                if silent || (self.overdue && now.duration_since(since) >= SLOW) {
                    self.state = State::Over(now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn idle(seconds: u32) -> Patience {
        Patience {
            idle: Some(SECOND * seconds),
            ..Patience::default()
        }
    }

    #[test]
    fn an_answer_left_lying_is_over_whatever_the_others_do() {
        let mut answers = Answers::default();
        let (lying, taken) = (answers.add(idle(5)), answers.add(idle(5)));
        let mut now = Instant::now();
        for _ in 0..5 {
            assert_eq!(answers.sweep(now, 2), Verdict::Fine);
            now += SECOND;
            answers.set(taken, false);
            answers.set(taken, true);
        }
        answers.sweep(now, 2);
        assert_eq!(answers.sweep(now, 2), Verdict::Over);
        assert_eq!(answers.sweep(now, 1), Verdict::Hopeless);
        assert_eq!(answers.sweep(now + OTHERS, 2), Verdict::Hopeless);
        answers.set(lying, false);
        answers.set(taken, false);
        assert_eq!(answers.sweep(now + OTHERS, 2), Verdict::Fine);
    }

    #[test]
    fn an_upload_that_moves_is_no_silence() {
        let received = Rc::new(Received::default());
        let mut answers = Answers::default();
        answers.add(Patience {
            received: Some(Rc::clone(&received)),
            ..idle(5)
        });
        let now = Instant::now();
        answers.sweep(now, 1);
        received.moved_at.set(Some(now + 4 * SECOND));
        assert_eq!(answers.sweep(now + 8 * SECOND, 1), Verdict::Fine);
        assert_eq!(answers.sweep(now + 9 * SECOND, 1), Verdict::Hopeless);
    }

    #[test]
    fn an_overdue_answer_that_is_taken_ends_by_itself() {
        let now = Instant::now();
        let mut answers = Answers::default();
        let key = answers.add(Patience {
            deadline: Some(now + SECOND),
            ..Patience::default()
        });
        answers.sweep(now, 1);
        assert!(!answers.set(key, false));
        answers.set(key, true);
        assert_eq!(answers.sweep(now + SECOND, 1), Verdict::Fine);
        assert!(answers.set(key, false));
        answers.set(key, true);
        answers.sweep(now + SECOND, 1);
        assert_eq!(answers.sweep(now + 2 * SECOND, 1), Verdict::Hopeless);
        assert!(answers.remove(key));
    }

    #[test]
    fn places_are_used_again() {
        let mut answers = Answers::default();
        let (one, two) = (answers.add(idle(1)), answers.add(idle(1)));
        assert!(!answers.remove(one));
        assert!(!answers.remove(one), "only once");
        assert_eq!(answers.add(idle(1)), one);
        assert_eq!(answers.all.len(), 2);
        assert_ne!(one, two);
    }
}
