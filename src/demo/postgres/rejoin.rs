//! Changes of roles: promotion, and a server that follows another one from now on.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use super::super::Error;
use super::{Cluster, SUPERUSER, Stop, process};

impl Cluster {
    /// Makes this replica the primary, and waits until it is.
    pub fn promote(&self) -> Result<(), Error> {
        let mut client = self.connect(SUPERUSER, SUPERUSER)?;
        if client.value("SELECT pg_promote(true, 60)")? != "t" {
            return Err(Error::Setup(format!("it was not promoted: {}", self.log_tail())));
        }
        // Those who rejoin read its timeline from the control file.
        client.query("CHECKPOINT")?;
        Ok(())
    }

    fn conninfo(&self) -> String {
        let text = format!("host={} port={} user={SUPERUSER}", self.socket_dir().display(), self.port);
        text.replace('\'', "''")
    }

    /// This replica, which runs, streams from another primary from now on.
    pub fn follow(&self, primary: &Self) -> Result<(), Error> {
        let mut client = self.connect(SUPERUSER, SUPERUSER)?;
        client.query(&format!("ALTER SYSTEM SET primary_conninfo = '{}'", primary.conninfo()))?;
        client.query("SELECT pg_reload_conf()")?;
        Ok(())
    }

    /// Comes back as a replica of `primary`, on the port that it had: rewound where the installation can, else
    /// from a new copy. The primary goes on meanwhile.
    pub fn rejoin(&mut self, primary: &Self) -> Result<(), Error> {
        self.stop(Stop::Fast)?;
        match self.install.tool("pg_rewind") {
            Some(tool) => self.rewind(primary, &tool)?,
            None => self.clone_running(primary)?,
        }
        self.write_data("standby.signal", "")?;
        let mut auto = OpenOptions::new().append(true).open(self.data_dir().join("postgresql.auto.conf"))?;
        writeln!(auto, "primary_conninfo = '{}'", primary.conninfo())?;
        self.start()
    }

    fn rewind(&self, primary: &Self, tool: &Path) -> Result<(), Error> {
        let mut command = self.command(tool);
        command.arg("--target-pgdata").arg(self.data_dir()).arg("--no-sync");
        command.arg("--source-server").arg(format!("{} dbname={SUPERUSER}", primary.conninfo()));
        process::run(&mut command)
    }

    fn clone_running(&self, primary: &Self) -> Result<(), Error> {
        std::fs::remove_dir_all(self.data_dir())?;
        let mut client = primary.connect(SUPERUSER, SUPERUSER)?;
        client.query("SELECT pg_backup_start('clone', true)")?;
        // A file that vanishes meanwhile is none that is missed; one that is missed shows at the start.
        let copy =
            self.command(Path::new("cp")).arg("-a").arg(primary.data_dir()).arg(self.data_dir()).output();
        let label = client.value("SELECT labelfile FROM pg_backup_stop(false)")?;
        copy?;
        drop(std::fs::remove_file(self.data_dir().join("postmaster.pid")));
        self.write_data("backup_label", &label)
    }
}
