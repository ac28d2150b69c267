//! An RPC call as policies and filters of requests look at it: its interface is the authority, its method
//! the method and, behind a slash, the path; attachments are headers. Decodes nothing itself.

use std::borrow::Cow;

use weft_rpc::Attributes;

use crate::format::Pseudo;

/// The values of a header.
pub type Values<'a> = Vec<&'a [u8]>;

/// See the module. What cannot be read (another serialization, damaged) is neither there nor absent.
pub trait CallView: std::fmt::Debug {
    /// The value of a pseudo header; `Err`: it cannot be told.
    fn pseudo(&self, which: Pseudo) -> Result<Option<Cow<'_, str>>, Unreadable>;
    /// All values of a header whose name is in lower case; `Err`: they cannot be told.
    fn values(&self, name: &str) -> Result<Values<'_>, Unreadable>;
}

/// What a call has cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl CallView for Attributes<'_> {
    fn pseudo(&self, which: Pseudo) -> Result<Option<Cow<'_, str>>, Unreadable> {
        let call = self.call();
        match which {
            Pseudo::Authority => Ok(Some(Cow::Borrowed(call.interface.ok_or(Unreadable)?))),
            Pseudo::Method => Ok(Some(Cow::Borrowed(call.method.ok_or(Unreadable)?))),
            Pseudo::Path => {
                let method = call.method.ok_or(Unreadable)?;
                Ok(Some(Cow::Owned(format!("/{method}"))))
            }
            Pseudo::Scheme | Pseudo::Protocol | Pseudo::Status => Ok(None),
        }
    }

    /// As in routes some names are those of what the head says.
    fn values(&self, name: &str) -> Result<Values<'_>, Unreadable> {
        let call = self.call();
        let head = match name {
            "interface" => call.interface,
            "service" => call.service,
            "method" => call.method,
            "version" => call.version,
            "group" => call.group,
            _ => None,
        };
        if let Some(value) = head {
            return Ok(vec![value.as_bytes()]);
        }
        let all = self.attachments().ok_or(Unreadable)?;
        let named = all.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        Ok(named.map(|(_, value)| value.as_bytes()).collect())
    }
}
