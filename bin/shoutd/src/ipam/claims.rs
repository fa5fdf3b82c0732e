//! Claims on an address or a MAC address that Docker requests: that it becomes this host's alone.
//!
//! A handler of a plugin call sends a claim and awaits its answer. The claims task carries it out
//! (`crate::ipam::claimer`).

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use shoutd_core::NetworkId;
use shoutd_core::driver::Wanted;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::membership::agreement::AgreementError;

/// How many claims wait: an engine that starts all its containers makes some for each.
const QUEUE_MAX: usize = 256;

/// How long a claim may take. A plugin call is answered within 30 s.
const DEADLINE: Duration = Duration::from_secs(25);

/// What a handler needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// No endpoint of this host has it whose container is gone. An engine that was killed requests
    /// an address again without `DeleteEndpoint`.
    NoneGone(Wanted),
    /// The address is leased to this host, if necessary from another host's stock.
    Leased(IpAddr),
    /// The same for an address that the engine may have chosen. If it is not available, the error
    /// names one that is.
    LeasedOrExplained(IpAddr),
    /// Another host has yielded any unused address in this range to this host.
    Spare(IpNet),
}

/// A claim in the queue.
#[derive(Debug)]
pub struct Pending {
    pub(super) network: NetworkId,
    pub(super) claim: Claim,
    pub(super) answer: oneshot::Sender<Result<(), AgreementError>>,
}

/// Sends claims to the task.
#[derive(Debug)]
pub struct Claims {
    queue: mpsc::Sender<Pending>,
}

impl Claims {
    /// The queue, and its end for the task.
    pub fn new() -> (Self, mpsc::Receiver<Pending>) {
        let (queue, pending) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, pending)
    }

    /// Waits until the claim is met.
    ///
    /// # Errors
    /// It cannot be met, or not in time; or shoutd is stopping.
    pub async fn met(&self, network: &NetworkId, claim: Claim) -> Result<(), AgreementError> {
        let (answer, answered) = oneshot::channel();
        let pending = Pending { network: network.clone(), claim, answer };
        let asked = async {
            // Either fails only if the task has ended, or has panicked.
            self.queue.send(pending).await.ok()?;
            answered.await.ok()
        };
        match timeout(DEADLINE, asked).await {
            Ok(Some(met)) => met,
            Ok(None) => Err(AgreementError::Local("shoutd is stopping".to_owned())),
            Err(_) => Err(AgreementError::Local(format!(
                "the address is not available within {} s",
                DEADLINE.as_secs()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkId {
        "aaaaaaaaaaaaaaaa".parse().unwrap()
    }

    #[tokio::test]
    async fn a_claim_gets_the_answer_of_the_task() {
        let (claims, mut pending) = Claims::new();
        let address = "10.1.0.7".parse().unwrap();
        let id = network();
        let (met, ()) = tokio::join!(claims.met(&id, Claim::Leased(address)), async {
            let claim = pending.recv().await.unwrap();
            assert_eq!((claim.network, claim.claim), (network(), Claim::Leased(address)));
            claim.answer.send(Ok(())).unwrap();
        });
        assert!(met.is_ok());
    }

    #[tokio::test]
    async fn a_claim_is_answered_when_the_task_ends() {
        let (claims, mut pending) = Claims::new();
        let claim = Claim::Spare("10.1.0.0/16".parse().unwrap());
        let id = network();
        let (met, ()) = tokio::join!(claims.met(&id, claim), async {
            drop(pending.recv().await);
        });
        assert_eq!(met.unwrap_err().to_string(), "shoutd is stopping");
        drop(pending);
        assert_eq!(claims.met(&id, claim).await.unwrap_err().to_string(), "shoutd is stopping");
    }
}
