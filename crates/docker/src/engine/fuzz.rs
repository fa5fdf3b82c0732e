//! Fuzz targets of the engine's answers and events. The corpus is from engines 20.10 and 29.

use bytes::Bytes;
use shoutd_fuzz::fuzz;

use super::connection::ApiVersion;
use super::{events, model, plugins};

#[test]
fn fuzz_engine_answer() {
    fuzz("engine_answer", env!("CARGO_MANIFEST_DIR"), |answer| {
        let body = Bytes::copy_from_slice(answer);
        let version =
            std::str::from_utf8(answer).ok().and_then(|text| text.parse::<ApiVersion>().ok());
        let info = "1.41".parse().map(|version| model::parse_info(version, &body));
        let plugin = plugins::parse_plugin(answer);
        (version, info, plugin, model::parse_networks(&body), model::parse_network(&body))
    });
}

#[test]
fn fuzz_engine_event() {
    fuzz("engine_event", env!("CARGO_MANIFEST_DIR"), events::parse);
}
