//! Frames as Dubbo 3.2.14 writes them: of `where(String)` and others of `shop.Cart`, version 1.2.0, group
//! `blue`.

/// `where("item")` with the attachment `tag`, in hessian2.
pub(crate) const REQUEST: &[&str] = &[
    "dabb",                                                                             // magic
    "c2",                                                                               // flags
    "00",                                                                               // status
    "12327c1a8b314749",                                                                 // id
    "000000a0",                                                                         // length
    "05322e302e32",                           // version of Dubbo
    "0973686f702e43617274",                   // path
    "05312e322e30",                           // version
    "057768657265",                           // method
    "124c6a6176612f6c616e672f537472696e673b", // types
    "046974656d",                             // arguments
    "4804706174680973686f702e436172741272656d6f74652e6170706c69636174696f6e0473686f70", // attachments
    "03746167046772617909696e746572666163650973686f702e436172740776657273696f6e05312e",
    "322e300774696d656f757404323030300567726f757004626c75655a",
];

/// `mixed` with an object that holds another, a list, an array and a map with references, in hessian2.
pub(crate) const MIXED: &[&str] = &[
    "dabb",                                                                             // magic
    "c2",                                                                               // flags
    "00",                                                                               // status
    "12327c1a8b31474c",                                                                 // id
    "00000183",                                                                         // length
    "05322e302e32",         // version of Dubbo
    "0973686f702e43617274", // path
    "05312e322e30",         // version
    "056d69786564",         // method
    "302c4c73686f702f4974656d3b4c6a6176612f7574696c2f4c6973743b5b4a4c6a6176612f757469", // types
    "6c2f4d61703b",
    "430973686f702e4974656d96046e65787407706963747572650573696e636505707269636505636f", // arguments
    "756e74046e616d6560604e2c0000000000000000000000004a0000018bcfe56800443fdb6db6db6d",
    "b6db49000493e00374776f2c0000000000000000000000004a0000018bcfe56800443fdb6db6db6d",
    "b6db49000493e0036f6e65721a6a6176612e7574696c2e4172726179732441727261794c69737451",
    "90519173055b6c6f6e67e1db4c000001000000000048037965735405616761696e5190076e6f7468",
    "696e674e5a",
    "4804706174680973686f702e436172741272656d6f74652e6170706c69636174696f6e0473686f70", // attachments
    "03746167046772617909696e746572666163650973686f702e436172740776657273696f6e05312e",
    "322e300774696d656f757404323030300567726f757004626c75655a",
];

/// `payload` with characters beyond the basic plane, in hessian2.
pub(crate) const SURROGATES: &[&str] = &[
    "dabb",                                                                             // magic
    "c2",                                                                               // flags
    "00",                                                                               // status
    "12327c1a8b31474b",                                                                 // id
    "000000c5",                                                                         // length
    "05322e302e32",                           // version of Dubbo
    "0973686f702e43617274",                   // path
    "05312e322e30",                           // version
    "077061796c6f6164",                       // method
    "124c6a6176612f6c616e672f537472696e673b", // types
    "12c3a4eda0bdedb880c3a4eda0bdedb880c3a4eda0bdedb880c3a4eda0bdedb880c3a4eda0bdedb8", // arguments
    "80c3a4eda0bdedb880",
    "4804706174680973686f702e436172741272656d6f74652e6170706c69636174696f6e0473686f70", // attachments
    "09696e746572666163650973686f702e436172740776657273696f6e05312e322e300774696d656f",
    "757404323030300567726f757004626c75655a",
];

/// `note("x")`, which wants no answer.
pub(crate) const ONEWAY: &[&str] = &[
    "dabb",                                                                             // magic
    "82",                                                                               // flags
    "00",                                                                               // status
    "12327c1a8b31474d",                                                                 // id
    "00000093",                                                                         // length
    "05322e302e32",                           // version of Dubbo
    "0973686f702e43617274",                   // path
    "05312e322e30",                           // version
    "046e6f7465",                             // method
    "124c6a6176612f6c616e672f537472696e673b", // types
    "0178",                                   // arguments
    "4804706174680973686f702e436172741272656d6f74652e6170706c69636174696f6e0473686f70", // attachments
    "09696e746572666163650973686f702e436172740776657273696f6e05312e322e300774696d656f",
    "757404323030300567726f757004626c75655a",
];

/// `v1`, with attachments.
pub(crate) const RESPONSE: &[&str] = &[
    "dabb",                         // magic
    "02",                           // flags
    "14",                           // status
    "12327c1a8b314749",             // id
    "00000012",                     // length
    "94",                           // a value, with attachments
    "027631",                       // it
    "4805647562626f05322e302e325a", // attachments
];

/// What `mixed` returns.
pub(crate) const MIXED_RESPONSE: &[&str] = &[
    "dabb",             // magic
    "02",               // flags
    "14",               // status
    "12327c1a8b31474c", // id
    "000000f1",         // length
    "94",               // a value, with attachments
    "48046974656d430973686f702e4974656d96046e65787407706963747572650573696e6365057072",
    "69636505636f756e74046e616d6560604e2c0000000000000000000000004a0000018bcfe5680044",
    "3fdb6db6db6db6db49000493e00374776f2c0000000000000000000000004a0000018bcfe5680044",
    "3fdb6db6db6db6db49000493e0036f6e65037965735405616761696e5191076e6f7468696e674e07",
    "6e756d6265727373055b6c6f6e67e1db4c0000010000000000037461670467726179056974656d73",
    "72136a6176612e7574696c2e41727261794c697374519151925a4805647562626f05322e302e325a",
];

/// A heartbeat in hessian2.
pub(crate) const HEARTBEAT: &[&str] = &[
    "dabb",             // magic
    "e2",               // flags
    "00",               // status
    "12327c1a8b314748", // id
    "00000001",         // length
    "4e",               // null
];

/// Its answer.
pub(crate) const HEARTBEAT_ANSWER: &[&str] = &[
    "dabb",             // magic
    "22",               // flags
    "14",               // status
    "12327c1a8b314748", // id
    "00000001",         // length
    "4e",               // null
];

/// `where("item")` in fastjson2.
pub(crate) const REQUEST_FASTJSON2: &[&str] = &[
    "dabb",                                                                             // magic
    "d7",                                                                               // flags
    "00",                                                                               // status
    "1c5826760d662d35",                                                                 // id
    "000000bc",                                                                         // length
    "000000064e322e302e32",                           // version of Dubbo
    "0000000a5273686f702e43617274",                   // path
    "000000064e312e322e30",                           // version
    "000000064e7768657265",                           // method
    "000000135b4c6a6176612f6c616e672f537472696e673b", // types
    "000000054d6974656d",                             // argument
    "0000006ca64d706174685273686f702e436172745b72656d6f74652e6170706c69636174696f6e4d", // attachments
    "73686f704c7461674d6772617952696e746572666163655273686f702e436172745076657273696f",
    "6e4e312e322e305074696d656f75744d323030304e67726f75704d626c7565a5",
];

/// `v1` in fastjson2.
pub(crate) const RESPONSE_FASTJSON2: &[&str] = &[
    "dabb",                                 // magic
    "17",                                   // flags
    "14",                                   // status
    "1c5826760d662d35",                     // id
    "0000001f",                             // length
    "00000002bd04",                         // a value, with attachments
    "000000034b7631",                       // it
    "0000000ea64e647562626f4e322e302e32a5", // attachments
];

/// A heartbeat in fastjson2.
pub(crate) const HEARTBEAT_FASTJSON2: &[&str] = &[
    "dabb",             // magic
    "f7",               // flags
    "00",               // status
    "1c5826760d662d34", // id
    "00000005",         // length
    "00000001af",       // null
];

/// All of them.
pub(crate) const ALL: &[&[&str]] = &[
    REQUEST,
    MIXED,
    SURROGATES,
    ONEWAY,
    RESPONSE,
    MIXED_RESPONSE,
    HEARTBEAT,
    HEARTBEAT_ANSWER,
    REQUEST_FASTJSON2,
    RESPONSE_FASTJSON2,
    HEARTBEAT_FASTJSON2,
];
