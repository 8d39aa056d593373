//! `howdah demo`: starts the proxy for the demonstration, with the configuration that it is given.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::Service;
use crate::config::{self, Overrides};
use crate::demo;

impl demo::Running for Service {
    fn stop(self) -> Result<(), demo::BoxError> {
        self.shut_down();
        Ok(())
    }
}

pub(super) fn run(duration: Option<Duration>) -> ExitCode {
    let started = demo::run(duration, &mut io::stdout(), |text| {
        let dir = std::env::temp_dir().join(format!("howdah-demo-{}.toml", std::process::id()));
        // Others may write in that directory: nothing that is there is written over or followed.
        let own = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&dir);
        own?.write_all(text.as_bytes())?;
        let loaded = config::load(&dir, &Overrides::default());
        std::fs::remove_file(&dir)?;
        let config =
            loaded.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        Ok(Service::start(Arc::new(config))?)
    });
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "howdah: {e}");
            ExitCode::FAILURE
        }
    }
}
