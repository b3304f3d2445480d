//! TLS: one provider of cryptography, and whom a client trusts.

use std::str::FromStr;

use reqwest::{Certificate, Client, ClientBuilder};

/// A builder of clients that trust nobody by TLS, which is as good as none: for plain HTTP. It reads no store of
/// certificates, which a container may not have.
pub fn plain() -> ClientBuilder {
    provide();
    Client::builder().tls_certs_only([])
}

/// A builder of clients that trust these authorities and no others; without any, those that the system trusts.
pub fn trusting(authorities: Option<&Authorities>) -> ClientBuilder {
    provide();
    match authorities {
        Some(Authorities(authorities)) => {
            Client::builder().tls_certs_only(authorities.iter().cloned())
        }
        None => Client::builder(),
    }
}

/// The libraries ask the process which provider they are to use.
pub fn provide() {
    // It fails where there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Certificates of authorities, as a PEM file has them.
#[derive(Debug, Clone)]
pub struct Authorities(Vec<Certificate>);

impl FromStr for Authorities {
    type Err = String;

    fn from_str(pem: &str) -> Result<Self, Self::Err> {
        match Certificate::from_pem_bundle(pem.as_bytes()) {
            Ok(certificates) if !certificates.is_empty() => Ok(Self(certificates)),
            _ => Err("expected certificates in PEM".to_owned()),
        }
    }
}
