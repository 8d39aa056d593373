//! The process's limit of open file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to `wanted`, or as near to it as the hard limit permits, and says what it is now. Never lowers it.
pub fn raise_limit(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None means that there is no limit.
    let Some(now) = current else { return u64::MAX };
    let most = maximum.map_or(wanted, |hard| hard.min(wanted));
    if most > now {
        // Where the kernel refuses, the limit stays what it was, and that is what is told.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum });
    }
    limit()
}

/// How many descriptors the process may have open.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
