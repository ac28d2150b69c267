//! Frames as sofa-bolt-node 2.0.1 writes them.

/// `add("x")` of `com.shop.Cart:1.0`, version 1.
pub(crate) const REQUEST_V1: &[&str] = &[
    "01",                                                                               // proto
    "01",                                                                               // type
    "0001",                                                                             // cmd
    "01",                                                                               // ver2
    "00000007",                                                                         // id
    "01",       // codec: hessian2
    "00000bb8", // timeout
    "002c",     // class length
    "0020",     // header length
    "000000c4", // content length
    "636f6d2e616c697061792e736f66612e7270632e636f72652e726571756573742e536f6661526571", // class
    "75657374",
    "00000007",                           // length of key
    "73657276696365",                     // service
    "00000011",                           // length of value
    "636f6d2e73686f702e436172743a312e30", // com.shop.Cart:1.0
    "4fbc636f6d2e616c697061792e736f66612e7270632e636f72652e726571756573742e536f666152", // content
    "657175657374950a6d6574686f644e616d650d6d6574686f64417267536967731774617267657453",
    "657276696365556e697175654e616d650d7461726765744170704e616d650c726571756573745072",
    "6f70736f9003616464567400115b6a6176612e6c616e672e537472696e676e01106a6176612e6c61",
    "6e672e537472696e677a11636f6d2e73686f702e436172743a312e3004636172744e0178",
];

/// The same as oneway, version 2 without a checksum.
pub(crate) const ONEWAY_V2: &[&str] = &[
    "02",                                                                               // proto
    "01",       // version of it
    "02",       // type
    "0001",     // cmd
    "01",       // ver2
    "00000008", // id
    "01",       // codec: hessian2
    "00",       // switches
    "00000bb8", // timeout
    "002c",     // class length
    "0020",     // header length
    "000000c4", // content length
    "636f6d2e616c697061792e736f66612e7270632e636f72652e726571756573742e536f6661526571", // class
    "75657374",
    "00000007",                           // length of key
    "73657276696365",                     // service
    "00000011",                           // length of value
    "636f6d2e73686f702e436172743a312e30", // com.shop.Cart:1.0
    "4fbc636f6d2e616c697061792e736f66612e7270632e636f72652e726571756573742e536f666152", // content
    "657175657374950a6d6574686f644e616d650d6d6574686f64417267536967731774617267657453",
    "657276696365556e697175654e616d650d7461726765744170704e616d650c726571756573745072",
    "6f70736f9003616464567400115b6a6176612e6c616e672e537472696e676e01106a6176612e6c61",
    "6e672e537472696e677a11636f6d2e73686f702e436172743a312e3004636172744e0178",
];

/// The same with an answer wanted, version 2 with a checksum.
pub(crate) const REQUEST_CRC: &[&str] = &[
    "02",                                                                               // proto
    "02",       // version of it
    "01",       // type
    "0001",     // cmd
    "01",       // ver2
    "00000007", // id
    "01",       // codec: hessian2
    "01",       // switches
    "00000bb8", // timeout
    "002c",     // class length
    "0020",     // header length
    "000000c4", // content length
    "636f6d2e616c697061792e736f66612e7270632e636f72652e726571756573742e536f6661526571", // class
    "75657374",
    "00000007",                           // length of key
    "73657276696365",                     // service
    "00000011",                           // length of value
    "636f6d2e73686f702e436172743a312e30", // com.shop.Cart:1.0
    "4fbc636f6d2e616c697061792e736f66612e7270632e636f72652e726571756573742e536f666152", // content
    "657175657374950a6d6574686f644e616d650d6d6574686f64417267536967731774617267657453",
    "657276696365556e697175654e616d650d7461726765744170704e616d650c726571756573745072",
    "6f70736f9003616464567400115b6a6176612e6c616e672e537472696e676e01106a6176612e6c61",
    "6e672e537472696e677a11636f6d2e73686f702e436172743a312e3004636172744e0178",
    "a71ec011", // CRC-32
];

/// `ok`, version 1.
pub(crate) const RESPONSE_V1: &[&str] = &[
    "01",                                                                               // proto
    "00",                                                                               // type
    "0002",                                                                             // cmd
    "01",                                                                               // ver2
    "00000007",                                                                         // id
    "01",       // codec: hessian2
    "0000",     // status
    "002e",     // class length
    "0000",     // header length
    "00000064", // content length
    "636f6d2e616c697061792e736f66612e7270632e636f72652e726573706f6e73652e536f66615265", // class
    "73706f6e7365",
    "4fbe636f6d2e616c697061792e736f66612e7270632e636f72652e726573706f6e73652e536f6661", // content
    "526573706f6e7365940769734572726f72086572726f724d73670b617070526573706f6e73650d72",
    "6573706f6e736550726f70736f90464e026f6b4e",
];

/// `ok`, version 2 with a checksum.
pub(crate) const RESPONSE_CRC: &[&str] = &[
    "02",                                                                               // proto
    "02",       // version of it
    "00",       // type
    "0002",     // cmd
    "01",       // ver2
    "00000007", // id
    "01",       // codec: hessian2
    "01",       // switches
    "0000",     // status
    "002e",     // class length
    "0000",     // header length
    "00000064", // content length
    "636f6d2e616c697061792e736f66612e7270632e636f72652e726573706f6e73652e536f66615265", // class
    "73706f6e7365",
    "4fbe636f6d2e616c697061792e736f66612e7270632e636f72652e726573706f6e73652e536f6661", // content
    "526573706f6e7365940769734572726f72086572726f724d73670b617070526573706f6e73650d72",
    "6573706f6e736550726f70736f90464e026f6b4e",
    "a64cb968", // CRC-32
];

/// A heartbeat.
pub(crate) const HEARTBEAT_V1: &[&str] = &[
    "01",       // proto
    "01",       // type
    "0000",     // cmd
    "01",       // ver2
    "00000009", // id
    "01",       // codec: hessian2
    "00000bb8", // timeout
    "0000",     // class length
    "0000",     // header length
    "00000000", // content length
];

/// Its answer.
pub(crate) const HEARTBEAT_ANSWER_V1: &[&str] = &[
    "01",       // proto
    "00",       // type
    "0000",     // cmd
    "01",       // ver2
    "00000009", // id
    "01",       // codec: hessian2
    "0000",     // status
    "0000",     // class length
    "0000",     // header length
    "00000000", // content length
];

/// The answer, version 2 without a checksum.
pub(crate) const HEARTBEAT_ANSWER_V2: &[&str] = &[
    "02",       // proto
    "01",       // version of it
    "00",       // type
    "0000",     // cmd
    "01",       // ver2
    "00000009", // id
    "01",       // codec: hessian2
    "00",       // switches
    "0000",     // status
    "0000",     // class length
    "0000",     // header length
    "00000000", // content length
];

/// A heartbeat with a checksum.
pub(crate) const HEARTBEAT_CRC: &[&str] = &[
    "02",       // proto
    "02",       // version of it
    "01",       // type
    "0000",     // cmd
    "01",       // ver2
    "00000009", // id
    "01",       // codec: hessian2
    "01",       // switches
    "00000bb8", // timeout
    "0000",     // class length
    "0000",     // header length
    "00000000", // content length
    "6a1187b0", // CRC-32
];

/// Its answer.
pub(crate) const HEARTBEAT_ANSWER_CRC: &[&str] = &[
    "02",       // proto
    "02",       // version of it
    "00",       // type
    "0000",     // cmd
    "01",       // ver2
    "00000009", // id
    "01",       // codec: hessian2
    "01",       // switches
    "0000",     // status
    "0000",     // class length
    "0000",     // header length
    "00000000", // content length
    "38a52b19", // CRC-32
];

/// All of them.
pub(crate) const ALL: &[&[&str]] = &[
    REQUEST_V1,
    ONEWAY_V2,
    REQUEST_CRC,
    RESPONSE_V1,
    RESPONSE_CRC,
    HEARTBEAT_V1,
    HEARTBEAT_ANSWER_V1,
    HEARTBEAT_ANSWER_V2,
    HEARTBEAT_CRC,
    HEARTBEAT_ANSWER_CRC,
];
