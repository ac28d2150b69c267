//! Memory that the process has freed but still holds.

/// Gives what the calling thread has freed back to the system. Allocators keep freed pages for the
/// next allocation and look at them only when there is one: a thread that has digested a large
/// configuration and then rests would hold them for ever. Takes milliseconds; not for a thread
/// that serves traffic. Does nothing if the program's allocator is not mimalloc.
pub fn give_back() {
    // SAFETY: no argument can be wrong, and mimalloc's heap of this thread exists or is empty.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}
