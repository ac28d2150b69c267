//! What routes and policies ask of a request, read when they ask.

use std::borrow::Cow;
use std::cell::OnceCell;

use smallvec::SmallVec;

use crate::codec::Codec;
use crate::frame::Frame;

/// What the head of a request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call<'f> {
    /// The interface, without version and group.
    pub interface: Option<&'f str>,
    /// The whole name under which the service is known, which may contain version and group.
    pub service: Option<&'f str>,
    /// The method.
    pub method: Option<&'f str>,
    /// The version of the service.
    pub version: Option<&'f str>,
    /// The group, where the head has it; otherwise it is the attachment of that name.
    pub group: Option<&'f str>,
}

/// Key-value pairs, in their order.
pub type Attachments<'f> = SmallVec<[(Cow<'f, str>, Cow<'f, str>); 8]>;

/// Something that a rule may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `interface`
    Interface,
    /// `service`
    Service,
    /// `method`
    Method,
    /// `version`
    Version,
    /// `group`
    Group,
    /// Any other name: the attachment of that key, or else of one that differs from it in case only.
    Attachment(Box<str>),
}

impl Attribute {
    /// The attribute of a name in a rule.
    pub fn named(name: &str) -> Self {
        match name {
            "interface" => Self::Interface,
            "service" => Self::Service,
            "method" => Self::Method,
            "version" => Self::Version,
            "group" => Self::Group,
            key => Self::Attachment(key.into()),
        }
    }
}

/// The attributes of one request. Nothing is read before it is asked for, and nothing twice.
#[derive(Debug)]
pub struct Attributes<'f> {
    codec: &'static dyn Codec,
    frame: &'f Frame,
    call: OnceCell<Call<'f>>,
    attachments: OnceCell<Option<Attachments<'f>>>,
}

impl<'f> Attributes<'f> {
    /// Those of a frame that `codec` has decoded.
    pub fn new(codec: &'static dyn Codec, frame: &'f Frame) -> Self {
        Self {
            codec,
            frame,
            call: OnceCell::new(),
            attachments: OnceCell::new(),
        }
    }

    /// What the head says.
    pub fn call(&self) -> &Call<'f> {
        self.call.get_or_init(|| self.codec.call(self.frame))
    }

    /// The value of an attribute; `None` if the request does not have it, or in a form that cannot
    /// be read.
    pub fn get(&self, attribute: &Attribute) -> Option<&str> {
        let call = || self.call();
        match attribute {
            Attribute::Interface => call().interface,
            Attribute::Service => call().service,
            Attribute::Method => call().method,
            Attribute::Version => call().version.or_else(|| self.attachment("version")),
            Attribute::Group => call().group.or_else(|| self.attachment("group")),
            Attribute::Attachment(key) => self.attachment(key),
        }
    }

    /// All attachments; `None` if the request's cannot be read.
    pub fn attachments(&self) -> Option<&Attachments<'f>> {
        let read = || self.codec.known_attachments(self.frame);
        self.attachments.get_or_init(read).as_ref()
    }

    fn attachment(&self, key: &str) -> Option<&str> {
        let all = self.attachments()?;
        let exact = all.iter().find(|(name, _)| name == key);
        // Rules write names as those of headers, which have no case.
        let found = exact.or_else(|| all.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)));
        found.map(|(_, value)| &**value)
    }
}
