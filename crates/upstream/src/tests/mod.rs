//! Whole clusters over loopback.
