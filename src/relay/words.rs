//! What Howdah says in a client's session in its server's place.

use crate::error::Error;

/// Few clients have any of it, and all have room for where it is.
#[derive(Debug, Default)]
pub struct Words(Option<Box<Said>>);

#[derive(Debug, Default)]
struct Said {
    /// Howdah has cancelled the client's query: the server's 57014 is replaced by this body.
    cancel: Option<Box<[u8]>>,
    /// Errors that the client was told in place of what it sent, until they are counted and logged.
    told: Vec<Error>,
}

impl Words {
    pub fn set_cancel(&mut self, body: Option<Box<[u8]>>) {
        self.0.get_or_insert_default().cancel = body;
    }

    pub fn take_cancel(&mut self) -> Option<Box<[u8]>> {
        self.0.as_mut()?.cancel.take()
    }

    #[inline]
    pub fn clear_cancel(&mut self) {
        if let Some(said) = &mut self.0 {
            said.cancel = None;
        }
    }

    /// Keeps an error that the client was told; of a long batch of errors only the first few.
    pub fn tell(&mut self, e: Error) {
        let told = &mut self.0.get_or_insert_default().told;
        if told.len() < 16 {
            told.push(e);
        }
    }

    /// Takes the errors that the client was told.
    #[inline]
    pub fn take(&mut self) -> Option<Vec<Error>> {
        self.0.take().map(|said| said.told)
    }
}
