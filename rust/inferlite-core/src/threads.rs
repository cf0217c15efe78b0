//! How many threads a model should use.

/// The number of threads this process may keep busy: the smaller of its affinity mask and its cgroup's CPU quota.
///
/// `std` reads both on Linux (`sched_getaffinity`, and the quota of cgroup v1 and v2); a quota below one CPU gives 1.
#[must_use]
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_at_least_one_thread() {
        assert!(super::available() >= 1);
    }
}
