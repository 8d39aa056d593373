//! What the kernel knows of a process: CPU time, memory, system calls, instructions.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// CPU time used so far.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    nanos: u64,
    user_ticks: u64,
    system_ticks: u64,
}

/// CPU time between two readings, in ns.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) total: f64,
    pub(crate) user: f64,
}

impl Cpu {
    /// The scheduler's own account, exact to the nanosecond, for the sum; the clock ticks, which
    /// sample, only for the share of user time in it.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            nanos += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The command's name may contain anything, so the fields count from its closing bracket.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let tick = |at| fields.split_whitespace().nth(at).and_then(|field| field.parse().ok()).unwrap_or(0);
        Ok(Self { nanos, user_ticks: tick(11), system_ticks: tick(12) })
    }

    pub(crate) fn since(self, before: Self) -> Spent {
        const TICK: f64 = 10_000_000.0;
        let user = self.user_ticks.saturating_sub(before.user_ticks) as f64;
        let ticks = user + self.system_ticks.saturating_sub(before.system_ticks) as f64;
        let exact = self.nanos.saturating_sub(before.nanos) as f64;
        // Threads that ended in between have left the scheduler's list but not the process's sum.
        let total = if ticks * TICK > exact + 5.0 * TICK { ticks * TICK } else { exact };
        Spent { total, user: if ticks > 0.0 { total * user / ticks } else { 0.0 } }
    }
}

/// Resident memory in bytes, and the proportional share of it where the kernel tells.
pub(crate) fn memory(pid: u32) -> (Option<u64>, Option<u64>) {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    (field("status", "VmRSS:"), field("smaps_rollup", "Pss:"))
}

/// Counts of one process over a while.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) syscalls: Option<u64>,
    pub(crate) instructions: Option<u64>,
}

/// A counter attached to a running process.
pub(crate) struct Counter {
    tool: Tool,
    child: Child,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Counts system calls without slowing them, and instructions where the CPU lets it.
    Perf,
    /// Stops the process twice per call, which makes the batches of epoll larger than they are.
    Strace,
}

impl Tool {
    /// The best tool that works here.
    pub(crate) fn available() -> Option<Self> {
        let succeeds = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if succeeds("perf", &["stat", "-e", "raw_syscalls:sys_enter", "true"]) {
            return Some(Self::Perf);
        }
        succeeds("strace", &["-c", "-f", "true"]).then_some(Self::Strace)
    }

    pub(crate) fn attach(self, pid: u32, output: &Path) -> io::Result<Counter> {
        let mut command = match self {
            Self::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter,instructions"]);
                command
            }
            Self::Strace => {
                let mut command = Command::new("strace");
                command.args(["-c", "-f", "-q"]);
                command
            }
        };
        command.arg("-p").arg(pid.to_string()).arg("-o").arg(output);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        sleep(Duration::from_millis(500));
        Ok(Counter { tool: self, child })
    }
}

impl Counter {
    pub(crate) fn finish(mut self, output: &Path) -> io::Result<Counts> {
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        self.child.wait()?;
        let text = fs::read_to_string(output)?;
        let number = |line: &str, at: usize| {
            let separator = if self.tool == Tool::Perf { ',' } else { ' ' };
            let mut fields = line.split(separator).filter(|field| !field.is_empty());
            fields.nth(at).and_then(|field| field.parse().ok())
        };
        let line = |name: &str| text.lines().find(|line| line.contains(name));
        Ok(match self.tool {
            Tool::Perf => Counts {
                syscalls: line("raw_syscalls").and_then(|line| number(line, 0)),
                instructions: line("instructions").and_then(|line| number(line, 0)),
            },
            Tool::Strace => {
                let total = text.lines().rfind(|line| line.trim_end().ends_with("total"));
                Counts { syscalls: total.and_then(|line| number(line, 3)), instructions: None }
            }
        })
    }
}
