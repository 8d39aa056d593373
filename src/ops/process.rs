//! Figures of this process from /proc; where there is none, they are not exported.

use std::fs;
use std::sync::OnceLock;

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
    /// `boot` remembers when the machine was started: the file that says so is long, and it does not change.
    pub(super) fn read(boot: &OnceLock<Option<f64>>) -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The command's name may hold spaces; the numbers begin behind its parenthesis, with field 3.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        Some(Self {
            start_time_seconds: (*boot.get_or_init(boot_time))? + field(22)? as f64 / TICKS,
            cpu_seconds: (field(14)? + field(15)?) as f64 / TICKS,
            resident_bytes: field(24)? * u64::try_from(page).ok()?,
            virtual_bytes: field(23)?,
            threads: field(20)?,
            open_fds: open_fds()?,
            max_fds: crate::net::descriptors::limit(),
        })
    }
}

/// Seconds since 1970.
fn boot_time() -> Option<f64> {
    value_of(&fs::read_to_string("/proc/stat").ok()?, "btime ")?.parse().ok()
}

/// Since Linux 6.2 the directory's size is their number; before it is 0, and they are listed.
fn open_fds() -> Option<u64> {
    let said = fs::metadata("/proc/self/fd").ok()?.len();
    if said > 0 {
        return Some(said);
    }
    // The listing itself needs one.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim)
}
