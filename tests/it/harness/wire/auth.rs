//! The client's side of md5 and SCRAM-SHA-256, from primitives only.

use base64::{Engine, engine::general_purpose::STANDARD as B64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `md5` + md5(md5(password + user) + salt).
pub fn md5_response(user: &str, password: &str, salt: &[u8]) -> String {
    let md5 = |parts: &[&[u8]]| hex(&md5::Md5::digest(parts.concat()));
    let inner = md5(&[password.as_bytes(), user.as_bytes()]);
    format!("md5{}", md5(&[inner.as_bytes(), salt]))
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// The steps of one SCRAM exchange.
pub struct Scram {
    password: String,
    /// The header, and what the channel is bound to behind it.
    header: &'static str,
    channel: Vec<u8>,
    nonce: String,
    auth_message: String,
    salted: [u8; 32],
}

impl Scram {
    pub fn new(password: &str) -> Self {
        Scram {
            password: password.into(),
            header: "n,,",
            channel: Vec::new(),
            nonce: B64.encode(rand::random::<[u8; 18]>()),
            auth_message: String::new(),
            salted: [0; 32],
        }
    }

    /// SCRAM-SHA-256-PLUS over TLS, with the hash of the certificate that the other side has shown.
    pub fn bound(password: &str, certificate: &[u8]) -> Self {
        let channel = Sha256::digest(certificate).to_vec();
        Scram { header: "p=tls-server-end-point,,", channel, ..Scram::new(password) }
    }

    pub fn mechanism(&self) -> &'static str {
        if self.channel.is_empty() { "SCRAM-SHA-256" } else { "SCRAM-SHA-256-PLUS" }
    }

    pub fn first(&self) -> String {
        format!("{}n=,r={}", self.header, self.nonce)
    }

    pub fn last(&mut self, server_first: &str) -> Result<String, String> {
        let attribute = |name: &str| {
            let found = server_first.split(',').find_map(|a| a.strip_prefix(name));
            found.ok_or(format!("no {name} in {server_first:?}"))
        };
        let nonce = attribute("r=")?;
        let salt = B64.decode(attribute("s=")?).map_err(|e| e.to_string())?;
        let rounds = attribute("i=")?.parse().map_err(|_| "bad i=")?;
        if !nonce.starts_with(&self.nonce) {
            return Err("the server's nonce does not extend ours".into());
        }
        pbkdf2::pbkdf2_hmac::<Sha256>(self.password.as_bytes(), &salt, rounds, &mut self.salted);
        let channel = B64.encode([self.header.as_bytes(), &self.channel].concat());
        let bare = format!("c={channel},r={nonce}");
        self.auth_message = format!("n=,r={},{server_first},{bare}", self.nonce);
        let client_key = hmac(&self.salted, b"Client Key");
        let signature = hmac(&Sha256::digest(&client_key), self.auth_message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        Ok(format!("{bare},p={}", B64.encode(proof)))
    }

    /// Whether the server proved that it knows the password too.
    pub fn verify(&self, server_final: &str) -> bool {
        let key = hmac(&self.salted, b"Server Key");
        let want = B64.encode(hmac(&key, self.auth_message.as_bytes()));
        server_final.strip_prefix("v=") == Some(want.as_str())
    }
}

/// The server's side of it.
pub struct ScramServer {
    first_bare: String,
    first: String,
    salted: [u8; 32],
}

impl ScramServer {
    /// From what the client sent first, `n,,n=,r=...`.
    pub fn new(password: &str, client_first: &str, iterations: u32) -> Option<Self> {
        let (_, first_bare) = client_first.split_once(",,")?;
        let nonce = first_bare.split_once("r=")?.1;
        let (salt, mut salted) = ([7; 16], [0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, iterations, &mut salted);
        let first = format!("r={nonce}{},s={},i={iterations}", B64.encode([9; 12]), B64.encode(salt));
        Some(ScramServer { first_bare: first_bare.into(), first, salted })
    }

    pub fn first(&self) -> &str {
        &self.first
    }

    /// Answers the client's last words, whose proof is not looked at.
    pub fn last(&self, client_last: &str) -> Option<String> {
        let (without_proof, _) = client_last.split_once(",p=")?;
        let message = format!("{},{},{without_proof}", self.first_bare, self.first);
        Some(format!("v={}", B64.encode(hmac(&hmac(&self.salted, b"Server Key"), message.as_bytes()))))
    }
}
