//! Certificates as the `openssl` program makes them: a lab of CAs and leaves in a directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{left_out, tools};

/// Keys and certificates by name: `NAME.key` and `NAME.crt`.
pub struct Lab {
    directory: tempfile::TempDir,
}

/// How long a leaf is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Now,
    Past,
}

impl Lab {
    /// `None` is said aloud: there is no `openssl`.
    pub fn new() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            left_out("TLS", "there is no openssl program on this machine");
            return None;
        }
        Some(Self { directory: tempfile::tempdir().expect("a directory") })
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub fn show(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    pub fn openssl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("openssl");
        tools::succeed(command.args(arguments).current_dir(self.directory.path()), "openssl")
    }

    /// A new key: `ec`, or `rsa:BITS`.
    pub fn key(&self, name: &str, kind: &str) {
        let file = format!("{name}.key");
        match kind.strip_prefix("rsa:") {
            Some(bits) => self.openssl(&["genrsa", "-out", &file, bits]),
            None => self.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &file]),
        };
    }

    /// A root.
    pub fn ca(&self, name: &str) {
        self.key(name, "ec");
        self.self_signed(
            name,
            &["-addext", "keyUsage=critical,keyCertSign", "-addext", "basicConstraints=critical,CA:TRUE"],
        );
    }

    /// A certificate that its own key has signed, for a key that is there.
    pub fn self_signed(&self, name: &str, more: &[&str]) {
        let (key, crt, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        // A configuration of its own: the system's adds extensions.
        std::fs::write(self.path("req.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n").expect("written");
        let mut arguments =
            vec!["req", "-x509", "-new", "-config", "req.cnf", "-key", &key, "-subj", &subject];
        arguments.extend(["-days", "30", "-out", &crt]);
        arguments.extend(more);
        self.openssl(&arguments);
    }

    /// A certificate for a new key, by the CA. Without extensions it is of version 1.
    pub fn leaf(&self, name: &str, ca: &str, common_name: &str, extensions: &str) {
        self.key(name, "ec");
        self.sign(name, ca, common_name, extensions, Validity::Now, "sha256");
    }

    pub fn sign(
        &self,
        name: &str,
        ca: &str,
        common_name: &str,
        extensions: &str,
        validity: Validity,
        digest: &str,
    ) {
        let (key, csr, crt) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={common_name}");
        std::fs::write(self.path("req.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n").expect("written");
        self.openssl(&["req", "-new", "-config", "req.cnf", "-key", &key, "-subj", &subject, "-out", &csr]);
        let (ca_crt, ca_key) = (format!("{ca}.crt"), format!("{ca}.key"));
        if validity == Validity::Past {
            return self.sign_past(&csr, &crt, &ca_crt, &ca_key, extensions);
        }
        let digest = format!("-{digest}");
        let mut arguments = vec!["x509", "-req", "-in", &csr, "-CA", &ca_crt, "-CAkey", &ca_key, &digest];
        arguments.extend(["-CAcreateserial", "-days", "30", "-out", &crt]);
        if !extensions.is_empty() {
            std::fs::write(self.path("ext.cnf"), extensions).expect("written");
            arguments.extend(["-extfile", "ext.cnf"]);
        }
        self.openssl(&arguments);
    }

    /// A certificate of version 1 whose common name is a TeletexString, by the CA.
    pub fn t61(&self, name: &str, ca: &str, common_name: &str) {
        self.key(name, "ec");
        let config = "[req]\ndistinguished_name = dn\nstring_mask = MASK:4\n[dn]\n";
        std::fs::write(self.path("req.cnf"), config).expect("written");
        let (key, csr, crt) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={common_name}");
        self.openssl(&["req", "-new", "-config", "req.cnf", "-key", &key, "-subj", &subject, "-out", &csr]);
        let (ca_crt, ca_key) = (format!("{ca}.crt"), format!("{ca}.key"));
        let by = ["-CA", &ca_crt, "-CAkey", &ca_key, "-CAcreateserial", "-days", "30", "-out", &crt];
        self.openssl(&[&["x509", "-req", "-in", &csr, "-sha256"][..], &by].concat());
    }

    /// A root with the key of another, under a name that is written as a string of this kind.
    pub fn renamed(&self, name: &str, of: &str, kind: &str, common_name: &str) {
        std::fs::copy(self.path(&format!("{of}.key")), self.path(&format!("{name}.key"))).expect("copied");
        let config = format!(
            "[req]\ndistinguished_name = dn\nstring_mask = {kind}\nx509_extensions = x\n[dn]\n\
             [x]\nkeyUsage = critical,keyCertSign\nbasicConstraints = critical,CA:TRUE\n"
        );
        std::fs::write(self.path("renamed.cnf"), config).expect("written");
        let (key, crt, subject) =
            (format!("{name}.key"), format!("{name}.crt"), format!("/CN={common_name}"));
        self.openssl(&[
            "req",
            "-x509",
            "-new",
            "-config",
            "renamed.cnf",
            "-key",
            &key,
            "-subj",
            &subject,
            "-days",
            "30",
            "-out",
            &crt,
        ]);
    }

    /// Only `openssl ca` takes dates, everywhere.
    fn sign_past(&self, csr: &str, crt: &str, ca_crt: &str, ca_key: &str, extensions: &str) {
        let config = format!(
            "[ca]\ndefault_ca = c\n[c]\ndatabase = index.txt\nserial = serial.txt\nnew_certs_dir = .\n\
             default_md = sha256\npolicy = p\nx509_extensions = x\n[p]\ncommonName = supplied\n[x]\n{extensions}\n"
        );
        std::fs::write(self.path("ca.cnf"), config).expect("written");
        std::fs::write(self.path("index.txt"), "").expect("written");
        std::fs::write(self.path("serial.txt"), "1000\n").expect("written");
        let dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"];
        let mut arguments = vec!["ca", "-batch", "-notext", "-config", "ca.cnf", "-in", csr, "-out", crt];
        arguments.extend(["-cert", ca_crt, "-keyfile", ca_key]);
        arguments.extend(dates);
        self.openssl(&arguments);
    }

    /// Writes the files one behind the other.
    pub fn join(&self, into: &str, parts: &[&str]) {
        let all: Vec<u8> =
            parts.iter().flat_map(|p| std::fs::read(self.path(p)).expect("a file of the lab")).collect();
        std::fs::write(self.path(into), all).expect("written");
    }

    /// Copies a file to where the owner of `directory` alone can read it.
    pub fn give(&self, file: &str, directory: &Path, name: &str) {
        let to = directory.join(name);
        std::fs::copy(self.path(file), &to).expect("copied");
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
        let owner = std::fs::metadata(directory).expect("a directory");
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).expect("permitted");
        chown(&to, Some(owner.uid()), Some(owner.gid())).expect("given");
    }
}
