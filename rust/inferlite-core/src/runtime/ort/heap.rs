//! How the C library's heap gives memory back, which decides what making a session costs.
//!
//! The runtime makes and drops blocks of the size of the weights while it reads and optimizes a model. glibc maps such
//! blocks one by one, or cuts them off the end of its heap again, so that each session faults its memory in anew: 2,600
//! faults for a model of 3 MB, two fifths of the time. Faults of two threads wait for each other besides, so that two
//! sessions at once took longer than one after the other.

/// Has the heap keep blocks as it does by itself once the process has freed a block of 32 MiB, its own upper limit.
///
/// What the environment says about it counts more.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of the C library")]
pub(super) fn keep_blocks() {
    const MAPPED_FROM: libc::c_int = 32 << 20;
    let is_said = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
        || std::env::var("GLIBC_TUNABLES").is_ok_and(|tunables| tunables.contains("glibc.malloc."));
    if is_said {
        return;
    }
    for (setting, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM),
        (libc::M_TRIM_THRESHOLD, 2 * MAPPED_FROM),
    ] {
        // SAFETY: takes two numbers and a lock of its own; a refusal changes nothing.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Nothing is known of other heaps.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn keep_blocks() {}
