//! Figures of this process from /proc; where there is none, they are not exported.

use std::fs;

/// Clock ticks of /proc in a second; a constant of the kernel's interface (proc(5), sysconf(_SC_CLK_TCK)).
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Process {
    pub(super) start_time_seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) threads: u64,
    pub(super) open_fds: u64,
    pub(super) max_fds: u64,
}

impl Process {
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The command's name may hold spaces; the numbers begin behind its parenthesis, with field 3.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok());
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = value_of(&boot, "btime ")?.parse().ok()?;
        let resident: u64 = value_of(&status, "VmRSS:")?.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            start_time_seconds: boot + field(22)? as f64 / TICKS,
            cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
            resident_bytes: resident * 1024,
            virtual_bytes: field(23)?,
            threads: field(20)?,
            // The listing itself needs one.
            open_fds: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
            max_fds: rlimit::Resource::NOFILE.get().ok()?.0,
        })
    }
}

fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim)
}
