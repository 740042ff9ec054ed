//! Is this the server that was meant? The certificate check behind `sslmode`.
//!
//! Beyond what the TLS library verifies by itself, two habits of PostgreSQL sites are honoured as libpq honours them: a
//! self-signed server certificate that is its own root, and a host name that stands in the common name only.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Whether the host name is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameCheck {
    Compare,
    Skip,
}

/// Verifies what was asked for, and nothing more.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    /// None: any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are trusted as they are.
    pinned: Vec<CertificateDer<'static>>,
    names: NameCheck,
}

impl Verifier {
    /// Takes every certificate.
    pub fn trusting(provider: Arc<CryptoProvider>) -> Self {
        Verifier { provider, chain: None, pinned: Vec::new(), names: NameCheck::Skip }
    }

    /// Verifies the chain, and the name if asked to.
    pub fn verifying(
        provider: Arc<CryptoProvider>,
        chain: Arc<WebPkiServerVerifier>,
        pinned: Vec<CertificateDer<'static>>,
        names: NameCheck,
    ) -> Self {
        Verifier { provider, chain: Some(chain), pinned, names }
    }

    fn check_chain(
        &self,
        chain: &WebPkiServerVerifier,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        match chain.verify_server_cert(certificate, intermediates, name, &[], now) {
            Ok(_) => Ok(()),
            // The library compares the name last, so the chain is good; the name is judged by `check_name`.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(error) if self.pinned.contains(certificate) => check_dates(certificate, now).map_err(|()| error),
            Err(error) => Err(error),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            self.check_chain(chain, certificate, intermediates, name, now)?;
            if self.names == NameCheck::Compare {
                check_name(certificate, name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A pinned certificate must still be within its dates.
fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), ()> {
    let parsed = Certificate::from_der(certificate).map_err(|_| ())?;
    let validity = &parsed.tbs_certificate.validity;
    let seconds = now.as_secs();
    let begun = validity.not_before.to_unix_duration().as_secs() <= seconds;
    let over = validity.not_after.to_unix_duration().as_secs() < seconds;
    if begun && !over { Ok(()) } else { Err(()) }
}

/// Compares the names of the certificate, or its common name if it has no others.
fn check_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let Err(error) = rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name) else {
        return Ok(());
    };
    let matches = common_name(certificate).is_some_and(|pattern| match_common_name(&pattern, name));
    if matches { Ok(()) } else { Err(error) }
}

/// The common name, if the certificate names no host in the proper place.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let (_, names) =
        parsed.tbs_certificate.get::<SubjectAltName>().ok()?.unwrap_or((false, SubjectAltName(Vec::new())));
    if names.0.iter().any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_))) {
        return None;
    }
    let mut attributes = parsed.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let value = &attributes.rfind(|attribute| attribute.oid == COMMON_NAME)?.value;
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    let teletex = || value.decode_as::<TeletexStringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).or_else(|_| teletex()).ok()
}

/// A star stands for exactly one label, the first; an address is compared as it is.
fn match_common_name(pattern: &str, name: &ServerName<'_>) -> bool {
    match name {
        ServerName::DnsName(name) => {
            let name = name.as_ref();
            let wild = pattern.strip_prefix("*.").filter(|rest| rest.contains('.'));
            let below = wild.is_some_and(|rest| {
                name.split_once('.')
                    .is_some_and(|(label, domain)| !label.is_empty() && domain.eq_ignore_ascii_case(rest))
            });
            pattern.eq_ignore_ascii_case(name) || below
        }
        ServerName::IpAddress(address) => pattern.parse::<IpAddr>().is_ok_and(|own| own == IpAddr::from(*address)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_matches_itself_or_one_label() {
        let matches = |pattern: &str, name: &str| {
            match_common_name(pattern, &ServerName::try_from(name).expect("because it is a host name"))
        };
        assert!(matches("db1.example.com", "DB1.example.com"));
        assert!(matches("*.example.com", "db1.example.com"));
        assert!(!matches("*.example.com", "a.db1.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("*.com", "example.com"));
        assert!(!matches("db1.example.com", "db2.example.com"));
        assert!(matches("127.0.0.1", "127.0.0.1"));
        assert!(!matches("127.0.0.1", "127.0.0.2"));
    }
}
