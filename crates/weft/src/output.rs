//! Lines on standard output. Must never fail: a reader that has left wants no more of them.

use std::io::Write;

/// Writes a line.
pub(crate) fn line(text: &str) {
    // `println!` would panic for a closed pipe, as `weft validate | head` makes one.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes lines that are ended already.
pub(crate) fn text(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
