use crate::pass::Pass; use super::*; use crate::pb::extensions::transport_sockets::tls::v3 as m;
pub(crate) fn certificate(_: &mut Pass<'_>, _: &m::TlsCertificate) -> Option<TlsCertificate> { None }
pub(crate) fn validation(_: &mut Pass<'_>, _: &m::CertificateValidationContext) -> Option<TlsValidation> { None }
