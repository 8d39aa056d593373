//! A real primary with two streaming replicas, and a Howdah before them.

use crate::harness::proxy::Howdah;
use crate::harness::{Client, Cluster, Options, app_options, cluster, eventually};

/// A primary and two replicas; ended with the test.
pub struct Replicated {
    pub primary: Cluster,
    pub replicas: [Cluster; 2],
}

impl Replicated {
    pub fn start(major: u32) -> Option<Self> {
        Self::start_with(major, app_options())
    }

    pub fn start_with(major: u32, options: Options) -> Option<Self> {
        let mut primary = cluster(major, options)?;
        let replicas = [primary.replica().expect("a replica"), primary.replica().expect("another")];
        for r in &replicas {
            r.await_replay(&primary).expect("it follows");
        }
        Some(Self { primary, replicas })
    }

    pub fn replica_hosts(&self) -> String {
        let hosts = self.replicas.iter().map(|r| format!("\"{}\"", r.tcp()));
        hosts.collect::<Vec<_>>().join(", ")
    }

    /// The database `app` with both replicas; lines for the top level, for the database, and whole sections.
    pub fn config(&self, top: &str, database: &str, sections: &str) -> String {
        format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
             monitor_interval = \"200ms\"\n{top}\n[users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 5\n\
             {database}\n[databases.app.replica]\nhost = [{}]\n{sections}\n",
            self.primary.tcp(),
            self.replica_hosts(),
        )
    }

    pub fn howdah(&self, database: &str, sections: &str) -> Howdah {
        self.howdah_with(database, sections, 2)
    }

    /// The same, once so many replicas may serve, those of further databases in `sections` included.
    pub fn howdah_with(&self, database: &str, sections: &str, replicas: usize) -> Howdah {
        let howdah = Howdah::start(&self.config("", database, sections));
        eligible(&howdah, replicas);
        howdah
    }

    pub fn is_replica(&self, port: &str) -> bool {
        self.replicas.iter().any(|r| r.port().to_string() == port)
    }
}

/// Waits until so many replicas may serve reads.
pub fn eligible(howdah: &Howdah, n: usize) {
    eventually("replicas that may serve", || {
        (super::metric(howdah, "howdah_replica_eligible", &[]) - n as f64).abs() < 0.1
    });
}

/// A session of the superuser that pauses a replica's replay, and lets it go on.
pub struct Replay(Client);

impl Replay {
    pub fn of(replica: &Cluster) -> Self {
        Self(replica.connect("postgres", "postgres").expect("a direct session"))
    }

    /// Returns when nothing is replayed any more.
    pub fn pause(&mut self) {
        self.0.query("SELECT pg_wal_replay_pause()").expect("paused");
        eventually("a replay that stands still", || {
            self.0.value("SELECT pg_get_wal_replay_pause_state()").expect("a state") == "paused"
        });
    }

    pub fn resume(&mut self) {
        self.0.query("SELECT pg_wal_replay_resume()").expect("resumed");
    }
}
