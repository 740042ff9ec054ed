//! TLS as libpq means it: which files are used, what is verified, when plain text is tried.
//!
//! The server's chain is verified wherever a root certificate file exists, whatever the mode; the verify modes demand
//! that it exists; the host name is compared in `verify-full` only. Nothing is read before a connection wants TLS.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::warn;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::VerifierBuilderError;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::verifier::{NameCheck, Verifier};
use crate::error::{Class, Explain};

/// Where the operating systems keep the certificates they trust.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// `sslmode`, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Plain only.
    Disable,
    /// Plain first, TLS if the server wants it.
    Allow,
    /// TLS first, plain if the server has none or refuses.
    Prefer,
    /// TLS only.
    Require,
    /// TLS only, the chain verified.
    VerifyCa,
    /// TLS only, chain and host name verified.
    VerifyFull,
}

/// A version of the protocol; those below 1.2 exist only as a lower bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

/// `sslrootcert`: whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The certificates of the operating system.
    System,
    /// A file; it counts only if it exists.
    File(PathBuf),
    /// No file is named and there is no home directory.
    Unset,
}

/// Everything a connection string says about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub mode: SslMode,
    pub root: RootCert,
    /// The client's certificate; it counts only if the file exists.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Certificate revocation list; it counts only if the file exists.
    pub revocation: Option<PathBuf>,
    /// A directory of revocation lists.
    pub revocation_directory: Option<PathBuf>,
    /// Tell the server the host name (SNI).
    pub name_indication: bool,
    /// Begin with TLS at once, without asking (`sslnegotiation=direct`, PostgreSQL 17 and later).
    pub direct: bool,
    /// `~/.postgresql`, where the files are looked for that nobody named.
    pub home: Option<PathBuf>,
    pub oldest: TlsVersion,
    pub newest: TlsVersion,
}

/// What is wrong with the files or settings of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The mode verifies, and there is nothing to verify against.
    #[error("no root certificate to verify the server with: {}", missing(path.as_deref()))]
    NoRoot { path: Option<PathBuf> },
    /// A file that cannot be read.
    #[error("cannot read {what} '{}'", path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: io::Error },
    /// A file whose content makes no sense.
    #[error("{what} '{}' is not usable: {detail}", path.display())]
    Malformed { what: &'static str, path: PathBuf, detail: String },
    /// A certificate without its key.
    #[error("client certificate '{}' is there, but its private key '{}' is not", certificate.display(), key.display())]
    NoKey { certificate: PathBuf, key: PathBuf },
    /// A key that others can read.
    #[error("private key file '{}' lets others in: its mode is {mode:04o}", path.display())]
    KeyMode { path: PathBuf, mode: u32 },
    /// verify-full without a name to compare.
    #[error("sslmode=verify-full needs a host name to compare, and there is only an address")]
    NoName,
    /// Two settings that leave nothing.
    #[error("the TLS settings cannot work: {0}")]
    Settings(String),
}

fn missing(path: Option<&Path>) -> String {
    path.map_or("no file is named".to_owned(), |path| format!("'{}' does not exist", path.display()))
}

impl Explain for TlsError {
    fn class(&self) -> Class {
        Class::Config
    }

    fn hint(&self) -> Option<String> {
        match self {
            TlsError::NoRoot { .. } => {
                Some("Put the CA's certificate there, name it with sslrootcert, or use sslrootcert=system.".to_owned())
            }
            TlsError::KeyMode { path, .. } => {
                Some(format!("Run: chmod 0600 {}  (0640 will do if the file belongs to root).", path.display()))
            }
            TlsError::NoKey { .. } => Some("Name the key with sslkey, or take the certificate away.".to_owned()),
            TlsError::NoName => Some("Add 'host=NAME' beside 'hostaddr'.".to_owned()),
            _ => None,
        }
    }
}

/// Makes the configuration of a TLS client from the files the settings name.
pub fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(settings, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(settings)?)
        .map_err(|error| TlsError::Settings(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity(settings)? {
        Some((chain, key, path)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| malformed("client certificate", &path, error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.name_indication;
    // PostgreSQL 17 insists on this word in direct negotiation; every other server ignores it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let known = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)];
    let wanted = known.iter().filter(|(version, _)| (settings.oldest..=settings.newest).contains(version));
    let versions: Vec<_> = wanted.map(|(_, version)| *version).collect();
    let none = || TlsError::Settings("ssl_min_protocol_version is above ssl_max_protocol_version".to_owned());
    if versions.is_empty() { Err(none()) } else { Ok(versions) }
}

fn malformed(what: &'static str, path: &Path, detail: impl ToString) -> TlsError {
    TlsError::Malformed { what, path: path.to_owned(), detail: detail.to_string() }
}

/// What the server's certificate must satisfy.
fn verifier(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    let names = if settings.mode == SslMode::VerifyFull { NameCheck::Compare } else { NameCheck::Skip };
    let Some((path, certificates)) = roots(settings)? else {
        return Ok(Verifier::trusting(provider.clone()));
    };
    let mut store = RootCertStore::empty();
    let (usable, _) = store.add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 {
        return Err(malformed("root certificate file", &path, "it holds no certificate"));
    }
    let lists = revocation_lists(settings)?;
    // A certificate that stands in the file itself is trusted as it is, but never past a revocation list.
    let pinned = if lists.is_empty() { certificates } else { Vec::new() };
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .with_crls(lists)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| match error {
            // The library wants the lists RFC 5280 describes: version 2 with a CRL number.
            VerifierBuilderError::InvalidCrl(reason) => {
                let list = settings.revocation.as_ref().or(settings.revocation_directory.as_ref()).unwrap_or(&path);
                malformed("certificate revocation list", list, format!("{reason:?}"))
            }
            error => malformed("root certificate file", &path, error),
        })?;
    Ok(Verifier::verifying(provider.clone(), chain, pinned, names))
}

type Roots = (PathBuf, Vec<CertificateDer<'static>>);

/// The root certificates; none if the mode does without and there is no file.
fn roots(settings: &TlsSettings) -> Result<Option<Roots>, TlsError> {
    let named = match &settings.root {
        RootCert::File(path) => Some(path.clone()),
        RootCert::System => SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()),
        RootCert::Unset => None,
    };
    let what = "root certificate file";
    match named {
        Some(path) if exists(settings, what, &path)? => {
            let certificates = certificates(what, &path)?;
            Ok(Some((path, certificates)))
        }
        path if settings.mode >= SslMode::VerifyCa => Err(TlsError::NoRoot { path }),
        _ => Ok(None),
    }
}

/// True if the file is there. That it cannot be told is an error; but a home directory that belongs to somebody else,
/// as under sudo, holds nothing for us.
fn exists(settings: &TlsSettings, what: &'static str, path: &Path) -> Result<bool, TlsError> {
    match path.try_exists() {
        Err(error) if settings.home.as_ref().is_some_and(|home| path.starts_with(home)) => {
            warn!("the {what} '{}' is not used: {error}", path.display());
            Ok(false)
        }
        answer => answer.map_err(|source| TlsError::Unreadable { what, path: path.to_owned(), source }),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { what, path: path.to_owned(), source })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(what, path)?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| malformed(what, path, error))
}

fn revocation_lists(settings: &TlsSettings) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let what = "certificate revocation list";
    let mut files = Vec::new();
    if let Some(file) = &settings.revocation
        && exists(settings, what, file)?
    {
        files.push(file.clone());
    }
    if let Some(directory) = &settings.revocation_directory {
        let unreadable = |source| TlsError::Unreadable { what, path: directory.clone(), source };
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            files.push(entry.map_err(unreadable)?.path());
        }
    }
    let mut lists = Vec::new();
    for file in files {
        let text = read(what, &file)?;
        for list in CertificateRevocationListDer::pem_slice_iter(&text) {
            lists.push(list.map_err(|error| malformed(what, &file, error))?);
        }
    }
    Ok(lists)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, PathBuf);

/// The client's certificate and key; none if there is no certificate file.
fn identity(settings: &TlsSettings) -> Result<Option<Identity>, TlsError> {
    let what = "client certificate";
    let Some(certificate) = &settings.certificate else { return Ok(None) };
    if !exists(settings, what, certificate)? {
        return Ok(None);
    }
    let key = settings.key.clone().unwrap_or_default();
    if !exists(settings, "private key file", &key)? {
        return Err(TlsError::NoKey { certificate: certificate.clone(), key });
    }
    check_key_mode(&key)?;
    let text = read("private key file", &key)?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|error| malformed("private key file", &key, error))?;
    Ok(Some((certificates(what, certificate)?, private, certificate.clone())))
}

/// The owner alone may read a key; one that root owns may be readable for a group.
fn check_key_mode(path: &Path) -> Result<(), TlsError> {
    let what = "private key file";
    let metadata = fs::metadata(path).map_err(|source| TlsError::Unreadable { what, path: path.to_owned(), source })?;
    if !metadata.is_file() {
        return Err(malformed(what, path, "it is no plain file"));
    }
    let mode = metadata.mode() & 0o7777;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if mode & forbidden == 0 { Ok(()) } else { Err(TlsError::KeyMode { path: path.to_owned(), mode }) }
}
