//! JSON Web Tokens: read, and checked against a key set. Shared by the filter that guards requests
//! and by who issues certificates; never knows where a token was found, nor what it allows.

mod failure;
mod keys;
mod token;

pub use failure::Failure;
pub use keys::Keys;
pub use token::{BASE64, Token};

#[cfg(test)]
mod tests;
