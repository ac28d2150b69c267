//! One piece of work after another, or many of them on all cores. Must never know what they are.

use std::num::NonZero;
use std::sync::mpsc;
use std::thread;

/// Fewer pieces of work are sooner done by one thread.
const WORTH_A_THREAD: usize = 32;
/// Results that are handed over together.
const TOGETHER: usize = 32;
/// Those that wait to be taken, by thread: not everything is to be there twice.
const AHEAD: usize = 4;

/// Does `work` on each item and gives the results to `take`, in the order of the items. With many items
/// the results of the first ones are taken while others are worked on.
pub(super) fn each<I: Sync, R: Send>(
    items: &[I],
    work: impl Fn(&I) -> R + Sync,
    mut take: impl FnMut(&I, R),
) {
    let mut threads = items.len() / WORTH_A_THREAD;
    if threads > 1 {
        // To ask the system takes longer than to read a file.
        threads = threads.min(thread::available_parallelism().map_or(1, NonZero::get));
    }
    if threads < 2 {
        for item in items {
            take(item, work(item));
        }
        return;
    }
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                let (sender, results) = mpsc::sync_channel::<Vec<R>>(AHEAD);
                scope.spawn(move || {
                    for some in items.chunks(TOGETHER).skip(first).step_by(threads) {
                        // Nobody takes any more: the other side panics.
                        if sender.send(some.iter().map(work).collect()).is_err() {
                            return;
                        }
                    }
                });
                results
            })
            .collect();
        for (some, results) in items.chunks(TOGETHER).zip(workers.iter().cycle()) {
            // Otherwise that thread has panicked, which the scope does as well.
            let Ok(results) = results.recv() else { return };
            for (item, result) in some.iter().zip(results) {
                take(item, result);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_each_once() {
        for count in [0, 1, 31, 64, 1000, 10_007] {
            let items: Vec<usize> = (0..count).collect();
            let mut taken = Vec::new();
            each(
                &items,
                |item| item * 2,
                |item, twice| taken.push((*item, twice)),
            );
            let expected: Vec<_> = items.iter().map(|item| (*item, item * 2)).collect();
            assert_eq!(taken, expected);
        }
    }

    #[test]
    #[should_panic(expected = "thread panicked")]
    fn a_panic_of_the_work_is_not_lost() {
        let items: Vec<usize> = (0..1000).collect();
        let work = |item: &usize| assert_ne!(*item, 777, "a scoped thread panicked");
        each(&items, work, |_, ()| {});
    }
}
