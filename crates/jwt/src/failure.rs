//! Why a token is not good, in the words and numbers that Envoy's users know.
//!
//! Source: Envoy, `jwt_verify` status.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each says itself what it is, in `text`")]
pub enum Failure {
    Missing,
    NotYetValid,
    Expired,
    BadForm,
    HeaderBase64,
    HeaderJson,
    HeaderAlg,
    UnknownAlg,
    HeaderKid,
    PayloadBase64,
    PayloadJson,
    Issuer,
    Subject,
    IssuedAt,
    IssuedAtRange,
    NotBefore,
    NotBeforeRange,
    Expiry,
    ExpiryRange,
    Id,
    Audience,
    SignatureBase64,
    SignatureLength,
    UnknownIssuer,
    WrongAudience,
    NotVerified,
    NoKeys,
    NoFittingKey,
    FetchFailed,
}

impl Failure {
    /// Number and text.
    fn shown(self) -> (u32, &'static str) {
        match self {
            Self::Missing => (1, "Jwt is missing"),
            Self::NotYetValid => (2, "Jwt not yet valid"),
            Self::Expired => (3, "Jwt is expired"),
            Self::BadForm => (
                4,
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            ),
            Self::HeaderBase64 => (5, "Jwt header is an invalid Base64url encoded"),
            Self::HeaderJson => (6, "Jwt header is an invalid JSON"),
            Self::HeaderAlg => (7, "Jwt header [alg] field is required and must be a string"),
            Self::UnknownAlg => (8, "Jwt header [alg] is not supported"),
            Self::HeaderKid => (9, "Jwt header [kid] field is not a string"),
            Self::PayloadBase64 => (10, "Jwt payload is an invalid Base64url encoded"),
            Self::PayloadJson => (11, "Jwt payload is an invalid JSON"),
            Self::Issuer => (12, "Jwt payload [iss] field is not a string"),
            Self::Subject => (13, "Jwt payload [sub] field is not a string"),
            Self::IssuedAt => (14, "Jwt payload [iat] field is not an integer"),
            Self::IssuedAtRange => (
                15,
                "Jwt payload [iat] field is not a positive 64 bit integer",
            ),
            Self::NotBefore => (16, "Jwt payload [nbf] field is not an integer"),
            Self::NotBeforeRange => (
                17,
                "Jwt payload [nbf] field is not a positive 64 bit integer",
            ),
            Self::Expiry => (18, "Jwt payload [exp] field is not an integer"),
            Self::ExpiryRange => (
                19,
                "Jwt payload [exp] field is not a positive 64 bit integer",
            ),
            Self::Id => (20, "Jwt payload [jti] field is not a string"),
            Self::Audience => (21, "Jwt payload [aud] field is not a string or string list"),
            Self::SignatureBase64 => (22, "Jwt signature is an invalid Base64url encoded"),
            Self::SignatureLength => (23, "Jwt ED25519 signature is wrong length"),
            Self::UnknownIssuer => (24, "Jwt issuer is not configured"),
            Self::WrongAudience => (25, "Audiences in Jwt are not allowed"),
            Self::NotVerified => (26, "Jwt verification fails"),
            Self::NoKeys => (31, "Jwks doesn't have any valid public key"),
            Self::NoFittingKey => (32, "Jwks doesn't have key to match kid or alg from Jwt"),
            Self::FetchFailed => (39, "Jwks remote fetch is failed"),
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        self.shown().1
    }

    /// For metadata.
    pub fn code(self) -> u32 {
        self.shown().0
    }
}
