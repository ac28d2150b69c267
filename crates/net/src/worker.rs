//! Worker threads: one OS thread a core, each with a single-threaded tokio runtime on which
//! `!Send` tasks run (`tokio::task::spawn_local`). Knows nothing of what the workers do.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};

/// The running worker threads of a process.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads named `weft-worker-N`; each runs `main(N)` to its end on its own
    /// runtime and then drops every task that is left. With `pin`, worker N is bound to the
    /// N-th processor that this process may use.
    ///
    /// # Errors
    /// The operating system refused a thread or a runtime; threads that were already started
    /// end when their `main` ends.
    pub fn spawn<M, F>(count: usize, pin: bool, main: M) -> io::Result<Self>
    where
        M: Fn(usize) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + 'static,
    {
        let main = Arc::new(main);
        let processors = if pin {
            allowed_processors()
        } else {
            Vec::new()
        };
        let mut threads = Vec::with_capacity(count);
        for id in 0..count {
            let main = Arc::clone(&main);
            let processor = processors.get(id % processors.len().max(1)).copied();
            let (ready, started) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new()
                .name(format!("weft-worker-{id}"))
                .spawn(move || {
                    if let Some(processor) = processor {
                        pin_to(processor);
                    }
                    let runtime = Builder::new_current_thread()
                        .enable_all()
                        .build_local(LocalOptions::default());
                    match runtime {
                        Ok(runtime) => {
                            let _ = ready.send(Ok(()));
                            runtime.block_on(main(id));
                        }
                        Err(error) => {
                            let _ = ready.send(Err(error));
                        }
                    }
                })?;
            started
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the worker thread died")))?;
            threads.push(thread);
        }
        Ok(Self { threads })
    }

    /// How many workers were started.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Waits until every worker's `main` has ended. Gives the number of workers that panicked.
    pub fn join(self) -> usize {
        let ends = self.threads.into_iter().map(JoinHandle::join);
        ends.filter(Result::is_err).count()
    }
}

/// How many workers a machine of this size gets: the processors that this process may use.
pub fn default_concurrency() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn allowed_processors() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is plain bits, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `cpu_set_t` of the size that is passed.
    let got = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if got != 0 {
        return Vec::new();
    }
    let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    (0..limit)
        // SAFETY: `cpu` is below CPU_SETSIZE, so it names a bit inside the set.
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}

fn pin_to(processor: usize) {
    // SAFETY: `cpu_set_t` is plain bits, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `processor` came from `allowed_processors`, so it is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the pointer is to a live `cpu_set_t` of the size that is passed; 0 = this thread.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if done != 0 {
        tracing::warn!(processor, error = %io::Error::last_os_error(), "a worker could not be pinned");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_worker_runs_local_tasks_and_ends() {
        let sum = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&sum);
        let workers = Workers::spawn(3, true, move |id| {
            let seen = Arc::clone(&seen);
            async move {
                let local = Rc::new(id + 1);
                let task = tokio::task::spawn_local(async move { *local });
                seen.fetch_add(task.await.unwrap(), Ordering::Relaxed);
            }
        })
        .unwrap();
        assert_eq!(workers.count(), 3);
        assert_eq!(workers.join(), 0);
        assert_eq!(sum.load(Ordering::Relaxed), 6);
    }
}
