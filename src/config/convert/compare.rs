//! Whether two configurations do the same, field by field.

use std::fmt::Debug;
use std::path::PathBuf;

use super::super::resolved::{Config, Notes};

/// What differs, each as one clause; where a configuration came from is no difference.
pub(super) fn differences(before: &Config, after: &Config) -> Vec<String> {
    let (before, after) = (with_whole_paths(before), with_whole_paths(after));
    let mut found = Vec::new();
    // Named one by one, so that a new field cannot be forgotten here.
    let Config {
        origin: _,
        profile,
        listen,
        process,
        auth_method,
        access,
        admin_users,
        stats_users,
        limits,
        capacity,
        fleet,
        tls,
        pool,
        users,
        databases,
        autodb,
        ignore_startup_parameters,
        compat,
        notes: Notes { settings, .. },
    } = &before;
    macro_rules! same {
        ($($field:ident),* $(,)?) => { $( differs(stringify!($field), $field, &after.$field, &mut found); )* };
    }
    same!(
        profile,
        listen,
        process,
        auth_method,
        access,
        admin_users,
        stats_users,
        limits,
        capacity,
        fleet,
        tls,
        pool,
        users,
        databases,
        autodb,
        ignore_startup_parameters,
        compat,
    );
    for (key, was) in settings {
        let is = after.notes.settings.get(key).map(|e| e.value.as_str());
        if !is_path(key) && is != Some(was.value.as_str()) {
            found.push(format!("{key} was {}, and is {}", was.value, is.unwrap_or("not there")));
        }
    }
    found
}

fn differs<T: PartialEq + Debug>(field: &str, was: &T, is: &T, found: &mut Vec<String>) {
    if was == is {
        return;
    }
    let (was, is) = (format!("{was:#?}"), format!("{is:#?}"));
    let line = was.lines().zip(is.lines()).find(|(was, is)| was != is);
    // A secret shows itself nowhere, so that texts may be the same.
    found.push(match line {
        Some((was, is)) => format!("{field}: {} is now {}", was.trim(), is.trim()),
        None => format!("{field}: a part that is not shown differs"),
    });
}

fn is_path(key: &str) -> bool {
    super::PATHS.contains(&key)
}

/// Relative paths as the process that reads them finds them.
fn with_whole_paths(config: &Config) -> Config {
    let mut c = config.clone();
    let (client, server) = (&mut c.tls.client, &mut c.tls.server);
    let tls = [
        &mut client.cert,
        &mut client.key,
        &mut client.ca,
        &mut server.cert,
        &mut server.key,
        &mut server.ca,
    ];
    let papers = [&mut c.compat.process.log_file, &mut c.compat.process.pid_file];
    let rules = [&mut c.access.hba_file, &mut c.access.ident_file, &mut c.listen.unix_dir];
    let abstract_name = |p: &PathBuf| p.to_string_lossy().starts_with('@');
    for path in tls.into_iter().chain(papers).chain(rules).flatten().filter(|p| !abstract_name(p)) {
        if let Ok(whole) = std::path::absolute(&*path) {
            *path = whole;
        }
    }
    c
}
