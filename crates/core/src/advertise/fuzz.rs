//! Fuzz targets for what peers advertise, and for their answers to advertisements.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use shoutd_fuzz::fuzz;

use super::{
    ClaimValidation, Content, InboundSessions, Known, Message, OutboundSession, PeerStates, Reply,
    ReportedRejection,
};
use crate::HostId;
use crate::cluster::{Cluster, Command};
use crate::limits::{MESSAGE_ITEMS_MAX, REPORTED_REJECTIONS_MAX};
use crate::local::Local;

fn read<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(line).ok()
}

/// This host, to which another one advertises.
#[derive(Default)]
struct Here {
    cluster: Cluster,
    local: Local,
    inbound: InboundSessions,
    validation: ClaimValidation,
    peers: Arc<PeerStates>,
}

impl Here {
    /// As the daemon takes a message.
    fn receive(
        &mut self,
        host: HostId,
        message: &Message,
        now: Duration,
    ) -> (Option<Reply>, Vec<ReportedRejection>) {
        let agreed = BTreeMap::from([(
            host,
            self.cluster.networks.keys().cloned().collect::<BTreeSet<_>>(),
        )]);
        self.inbound.track(&self.cluster, agreed, now);
        let reply = self.inbound.receive(host, message, now).ok();
        let advertised = self.inbound.peer_state(host, now);
        let known = Known { cluster: &self.cluster, local: &self.local };
        self.validation.update(&mut self.peers, host, advertised, known, now);
        let rejections = self.validation.rejections(host, &self.cluster, now);
        assert!(
            rejections.len() <= REPORTED_REJECTIONS_MAX,
            "{} rejections are reported",
            rejections.len()
        );
        (reply, rejections)
    }
}

/// Each line is a committed command, a message of one host, or that host's answer to a message.
/// One second passes with each line.
#[test]
fn fuzz_advertisement() {
    let host: HostId = "0123456789abcdef".parse().unwrap();
    fuzz("advertisement", env!("CARGO_MANIFEST_DIR"), |lines| {
        let (mut here, mut outbound, mut sequence) = (Here::default(), OutboundSession::new(7), 0);
        let mut outcomes = Vec::new();
        for (line, second) in lines.split(|octet| *octet == b'\n').take(32).zip(0..) {
            let now = Duration::from_secs(second);
            if let Some(command) = read::<Command>(line) {
                outcomes.push(here.cluster.apply(&command).is_ok().to_string());
            }
            if let Some(message) = read::<Message>(line) {
                let (reply, rejections) = here.receive(host, &message, now);
                outcomes.push(format!("{reply:?} {}", rejections.len()));
                // This host advertises what it accepted, in messages of bounded size.
                let heard = here
                    .peers
                    .hosts
                    .get(&host)
                    .map_or_else(Content::new, |heard| heard.networks.clone());
                outbound.want(heard);
            }
            if let Some(sent) = outbound.next(&mut sequence, now) {
                let again = serde_json::to_vec(&*sent).unwrap();
                assert_eq!(
                    read::<Message>(&again).as_ref(),
                    Some(&*sent),
                    "it is not read as it was written"
                );
                assert!(
                    again.len() < MESSAGE_ITEMS_MAX * 1024,
                    "a message of {} octets",
                    again.len()
                );
            }
            if let Some(reply) = read::<Reply>(line) {
                outbound.answered(&reply, second, now);
                outcomes.push(format!("{:?}", outbound.wake().is_some()));
                if let Reply::Has { rejections, .. } = reply {
                    outcomes.extend(
                        rejections
                            .into_iter()
                            .map(|rejection| rejection.bounded().text.len().min(64).to_string()),
                    );
                }
            }
        }
        outcomes
    });
}
