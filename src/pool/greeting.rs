//! What clients that ask for the same are told alike: the parameters of a login, worked out once for each startup
//! packet and kept while nothing that it was worked out from has changed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::proto::params::ParamSet;

/// Startup packets are the clients' choice: so many are kept, and none longer.
const KEPT: usize = 256;
const LONGEST: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Greeting {
    /// The version of the pool's settings, and its servers' defaults, that this was made from.
    pub version: u64,
    pub defaults: Arc<ParamSet>,
    pub application: Arc<str>,
    pub overrides: Arc<ParamSet>,
    pub view: Arc<ParamSet>,
    /// What the server has said about the values, and every ParameterStatus.
    pub statuses: Box<[u8]>,
}

/// Greetings by what was asked for.
#[derive(Debug, Default)]
pub struct Greetings(Mutex<HashMap<Box<[u8]>, Arc<Greeting>>>);

impl Greetings {
    /// The greeting for these parameters of a startup packet, if it still holds.
    pub fn get(&self, asked: &[u8], version: u64, defaults: Option<&Arc<ParamSet>>) -> Option<Arc<Greeting>> {
        let map = self.0.lock();
        let g = map.get(asked)?;
        (g.version == version && defaults.is_some_and(|d| Arc::ptr_eq(d, &g.defaults))).then(|| g.clone())
    }

    pub fn put(&self, asked: &[u8], greeting: Arc<Greeting>) {
        if asked.len() > LONGEST {
            return;
        }
        let mut map = self.0.lock();
        if map.len() >= KEPT && !map.contains_key(asked) {
            map.clear();
        }
        map.insert(asked.into(), greeting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(version: u64, defaults: &Arc<ParamSet>) -> Arc<Greeting> {
        Arc::new(Greeting {
            version,
            defaults: defaults.clone(),
            application: "a".into(),
            overrides: Arc::default(),
            view: Arc::default(),
            statuses: Box::default(),
        })
    }

    #[test]
    fn a_greeting_holds_as_long_as_what_it_was_made_from() {
        let (greetings, defaults) = (Greetings::default(), Arc::default());
        greetings.put(b"x", greeting(1, &defaults));
        assert!(greetings.get(b"x", 1, Some(&defaults)).is_some());
        assert!(greetings.get(b"y", 1, Some(&defaults)).is_none());
        assert!(greetings.get(b"x", 2, Some(&defaults)).is_none(), "reconfigured");
        assert!(greetings.get(b"x", 1, Some(&Arc::default())).is_none(), "the servers say otherwise now");
        assert!(greetings.get(b"x", 1, None).is_none());
    }

    #[test]
    fn clients_cannot_fill_it() {
        let (greetings, defaults) = (Greetings::default(), Arc::default());
        greetings.put(&[b'x'; LONGEST + 1], greeting(1, &defaults));
        assert!(greetings.0.lock().is_empty());
        for n in 0..10 * KEPT {
            greetings.put(n.to_string().as_bytes(), greeting(1, &defaults));
            assert!(greetings.0.lock().len() <= KEPT);
        }
    }
}
