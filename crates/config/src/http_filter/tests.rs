//! What routes change about filters: what is read, what is refused, and which level counts.

use weft_proto::pb::envoy::config::route::v3::Route as Pb;

use super::convert::overrides;
use super::{FilterOverride, FilterOverrides, OverrideLevels};
use crate::pass::{Context, Pass};
use crate::testing::yaml;

const FILTER_CONFIG: &str = "'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig";
const RBAC: &str =
    "{'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute}";

fn read(text: &str) -> Result<FilterOverrides, String> {
    let message: Pb = yaml(&format!("{{typed_per_filter_config: {{f: {text}}}}}"));
    let loaded = Pass::run(&Context::default(), "route".to_owned(), |p| {
        Some(overrides(p, &message.typed_per_filter_config))
    });
    loaded
        .map(|loaded| loaded.value)
        .map_err(|error| error.to_string())
}

fn good(text: &str) -> FilterOverrides {
    read(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_filter_config_without_a_meaning_is_refused() {
    for (text, wanted) in [
        (
            format!("{{{FILTER_CONFIG}}}"),
            "typed_per_filter_config[\"f\"].config: is required, as in Envoy",
        ),
        (
            format!("{{{FILTER_CONFIG}, config: {{{FILTER_CONFIG}, disabled: true}}}}"),
            "config: envoy.config.route.v3.FilterConfig is not supported",
        ),
        ("{}".to_owned(), "\"@type\" is missing"),
    ] {
        let error = read(&text).expect_err(&text);
        assert!(error.contains(wanted), "{error}\\nwanted {wanted}");
    }
}

#[test]
fn the_most_specific_switch_and_the_most_specific_settings_count_apart() {
    let off = good(&format!(
        "{{{FILTER_CONFIG}, disabled: true, config: {RBAC}}}"
    ));
    let on = good(&format!("{{{FILTER_CONFIG}, config: {{}}}}"));
    let rules = good(&format!("{{{FILTER_CONFIG}, config: {RBAC}}}"));
    let plain = good(RBAC);
    let left_out = "{'@type': type.googleapis.com/google.protobuf.Struct, value: {}}";
    let nothing = good(&format!(
        "{{{FILTER_CONFIG}, is_optional: true, config: {left_out}}}"
    ));
    for (levels, disabled, settings) in [
        ([None, None, None, None], None, false),
        ([None, None, Some(&off), None], Some(true), false),
        ([None, Some(&on), Some(&off), None], Some(false), false),
        ([None, Some(&on), Some(&rules), None], Some(false), true),
        ([None, Some(&off), Some(&plain), None], Some(true), true),
        ([Some(&plain), Some(&off), None, None], Some(false), true),
        ([Some(&nothing), Some(&off), None, None], Some(true), false),
        ([None, None, None, Some(&off)], Some(true), false),
    ] {
        let levels = OverrideLevels(levels);
        assert_eq!(levels.disabled("f"), disabled, "{levels:?}");
        let found = levels.settings("f");
        assert_eq!(
            matches!(found, Some(FilterOverride::Rbac(None))),
            settings,
            "{levels:?}"
        );
        assert_eq!(levels.disabled("g"), None);
    }
}

#[test]
fn settings_may_be_written_as_typed_struct() {
    let written = |kind: &str, name: &str, value: &str| {
        format!(
            "{{'@type': type.googleapis.com/{kind}.TypedStruct, type_url: type.googleapis.com/{name}, value: {value}}}"
        )
    };
    let limit = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
    let bucket = "{stat_prefix: a, token_bucket: {max_tokens: 1, fill_interval: 1s}}";
    for kind in ["udpa.type.v1", "xds.type.v3"] {
        let plain = written(kind, limit, bucket);
        let inside = format!("{{{FILTER_CONFIG}, config: {plain}}}");
        for text in [&plain, &inside] {
            let found = good(text);
            let found = found.get("f");
            assert!(
                matches!(found, Some(FilterOverride::LocalRateLimit(_))),
                "{found:?}"
            );
        }
        let off = good(&written(
            kind,
            "envoy.config.route.v3.FilterConfig",
            "{disabled: true}",
        ));
        assert!(matches!(off.get("f"), Some(FilterOverride::Disabled)));
    }
    for (name, value, wanted) in [
        (
            limit,
            "{stat_prefix: a}",
            "[\"f\"].value.token_bucket: is required",
        ),
        (limit, "{stat: a}", "[\"f\"].value: unknown field \"stat\""),
        (
            "google.protobuf.Struct",
            "{}",
            "google.protobuf.Struct is not supported",
        ),
        ("a.B", "{}", "[\"f\"].type_url: a.B is not supported"),
    ] {
        let error = read(&written("xds.type.v3", name, value)).expect_err(value);
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
    let left_out = written("xds.type.v3", "a.B", "{}");
    let nothing = good(&format!(
        "{{{FILTER_CONFIG}, is_optional: true, config: {left_out}}}"
    ));
    assert!(nothing.get("f").is_none());
}
