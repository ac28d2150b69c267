//! PEM texts (RFC 7468): written with lines of 64 characters, read strictly.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

const LINE: usize = 64;

/// One block. Its buffers are wiped, and none is left behind by growing.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let text = Zeroizing::new(STANDARD.encode(der));
    let lines = text.len().div_ceil(LINE);
    let room = text.len() + lines + 2 * label.len() + 32;
    let mut out = Zeroizing::new(String::with_capacity(room));
    for part in ["-----BEGIN ", label, "-----\n"] {
        out.push_str(part);
    }
    let mut rest = text.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so that every byte is a boundary.
        let (line, more) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    for part in ["-----END ", label, "-----\n"] {
        out.push_str(part);
    }
    out
}

/// Bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A certificate's block.
pub(crate) fn certificate(der: &[u8]) -> String {
    encode("CERTIFICATE", der).to_string()
}

/// All certificates of a text; at least one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| format!("is not PEM: {error}"))?;
    if found.is_empty() {
        return Err("holds no `BEGIN CERTIFICATE` block".to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_back() {
        for length in [0, 1, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let text = certificate(&der);
            assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
            let read = CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM");
            assert_eq!(read.as_ref(), der);
        }
        assert!(certificates(b"").is_err());
    }
}
