//! The client's side of a login: trust, cleartext, MD5 and SCRAM-SHA-256.

use std::collections::HashMap;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::wire::{be_u32, cstring, malformed, message};

/// The proof of a password costs thousands of hashes; a generator that paid for each login would
/// measure itself. Keyed by salt and iterations.
#[derive(Default)]
pub(crate) struct Keys(HashMap<(Vec<u8>, u32), [u8; 32]>);

pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// One login under way.
#[derive(Default)]
pub(crate) struct Login {
    nonce: String,
    auth_message: String,
}

impl Login {
    /// Answers one Authentication message; true once the server is content.
    pub(crate) fn answer(
        &mut self,
        body: &[u8],
        who: &Credentials,
        keys: &mut Keys,
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let rest = body.get(4..).unwrap_or_default();
        match be_u32(body, 0) {
            Some(0) => return Ok(true),
            Some(3) => message(out, b'p', |body| cstring(body, who.password.as_bytes())),
            Some(5) => {
                let inner = hex(&Md5::digest(format!("{}{}", who.password, who.user)));
                let mut outer = Md5::new();
                outer.update(inner);
                outer.update(rest.get(..4).ok_or_else(|| malformed("no salt"))?);
                let answer = format!("md5{}", hex(&outer.finalize()));
                message(out, b'p', |body| cstring(body, answer.as_bytes()));
            }
            Some(10) => {
                self.nonce = BASE64.encode(rand::random::<[u8; 18]>());
                let first = format!("n,,n=,r={}", self.nonce);
                message(out, b'p', |body| {
                    cstring(body, b"SCRAM-SHA-256");
                    body.extend_from_slice(&(first.len() as u32).to_be_bytes());
                    body.extend_from_slice(first.as_bytes());
                });
            }
            Some(11) => {
                let server = std::str::from_utf8(rest).map_err(|_| malformed("SASL is not text"))?;
                let last = self.prove(server, &who.password, keys)?;
                message(out, b'p', |body| body.extend_from_slice(last.as_bytes()));
            }
            Some(12) => self.check(rest, &who.password, keys)?,
            _ => return Err(malformed("a kind of authentication the bench does not know")),
        }
        Ok(false)
    }

    fn prove(&mut self, server: &str, password: &str, keys: &mut Keys) -> io::Result<String> {
        let salted = keys.salted(server, password)?;
        let nonce = attribute(server, "r=")?;
        if !nonce.starts_with(&self.nonce) {
            return Err(malformed("the server changed the nonce"));
        }
        let bare = format!("c=biws,r={nonce}");
        self.auth_message = format!("n=,r={},{server},{bare}", self.nonce);
        let client_key = mac(&salted, b"Client Key");
        let signature = mac(&Sha256::digest(client_key), self.auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        // The server's message stays at hand for `check`.
        self.nonce = server.to_owned();
        Ok(format!("{bare},p={}", BASE64.encode(proof)))
    }

    fn check(&self, rest: &[u8], password: &str, keys: &mut Keys) -> io::Result<()> {
        let salted = keys.salted(&self.nonce, password)?;
        let signature = mac(&mac(&salted, b"Server Key"), self.auth_message.as_bytes());
        let wanted = format!("v={}", BASE64.encode(signature));
        if rest == wanted.as_bytes() { Ok(()) } else { Err(malformed("wrong server signature")) }
    }
}

impl Keys {
    fn salted(&mut self, server: &str, password: &str) -> io::Result<[u8; 32]> {
        let salt = BASE64.decode(attribute(server, "s=")?).map_err(|_| malformed("bad salt"))?;
        let rounds: u32 = attribute(server, "i=")?.parse().map_err(|_| malformed("bad iterations"))?;
        let key = self.0.entry((salt, rounds));
        Ok(*key.or_insert_with_key(|(salt, rounds)| stretch(password, salt, *rounds)))
    }
}

fn stretch(password: &str, salt: &[u8], rounds: u32) -> [u8; 32] {
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), salt, rounds)
}

/// The stored form of a password, for the poolers' configuration.
pub(crate) fn verifier(password: &str) -> String {
    const ROUNDS: u32 = 4096;
    let salt = rand::random::<[u8; 16]>();
    let salted = stretch(password, &salt, ROUNDS);
    let stored = Sha256::digest(mac(&salted, b"Client Key"));
    let server = mac(&salted, b"Server Key");
    let [salt, stored, server] = [&salt[..], &stored[..], &server[..]].map(|bytes| BASE64.encode(bytes));
    format!("SCRAM-SHA-256${ROUNDS}:{salt}${stored}:{server}")
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn attribute<'a>(text: &'a str, name: &str) -> io::Result<&'a str> {
    text.split(',')
        .find_map(|part| part.strip_prefix(name))
        .ok_or_else(|| malformed("SASL attribute missing"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
