//! Certificates as openssl makes them, good ones and others.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lab::Lab;
use super::tools::{command, run};

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// An authority in a folder of its own.
pub struct Authority {
    folder: PathBuf,
    made: AtomicUsize,
}

/// PEM, readable by everyone: what is secret here?
pub struct Certificate {
    pub file: PathBuf,
    pub key: PathBuf,
}

impl Lab {
    /// A new one, which nobody trusts yet.
    #[track_caller]
    pub fn authority(&self, name: &str) -> Authority {
        let folder = self.subfolder(name, None);
        let authority = Authority { folder, made: AtomicUsize::new(0) };
        let subject = format!("/CN={name}");
        let ca = ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", &subject];
        authority.openssl(&[&ca[..], &KEY].concat());
        authority.write(
            "ca.cnf",
            "[ca]\ndefault_ca = it\n[it]\ndir = .\ndatabase = index\nserial = serial\nnew_certs_dir = .\n\
             certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\npolicy = any\nunique_subject = no\n\
             [any]\ncommonName = optional\n",
        );
        authority.write("index", "");
        authority.write("serial", "1000");
        authority
    }
}

impl Authority {
    /// For `--upstream-ca`.
    pub fn file(&self) -> String {
        self.folder.join("ca.pem").to_string_lossy().into_owned()
    }

    /// For these names, `DNS:proxy.corp.example` or `IP:10.2.0.2`, and valid today.
    #[track_caller]
    pub fn certificate(&self, names: &str) -> Certificate {
        self.dated(names, "20200101000000Z", "20991231235959Z")
    }

    /// The same with other dates.
    #[track_caller]
    pub fn dated(&self, names: &str, from: &str, to: &str) -> Certificate {
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        let [key, request, extensions, certificate] =
            ["key", "csr", "ext", "pem"].map(|kind| format!("{number}.{kind}"));
        let csr = ["req", "-keyout", &key, "-out", &request, "-subj", "/CN=proxy.corp.example"];
        self.openssl(&[&csr[..], &KEY].concat());
        self.write(&extensions, &format!("subjectAltName={names}\n"));
        let ca = ["ca", "-batch", "-notext", "-config", "ca.cnf", "-startdate", from, "-enddate", to];
        self.openssl(&[&ca[..], &["-in", &request, "-extfile", &extensions, "-out", &certificate]].concat());
        Certificate { file: self.folder.join(certificate), key: self.folder.join(key) }
    }

    /// One that nobody has signed but itself, as openssl makes them by itself (`CA:TRUE`) or made for a server.
    #[track_caller]
    pub fn self_signed(&self, names: &str, is_ca: bool) -> Certificate {
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        let [key, certificate] = ["key", "pem"].map(|kind| format!("{number}.{kind}"));
        let x509 =
            ["req", "-x509", "-keyout", &key, "-out", &certificate, "-days", "2", "-subj", "/CN=itself"];
        let names = format!("subjectAltName={names}");
        let mut extensions = vec!["-addext", &names];
        if !is_ca {
            extensions.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
        }
        self.openssl(&[&x509[..], &KEY, &extensions].concat());
        Certificate { file: self.folder.join(certificate), key: self.folder.join(key) }
    }

    #[track_caller]
    fn openssl(&self, args: &[&str]) {
        run(command("openssl").args(args).current_dir(&self.folder));
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).unwrap();
    }
}

impl Certificate {
    /// For `--upstream-ca`.
    pub fn path(&self) -> String {
        path(&self.file)
    }
}

fn path(file: &Path) -> String {
    file.to_string_lossy().into_owned()
}
