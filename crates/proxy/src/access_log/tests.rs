//! Access-log files: order, bounds, rotation and what is counted.

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn logs() -> (AccessLogs, Arc<Registry>) {
    let registry = Arc::new(Registry::default());
    (AccessLogs::new(Arc::clone(&registry)), registry)
}

fn stat(registry: &Registry, kind: &str, name: &str) -> i64 {
    let all = registry.collect();
    let (_, values) = all.iter().find(|(scope, _)| scope.kind == kind).unwrap();
    match values[name] {
        Value::Counter(n) => i64::try_from(n).unwrap(),
        Value::Gauge(n) => n,
        Value::Histogram(_) => panic!("{name} is a histogram"),
    }
}

#[test]
fn lines_of_all_threads_arrive_whole_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (logs, registry) = logs();
    let file = logs.open(&Target::File(path.clone())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let file = file.clone();
            scope.spawn(move || {
                let sink = file.sink();
                for line in 0..5_000 {
                    sink.write(format!("{thread} {line} {}\n", "x".repeat(40)).as_bytes());
                }
            });
        }
    });
    assert!(logs.finish(LIMIT));
    let text = std::fs::read_to_string(&path).unwrap();
    let dropped = stat(&registry, "access_log.file", "entries_dropped");
    let mut last = [-1_i64; 4];
    for line in text.lines() {
        let mut words = line.split(' ');
        let thread: usize = words.next().unwrap().parse().unwrap();
        let number: i64 = words.next().unwrap().parse().unwrap();
        assert_eq!(words.next().unwrap().len(), 40);
        assert!(
            number > last[thread],
            "lines of one worker keep their order"
        );
        last[thread] = number;
    }
    assert_eq!(signed(text.lines().count()) + dropped, 20_000);
    let written = stat(&registry, "filesystem", "write_buffered");
    assert_eq!(written, signed(text.lines().count()));
    assert_eq!(stat(&registry, "filesystem", "write_total_buffered"), 0);
}

#[test]
fn a_file_that_stalls_drops_lines_and_blocks_no_worker() {
    let (logs, registry) = logs();
    // A pipe that nobody reads stands for the stalled disk.
    let (reader, writer) = io::pipe().unwrap();
    let target = Target::File(PathBuf::from(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&writer)
    )));
    let file = logs.open(&target).unwrap();
    let sink = file.sink();
    let line = [b'x'; 1024];
    let lines = 2 * (QUEUE_BUFFERS + 8) * BUFFER_BYTES / line.len();
    let start = Instant::now();
    for _ in 0..lines {
        sink.write(&line);
    }
    assert!(start.elapsed() < LIMIT);
    let dropped = stat(&registry, "access_log.file", "entries_dropped");
    let buffered = stat(&registry, "filesystem", "write_buffered");
    assert!(dropped > 0);
    assert_eq!(dropped + buffered, signed(lines));
    // The pipe itself takes one buffer and the writer holds the next; as late as it comes to
    // them, the two places in the queue go to buffers that had grown to their limit meanwhile.
    let bound = (QUEUE_BUFFERS + 2) * (BUFFER_BYTES + line.len()) + 3 * BUFFER_LIMIT;
    assert!(stat(&registry, "filesystem", "write_total_buffered") <= signed(bound));
    assert!(!logs.finish(Duration::from_millis(20)));
    // With the reader gone every write fails, and the rest is counted as lost.
    drop((reader, writer));
    drop(sink);
    assert!(logs.finish(LIMIT));
    assert!(stat(&registry, "filesystem", "write_failed") > 0);
    assert_eq!(stat(&registry, "filesystem", "write_total_buffered"), 0);
}

#[test]
fn a_rotated_file_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let (logs, registry) = logs();
    let file = logs.open(&Target::File(path.clone())).unwrap();
    let again = logs.open(&Target::File(path.clone())).unwrap();
    assert!(Arc::ptr_eq(&file.0, &again.0), "one writer a path");
    let sink = file.sink();
    sink.write(b"one\n");
    sink.flush();
    assert!(logs.finish(LIMIT));
    std::fs::rename(&path, &old).unwrap();
    logs.reopen();
    sink.write(b"two\n");
    flush_thread();
    assert!(logs.finish(LIMIT));
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(stat(&registry, "filesystem", "flushed_by_timer"), 1);
    // The folder is gone: the old file stays in use and the failure is counted.
    drop(dir);
    logs.reopen();
    sink.write(b"three\n");
    sink.flush();
    assert!(logs.finish(LIMIT));
    assert_eq!(stat(&registry, "filesystem", "reopen_failed"), 1);
    assert_eq!(stat(&registry, "filesystem", "write_failed"), 0);
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let (logs, _registry) = logs();
    let target = Target::from_path("/nonexistent/dir/log");
    let error = logs.open(&target).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/dir/log"), "{error}");
    assert_eq!(Target::from_path("/dev/stdout"), Target::Stdout);
    logs.open(&Target::Stderr).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_worker_is_flushed_within_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (logs, _registry) = logs();
    let sink = logs.open(&Target::File(path.clone())).unwrap().sink();
    sink.write(b"line\n");
    let _ = tokio::time::timeout(FLUSH_INTERVAL * 2, flush_loop()).await;
    assert!(logs.finish(LIMIT));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "line\n");
}
