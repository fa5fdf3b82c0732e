//! Two hosts, the two WireGuards between them, and what can happen to both.
//!
//! Traffic flows all the time. A session of WireGuard lives for 180 s. Its initiator begins
//! a handshake after 120 s, and again each five seconds. It succeeds if both ends have the same
//! key at that moment. The property: no session ends before the next one begins.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    ASK_RETRY, Claim, KeyDigest, PairKey, PairKeys, PresharedKey, Reading, Standing, Step, Trial,
    next, settles,
};

const LEADER: usize = 0;
const FOLLOWER: usize = 1;

/// Milliseconds of a step.
const STEP: u64 = 250;

/// The time of day when a simulation begins, in milliseconds.
const EPOCH: u64 = 1_000_000_000;

/// What happens at a time, in seconds.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Users ask for other keys.
    Rotate,
    /// A daemon is killed, at once, and started again after so many seconds.
    Kill(usize, u64),
    /// A daemon is killed in the course of the next offer, after so many steps of it.
    KillInOffer(usize, u8, u64),
    /// The answer to the next offer is lost.
    LoseAnswer,
    /// The daemons cannot reach each other for so many seconds; the tunnel goes on.
    Partition(u64),
    /// Only the leader's requests arrive, no answers, for so many seconds.
    OneWay(u64),
    /// A daemon's clock is set by so many seconds.
    SetClock(usize, i64),
}

#[derive(Debug, Default)]
struct Daemon {
    trial: Trial,
    claim: Option<(Claim, u64)>,
    asked: Option<u64>,
    back_at: Option<u64>,
    clock: i64,
}

#[derive(Debug)]
struct End {
    disk: PairKeys,
    daemon: Daemon,
    wireguard: Option<KeyDigest>,
    /// Whether it is gotatun: a handshake that it only answered seems to be one, and it keeps the
    /// age of a handshake instead of the time of day.
    is_gotatun: bool,
    handshake: u64,
    /// The time of day of the handshake.
    told: Duration,
    /// When it was, as the daemon saw it last: every two seconds. `None` before it looks.
    seen: Option<Duration>,
}

impl End {
    fn runs(&self) -> bool {
        self.daemon.back_at.is_none()
    }

    fn program(&mut self) {
        let other = self.disk.other.as_ref().filter(|_| self.daemon.trial.uses_other);
        self.wireguard = other.or(self.disk.current.as_ref()).map(|key| key.digest);
    }

    fn claim(&self) -> Claim {
        let current = self.disk.digest();
        Claim { current, programmed: self.wireguard == current }
    }
}

#[derive(Debug)]
struct World {
    now: u64,
    ends: [End; 2],
    initiator: usize,
    session: u64,
    next_attempt: u64,
    failed: u64,
    rotation: u64,
    drawn: u64,
    /// Armed faults of the next offer.
    kill: Option<(usize, u8, u64)>,
    lose_answer: bool,
    deaf_until: u64,
    mute_until: u64,
}

fn key(number: u64, rotation: u64, drawn: Duration) -> PairKey {
    let mut octets = [7; 32];
    octets[..8].copy_from_slice(&number.to_be_bytes());
    let digest = KeyDigest::new(number.into());
    PairKey { rotation, drawn, digest, key: PresharedKey::new(&octets).unwrap() }
}

impl World {
    fn new(initiator: usize, are_gotatun: [bool; 2]) -> Self {
        let first = key(0, 0, Duration::from_secs(1_000_000));
        let disk = PairKeys { current: Some(first), other: None };
        let end = |is_gotatun| End {
            disk: disk.clone(),
            daemon: Daemon::default(),
            wireguard: disk.digest(),
            is_gotatun,
            handshake: 0,
            told: Duration::from_millis(EPOCH),
            seen: None,
        };
        Self {
            now: 0,
            ends: are_gotatun.map(end),
            initiator,
            session: 0,
            next_attempt: 120_000,
            failed: 0,
            rotation: 0,
            drawn: 0,
            kill: None,
            lose_answer: false,
            deaf_until: 0,
            mute_until: 0,
        }
    }

    fn mono(&self) -> Duration {
        Duration::from_millis(self.now + 3_600_000)
    }

    fn wall(&self, end: usize) -> Duration {
        let clock = self.ends[end].daemon.clock;
        Duration::from_millis(EPOCH + self.now).checked_add_signed(clock)
    }

    fn handshake(&mut self) {
        if self.now < self.next_attempt {
            return;
        }
        self.next_attempt = self.now + 5_250;
        if self.ends[LEADER].wireguard == self.ends[FOLLOWER].wireguard {
            self.note_handshake(LEADER);
            self.note_handshake(FOLLOWER);
            (self.session, self.failed, self.next_attempt) = (self.now, 0, self.now + 120_000);
            return;
        }
        self.failed += 1;
        let responder = 1 - self.initiator;
        if self.ends[responder].is_gotatun {
            self.note_handshake(responder);
            assert!(self.failed < 8, "{self:#?}");
        }
    }

    fn note_handshake(&mut self, end: usize) {
        let (now, told) = (self.now, self.wall(end));
        (self.ends[end].handshake, self.ends[end].told) = (now, told);
    }

    fn kill(&mut self, end: usize, seconds: u64) {
        if self.ends.iter().all(End::runs) {
            let clock = self.ends[end].daemon.clock;
            let back_at = Some(self.now + seconds * 1000);
            self.ends[end].daemon = Daemon { back_at, clock, ..Daemon::default() };
            self.ends[end].seen = None;
        }
    }

    /// Whether the daemon lives after this step of an offer.
    fn survives(&mut self, end: usize, step: u8) -> bool {
        match self.kill {
            Some((victim, at, seconds)) if victim == end && at == step => {
                self.kill = None;
                self.kill(end, seconds);
                false
            }
            _ => true,
        }
    }

    fn tick(&mut self, end: usize) {
        if self.ends[end].daemon.back_at.is_some_and(|at| self.now >= at) {
            self.ends[end].daemon.back_at = None;
            self.ends[end].program();
        }
        if !self.ends[end].runs() {
            return;
        }
        let (mono, wall) = (self.mono(), self.wall(end));
        let it = &mut self.ends[end];
        if (self.now / 1000).is_multiple_of(2) || it.seen.is_none() {
            let age = Duration::from_millis(self.now - it.handshake);
            it.seen = Some(if it.is_gotatun { wall.saturating_sub(age) } else { it.told });
        }
        let reading = Reading { handshake: it.seen, time_of_day: wall, now: mono };
        if it.daemon.trial.decide(&it.disk, end == LEADER, reading) {
            it.disk = it.disk.swapped();
        }
        it.program();
        if end == LEADER {
            self.lead();
        }
    }

    fn lead(&mut self) {
        let leader = &self.ends[LEADER];
        let claim = leader.daemon.claim;
        let standing = Standing {
            keys: &leader.disk,
            programmed: leader.claim().programmed,
            claim: claim.map(|(claim, at)| (claim, Duration::from_millis(self.now - at))),
            session: leader.daemon.trial.session(self.mono()),
            rotation: self.rotation,
            now: self.wall(LEADER),
        };
        let step = next(&standing);
        let leader = &mut self.ends[LEADER];
        match step {
            Step::Nothing => {}
            Step::Ask => {
                let retry = u64::try_from(ASK_RETRY.as_millis()).unwrap();
                if leader.daemon.asked.is_none_or(|at| self.now >= at + retry) {
                    leader.daemon.asked = Some(self.now);
                    self.call(None);
                }
            }
            Step::Swap => {
                leader.disk = leader.disk.swapped();
                let mono = self.mono();
                self.ends[LEADER].daemon.trial.note_contact(mono);
                if self.survives(LEADER, 3) {
                    self.ends[LEADER].program();
                }
            }
            Step::Settle => {
                leader.disk = leader.disk.settled();
                leader.daemon.claim = None;
                leader.daemon.asked = None;
            }
            Step::Offer => {
                self.drawn += 1;
                let offer = key(self.drawn, self.rotation, self.wall(LEADER));
                let leader = &mut self.ends[LEADER];
                leader.disk = leader.disk.offering(offer.clone());
                leader.daemon.claim = None;
                if self.survives(LEADER, 0) {
                    self.call(Some(offer));
                }
            }
        }
    }

    /// A call of the leader, and its answer.
    fn call(&mut self, offer: Option<PairKey>) {
        let leader = self.ends[LEADER].claim();
        let is_offer = offer.is_some();
        if self.now < self.deaf_until || !self.ends[FOLLOWER].runs() {
            return;
        }
        let mono = self.mono();
        let follower = &mut self.ends[FOLLOWER];
        follower.daemon.trial.note_contact(mono);
        follower.program();
        match offer {
            Some(offer) => {
                follower.disk = follower.disk.taking(offer, leader.current);
                if !self.survives(FOLLOWER, 1) {
                    return;
                }
                self.ends[FOLLOWER].program();
            }
            None if settles(&follower.disk, follower.claim().programmed, &leader) => {
                follower.disk = follower.disk.settled();
            }
            None => {}
        }
        let answer = self.ends[FOLLOWER].claim();
        if is_offer && (!self.survives(FOLLOWER, 2) || !self.survives(LEADER, 1)) {
            return;
        }
        let is_lost = is_offer && std::mem::take(&mut self.lose_answer);
        if is_lost || self.now < self.mute_until || !self.ends[LEADER].runs() {
            return;
        }
        let leader = &mut self.ends[LEADER].daemon;
        leader.claim = Some((answer, self.now));
        leader.trial.note_contact(mono);
        if is_offer {
            self.survives(LEADER, 2);
        }
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Rotate => self.rotation += 1,
            Fault::Kill(end, seconds) => self.kill(end, seconds),
            Fault::KillInOffer(end, step, seconds) => {
                self.kill = Some((end, step, seconds));
                self.rotation += 1;
            }
            Fault::LoseAnswer => {
                self.lose_answer = true;
                self.rotation += 1;
            }
            Fault::Partition(seconds) => self.deaf_until = self.now + seconds * 1000,
            Fault::OneWay(seconds) => self.mute_until = self.now + seconds * 1000,
            Fault::SetClock(end, seconds) => self.ends[end].daemon.clock += seconds * 1000,
        }
    }

    /// Lets these faults happen, and checks that the two ends have one key in the end.
    fn run_to_the_end(&mut self, faults: &[(u64, Fault)]) {
        self.run(faults, 3600);
        // Armed faults never happened.
        (self.kill, self.lose_answer) = (None, false);
        self.run(&[], 1500);
        let [leader, follower] = &self.ends;
        assert_eq!(leader.disk, follower.disk, "{self:#?}");
        assert!(leader.disk.other.is_none(), "{self:#?}");
        assert_eq!(leader.disk.current.as_ref().unwrap().rotation, self.rotation);
        assert_eq!(leader.wireguard, leader.disk.digest());
        assert_eq!(follower.wireguard, leader.disk.digest());
    }

    fn run(&mut self, faults: &[(u64, Fault)], seconds: u64) {
        let until = self.now + seconds * 1000;
        while self.now < until {
            let now = self.now;
            for (_, fault) in faults.iter().filter(|(at, _)| *at == now) {
                self.suffer(*fault);
            }
            // The daemons' seconds begin at different moments.
            if self.now.is_multiple_of(1000) {
                self.tick(LEADER);
            }
            if self.now % 1000 == 500 {
                self.tick(FOLLOWER);
            }
            self.handshake();
            assert!(self.now - self.session < 180_000, "a session ended: {self:#?}");
            self.now += STEP;
        }
    }
}

trait AddSigned {
    fn checked_add_signed(self, milliseconds: i64) -> Duration;
}

impl AddSigned for Duration {
    fn checked_add_signed(self, milliseconds: i64) -> Duration {
        let change = Duration::from_millis(milliseconds.unsigned_abs());
        if milliseconds < 0 { self.saturating_sub(change) } else { self + change }
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    let end = || 0..2_usize;
    let time = || prop_oneof![1..20_u64, 100..200_u64, 20..900_u64];
    prop_oneof![
        2 => Just(Fault::Rotate),
        1 => (end(), time()).prop_map(|(end, time)| Fault::Kill(end, time)),
        6 => (end(), 0..4_u8, time())
            .prop_map(|(end, step, time)| Fault::KillInOffer(end, step, time)),
        2 => Just(Fault::LoseAnswer),
        3 => time().prop_map(Fault::Partition),
        1 => time().prop_map(Fault::OneWay),
        1 => (end(), -100_000..100_000_i64).prop_map(|(end, time)| Fault::SetClock(end, time)),
    ]
}

/// Times in milliseconds, many of them close to the one before.
fn faults() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let pause = prop_oneof![0..12_u64, 0..300 * 4_u64];
    proptest::collection::vec((pause, fault()), 0..8).prop_map(|faults| {
        let mut at = 4000;
        faults
            .into_iter()
            .map(|(pause, fault)| {
                at += pause * STEP;
                (at, fault)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_session_ends_and_the_ends_agree_in_the_end(
        initiator in 0..2_usize,
        are_gotatun in any::<[bool; 2]>(),
        faults in faults(),
    ) {
        World::new(initiator, are_gotatun).run_to_the_end(&faults);
    }
}

/// What the property above has found.
#[test]
fn a_clock_that_is_set_does_not_begin_a_trial() {
    use Fault::{Kill, KillInOffer, Partition, Rotate, SetClock};
    for (are_gotatun, faults) in [
        (
            [false, true],
            &[
                (4000, KillInOffer(LEADER, 1, 1)),
                (4250, Partition(100)),
                (4500, KillInOffer(LEADER, 1, 1)),
                (6000, SetClock(LEADER, -15)),
                (14_000, KillInOffer(LEADER, 0, 1)),
                (14_250, Kill(LEADER, 137)),
            ][..],
        ),
        (
            [false, false],
            &[
                (167_500, SetClock(FOLLOWER, -1021)),
                (294_250, Kill(FOLLOWER, 111)),
                (294_250, Rotate),
                (294_250, KillInOffer(LEADER, 1, 130)),
            ],
        ),
    ] {
        World::new(LEADER, are_gotatun).run_to_the_end(faults);
    }
}

/// Each daemon is killed at each step of an offer, at each age of the session, and stays away.
#[test]
fn every_kill_at_every_age_leaves_one_key() {
    for initiator in [LEADER, FOLLOWER] {
        for are_gotatun in [[true; 2], [false; 2], [true, false]] {
            for (end, step) in
                [(LEADER, 0), (LEADER, 1), (LEADER, 2), (LEADER, 3), (FOLLOWER, 1), (FOLLOWER, 2)]
            {
                for age in (4..140).step_by(2) {
                    let mut world = World::new(initiator, are_gotatun);
                    world.run(&[(age * 1000, Fault::KillInOffer(end, step, 700))], 1500);
                    assert!(world.kill.is_none(), "it was not killed");
                    let [leader, follower] = &world.ends;
                    assert_eq!(leader.disk, follower.disk);
                    assert_eq!(leader.disk.current.as_ref().unwrap().rotation, 1);
                    assert_eq!(leader.wireguard, follower.wireguard);
                }
            }
        }
    }
}
