//! The frames: one call and its answer of each protocol, as their specifications have them, and where
//! a frame ends. Both carry 100 bytes of payload.

/// A protocol that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// SOFA Bolt v1, hessian2 by its header (the content is not read by proxies).
    Bolt,
    /// Dubbo 2 with hessian2.
    Dubbo,
    /// Thrift, framed, strict binary.
    Thrift,
}

/// What a peer looked at of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Of the whole frame, bytes.
    pub(crate) length: usize,
    pub(crate) id: u64,
    pub(crate) is_heartbeat: bool,
    pub(crate) is_good: bool,
}

const SERVICE: &str = "bench.Echo";
const METHOD: &str = "echo";
const PAYLOAD: [u8; 100] = [b'x'; 100];
const LONGEST: usize = 1 << 20;

impl Protocol {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "bolt" => Some(Self::Bolt),
            "dubbo" => Some(Self::Dubbo),
            "thrift" => Some(Self::Thrift),
            _ => None,
        }
    }

    /// A call; its number is set by [`Self::set_id`].
    pub(crate) fn call(self) -> Vec<u8> {
        match self {
            Self::Bolt => {
                let class = b"com.alipay.sofa.rpc.core.request.SofaRequest";
                let mut header = Vec::new();
                for (key, value) in [
                    ("service", SERVICE),
                    ("sofa_head_target_service", SERVICE),
                    ("sofa_head_method_name", METHOD),
                ] {
                    for text in [key, value] {
                        header.extend_from_slice(&(text.len() as u32).to_be_bytes());
                        header.extend_from_slice(text.as_bytes());
                    }
                }
                let mut frame = vec![1, 1, 0, 1, 1, 0, 0, 0, 0, 1];
                frame.extend_from_slice(&3_000_u32.to_be_bytes());
                bolt_body(&mut frame, class, &header);
                frame
            }
            Self::Dubbo => {
                let mut body = Vec::new();
                for text in ["2.0.2", SERVICE, "1.0.0", METHOD, "Ljava/lang/String;"] {
                    hessian_string(&mut body, text.as_bytes());
                }
                hessian_string(&mut body, &PAYLOAD);
                body.push(b'H');
                for text in ["path", SERVICE, "interface", SERVICE, "version", "1.0.0"] {
                    hessian_string(&mut body, text.as_bytes());
                }
                body.push(b'Z');
                dubbo_frame(0xc2, 0, &body)
            }
            Self::Thrift => thrift_frame(1, 1),
        }
    }

    /// The answer to [`Self::call`].
    pub(crate) fn answer(self) -> Vec<u8> {
        match self {
            Self::Bolt => {
                let mut frame = vec![1, 0, 0, 2, 1, 0, 0, 0, 0, 1, 0, 0];
                let class = b"com.alipay.sofa.rpc.core.response.SofaResponse";
                bolt_body(&mut frame, class, &[]);
                frame
            }
            Self::Dubbo => {
                // 1 (a value follows) as a hessian integer.
                let mut body = vec![0x91];
                hessian_string(&mut body, &PAYLOAD);
                dubbo_frame(2, 20, &body)
            }
            Self::Thrift => thrift_frame(2, 0),
        }
    }

    /// What a heartbeat is answered with; Thrift has none.
    pub(crate) fn heartbeat_answer(self) -> Vec<u8> {
        match self {
            Self::Bolt => {
                let mut frame = vec![1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0];
                frame.extend_from_slice(&[0; 8]);
                frame
            }
            Self::Dubbo => dubbo_frame(0x22, 20, b"N"),
            Self::Thrift => Vec::new(),
        }
    }

    /// Puts a number into a frame of these.
    pub(crate) fn set_id(self, frame: &mut [u8], id: u64) {
        match self {
            Self::Bolt => frame[5..9].copy_from_slice(&(id as u32).to_be_bytes()),
            Self::Dubbo => frame[4..12].copy_from_slice(&id.to_be_bytes()),
            Self::Thrift => {
                let at = 4 + 4 + 4 + METHOD.len();
                frame[at..at + 4].copy_from_slice(&(id as u32).to_be_bytes());
            }
        }
    }

    /// The frame that begins here; nothing if its head has not all come. An error if it is none.
    pub(crate) fn head(self, bytes: &[u8]) -> Result<Option<Head>, String> {
        let head = match self {
            Self::Bolt => bolt_head(bytes),
            Self::Dubbo => dubbo_head(bytes),
            Self::Thrift => thrift_head(bytes),
        };
        let wrong = || {
            format!(
                "no frame of {self:?}: {:02x?}",
                &bytes[..bytes.len().min(32)]
            )
        };
        match head {
            Ok(Some(head)) if head.length > LONGEST => Err(wrong()),
            Ok(head) => Ok(head),
            Err(()) => Err(wrong()),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn bolt_body(frame: &mut Vec<u8>, class: &[u8], header: &[u8]) {
    frame.extend_from_slice(&(class.len() as u16).to_be_bytes());
    frame.extend_from_slice(&(header.len() as u16).to_be_bytes());
    frame.extend_from_slice(&(PAYLOAD.len() as u32).to_be_bytes());
    frame.extend_from_slice(class);
    frame.extend_from_slice(header);
    frame.extend_from_slice(&PAYLOAD);
}

fn bolt_head(bytes: &[u8]) -> Result<Option<Head>, ()> {
    // Protocol, type, command (2), version, number (4), codec; then of a response the status (2), of a
    // request the timeout (4); lengths of class (2), header (2), content (4).
    if bytes.len() < 22 {
        return Ok(None);
    }
    if bytes[0] != 1 || bytes[1] > 2 {
        return Err(());
    }
    let is_answer = bytes[1] == 0;
    let at = if is_answer { 12 } else { 14 };
    let lengths = u16_at(bytes, at) + u16_at(bytes, at + 2) + u32_at(bytes, at + 4) as usize;
    Ok(Some(Head {
        length: at + 8 + lengths,
        id: u64::from(u32_at(bytes, 5)),
        is_heartbeat: u16_at(bytes, 2) == 0,
        is_good: !is_answer || u16_at(bytes, 10) == 0,
    }))
}

fn hessian_string(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 32 {
        out.push(text.len() as u8);
    } else {
        // Up to 1,023 characters: 0x30 and the high bits, the low eight.
        out.push(0x30 + (text.len() >> 8) as u8);
        out.push(text.len() as u8);
    }
    out.extend_from_slice(text);
}

fn dubbo_frame(flags: u8, status: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xda, 0xbb, flags, status, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn dubbo_head(bytes: &[u8]) -> Result<Option<Head>, ()> {
    if bytes.len() < 16 {
        return Ok(None);
    }
    if bytes[..2] != [0xda, 0xbb] {
        return Err(());
    }
    let is_request = bytes[2] & 0x80 != 0;
    Ok(Some(Head {
        length: 16 + u32_at(bytes, 12) as usize,
        id: u64::from_be_bytes(bytes[4..12].try_into().expect("eight bytes")),
        is_heartbeat: bytes[2] & 0x20 != 0,
        is_good: is_request || bytes[3] == 20,
    }))
}

fn thrift_frame(kind: u8, field: u16) -> Vec<u8> {
    let mut body = vec![0x80, 1, 0, kind];
    body.extend_from_slice(&(METHOD.len() as u32).to_be_bytes());
    body.extend_from_slice(METHOD.as_bytes());
    body.extend_from_slice(&[0; 4]);
    // One field, a string; the end of the struct.
    body.push(11);
    body.extend_from_slice(&field.to_be_bytes());
    body.extend_from_slice(&(PAYLOAD.len() as u32).to_be_bytes());
    body.extend_from_slice(&PAYLOAD);
    body.push(0);
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.append(&mut body);
    frame
}

fn thrift_head(bytes: &[u8]) -> Result<Option<Head>, ()> {
    if bytes.len() < 12 {
        return Ok(None);
    }
    if bytes[4..6] != [0x80, 1] {
        return Err(());
    }
    let name = u32_at(bytes, 8) as usize;
    if name > 256 {
        return Err(());
    }
    let at = 12 + name;
    if bytes.len() < at + 4 {
        return Ok(None);
    }
    Ok(Some(Head {
        length: 4 + u32_at(bytes, 0) as usize,
        id: u64::from(u32_at(bytes, at)),
        is_heartbeat: false,
        // 3: an exception of the application's frame, such as a proxy's error.
        is_good: bytes[7] != 3,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        for protocol in [Protocol::Bolt, Protocol::Dubbo, Protocol::Thrift] {
            for mut frame in [protocol.call(), protocol.answer()] {
                protocol.set_id(&mut frame, 77);
                let head = protocol.head(&frame).expect("a frame").expect("a head");
                let (length, id) = (frame.len(), 77);
                let good = Head {
                    length,
                    id,
                    is_heartbeat: false,
                    is_good: true,
                };
                assert_eq!(head, good, "{protocol:?}");
                assert_eq!(protocol.head(&frame[..5]), Ok(None), "{protocol:?}");
            }
        }
        for protocol in [Protocol::Bolt, Protocol::Dubbo] {
            let frame = protocol.heartbeat_answer();
            let head = protocol.head(&frame).expect("a frame");
            // Shorter than the longest head is Bolt's heartbeat; one byte more shows it.
            let head = head.or_else(|| {
                protocol
                    .head(&[&frame[..], &[1, 0]].concat())
                    .expect("a frame")
            });
            assert!(
                head.is_some_and(|head| head.is_heartbeat && head.length == frame.len()),
                "{protocol:?}"
            );
        }
    }

    #[test]
    fn an_error_is_no_answer() {
        let mut bolt = Protocol::Bolt.answer();
        bolt[11] = 7;
        let mut dubbo = Protocol::Dubbo.answer();
        dubbo[3] = 80;
        let mut thrift = Protocol::Thrift.answer();
        thrift[7] = 3;
        for (protocol, frame) in [
            (Protocol::Bolt, bolt),
            (Protocol::Dubbo, dubbo),
            (Protocol::Thrift, thrift),
        ] {
            let head = protocol.head(&frame).expect("a frame").expect("a head");
            assert!(!head.is_good, "{protocol:?}");
        }
        assert!(Protocol::Dubbo.head(&[0; 32]).is_err());
    }
}
