//! TLS: one provider of cryptography, and whom a client trusts.

use std::str::FromStr;
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A builder of clients that trust nobody by TLS, which is as good as none: for plain HTTP. It
/// reads no store of certificates, which a container may not have, and no variable that leads to a
/// proxy: they carry tokens, mostly to this very machine.
pub fn plain() -> reqwest::ClientBuilder {
    provide();
    reqwest::Client::builder().tls_certs_only([]).no_proxy()
}

/// Trusts these authorities and no others; without any, those that the system trusts.
///
/// # Errors
/// What the system trusts cannot be read.
pub(crate) fn trusting(authorities: Option<&Authorities>) -> Result<ClientConfig, rustls::Error> {
    provide();
    let builder = ClientConfig::builder();
    let builder = match authorities {
        Some(Authorities(store)) => builder.with_root_certificates(Arc::clone(store)),
        None => builder.try_with_platform_verifier()?,
    };
    Ok(builder.with_no_client_auth())
}

/// The libraries ask the process which provider they are to use.
pub fn provide() {
    // It fails where there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Certificates of authorities, as a PEM file has them.
#[derive(Debug, Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl FromStr for Authorities {
    type Err = String;

    fn from_str(pem: &str) -> Result<Self, Self::Err> {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
            store
                .add(certificate)
                .map_err(|error| format!("not the certificate of an authority: {error}"))?;
        }
        match store.is_empty() {
            false => Ok(Self(Arc::new(store))),
            true => Err("expected certificates in PEM".to_owned()),
        }
    }
}
