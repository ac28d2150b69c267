//! A configured access log in one worker: which exchanges it tells of, and how.

use weft_config::{AccessLog, FormatSource};

use super::{AccessLogFile, AccessLogSink};
use crate::worker::Worker;

/// An access log and this worker's end of its file.
#[derive(Debug)]
pub(crate) struct Log {
    config: AccessLog,
    sink: AccessLogSink,
}

impl Log {
    /// Pairs configured logs with their opened files.
    pub(crate) fn all(configured: &[AccessLog], files: &[AccessLogFile]) -> Vec<Self> {
        let pairs = configured.iter().zip(files);
        pairs
            .map(|(config, file)| Self {
                config: config.clone(),
                sink: file.sink(),
            })
            .collect()
    }

    /// Writes what `source` describes, if the log's filter lets it pass. `line` is scratch.
    pub(crate) fn write(&self, source: &dyn FormatSource, worker: &Worker, line: &mut Vec<u8>) {
        let random = worker.random();
        if self
            .config
            .filter
            .as_ref()
            .is_none_or(|filter| filter.passes(source, random))
        {
            line.clear();
            self.config.format.write(line, source);
            self.sink.write(line);
        }
    }
}
