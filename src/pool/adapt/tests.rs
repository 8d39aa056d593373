//! The limiter before a model of a server, in virtual time.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::clock::Clock;

/// Seconds of each phase.
const PHASE: f64 = 600.0;
const SERVICE: f64 = 0.020;
const CLIENTS: usize = 100;
const SAMPLE: f64 = 0.5;

/// A server that works on `capacity` transactions at a time; more of them share it, and stand in each other's way.
struct Server {
    capacity: f64,
    contention: f64,
}

impl Server {
    /// Transactions a second with `n` at work.
    fn rate(&self, n: usize) -> f64 {
        let n = n as f64;
        n.min(self.capacity) / SERVICE / (1.0 + self.contention * (n - self.capacity).max(0.0))
    }
}

/// Clients that ask again as soon as they are answered.
struct Model {
    rng: StdRng,
    server: Server,
    now: f64,
    started: Instant,
    /// When each client has asked: those that wait, in order, and those at work.
    queue: std::collections::VecDeque<f64>,
    active: Vec<f64>,
    totals: Sample,
}

/// Throughput and the 99th percentile of wait and work together.
#[derive(Debug)]
struct Outcome {
    rate: f64,
    p99: f64,
}

impl Model {
    fn new(seed: u64, capacity: f64, contention: f64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            server: Server { capacity, contention },
            now: 0.0,
            started: Clock::now(),
            queue: vec![0.0; CLIENTS].into(),
            active: Vec::new(),
            totals: Sample::default(),
        }
    }

    /// One phase; `size` is asked twice a second with what a pool would show.
    fn run(&mut self, mut size: impl FnMut(Instant, Option<Sample>) -> usize) -> Outcome {
        let until = self.now + PHASE;
        let mut limit = size(self.started, None);
        let (mut next, mut took) = (self.now + SAMPLE, Vec::new());
        while self.now < until {
            while self.active.len() < limit
                && let Some(asked) = self.queue.pop_front()
            {
                self.active.push(asked);
            }
            let n = self.active.len();
            // Exponential: whoever is at work may be the next to end.
            let step = -(1.0 - self.rng.random::<f64>()).ln() / self.server.rate(n);
            if self.now + step >= next {
                self.totals.server_us += ((next - self.now) * 1e6) as u64 * n as u64;
                self.now = next;
                next += SAMPLE;
                let sample = Sample { waiting: self.queue.len(), open: n.max(limit), ..self.totals };
                limit = size(self.started + Duration::from_secs_f64(self.now), Some(sample));
                continue;
            }
            self.totals.server_us += (step * 1e6) as u64 * n as u64;
            self.now += step;
            let asked = self.active.swap_remove(self.rng.random_range(0..n));
            took.push(self.now - asked);
            self.totals.transactions += 1;
            self.queue.push_back(self.now);
        }
        took.sort_by(f64::total_cmp);
        Outcome { rate: took.len() as f64 / PHASE, p99: took[took.len() * 99 / 100] }
    }
}

const CAPACITIES: [f64; 3] = [20.0, 10.0, 20.0];

fn fixed(seed: u64, contention: f64, size: usize) -> Vec<Outcome> {
    let mut model = Model::new(seed, CAPACITIES[0], contention);
    phases(&mut model, |_, _| size)
}

fn phases(model: &mut Model, mut size: impl FnMut(Instant, Option<Sample>) -> usize) -> Vec<Outcome> {
    let mut run = |capacity| {
        model.server.capacity = capacity;
        model.run(&mut size)
    };
    CAPACITIES.into_iter().map(&mut run).collect()
}

fn adapted(seed: u64, contention: f64) -> (Vec<Outcome>, Vec<Decision>) {
    let mut limiter = Limiter::new(2, 60);
    let mut model = Model::new(seed, CAPACITIES[0], contention);
    let mut decisions = Vec::new();
    let outcomes = phases(&mut model, |now, sample| {
        decisions.extend(sample.and_then(|s| limiter.sample(now, s)));
        limiter.limit()
    });
    (outcomes, decisions)
}

#[test]
fn a_server_that_loses_half_its_capacity_and_gets_it_back_is_followed() {
    for (seed, contention) in [(1, 0.02), (2, 0.05), (3, 0.03)] {
        let best = [fixed(seed, contention, 20), fixed(seed, contention, 10), fixed(seed, contention, 60)];
        let (auto, decisions) = adapted(seed, contention);
        let told = || decisions.iter().map(|d| format!("{d}\n")).collect::<String>();
        for (phase, (auto, best_of)) in auto.iter().zip([0, 1, 0]).enumerate() {
            let (right, wrong) = (&best[best_of][phase], &best[2][phase]);
            assert!(
                auto.rate >= right.rate * 0.9,
                "seed {seed}, contention {contention}, phase {phase}: {auto:?}, best {right:?}\n{}",
                told()
            );
            assert!(
                auto.p99 < wrong.p99,
                "seed {seed}, phase {phase}: {auto:?}, wrong {wrong:?}\n{}",
                told()
            );
        }
        // The size that was right before is wrong now.
        assert!(
            auto[1].p99 < best[0][1].p99 && auto[2].p99 < best[1][2].p99,
            "seed {seed}: {auto:?}, {best:?}"
        );
        assert!(decisions.iter().any(|d| d.reason == Reason::Slower), "{}", told());
    }
}

#[test]
fn a_pool_for_which_nobody_waits_keeps_its_size() {
    let mut limiter = Limiter::new(3, 20);
    let start = Clock::now();
    for i in 0..1000u64 {
        let sample = Sample { transactions: i * 500, server_us: i * 500_000, waiting: 0, open: 3 };
        assert_eq!(limiter.sample(start + Duration::from_millis(500 * i), sample), None);
    }
    assert_eq!((limiter.limit(), limiter.last()), (3, None));
}

#[test]
fn a_queue_for_something_else_moves_nothing() {
    // Fewer are open than the size allows: another limit holds them back.
    let mut limiter = Limiter::new(3, 20);
    let start = Clock::now();
    for i in 0..1000u64 {
        let sample = Sample { transactions: i * 500, server_us: i * 500_000, waiting: 9, open: 2 };
        assert_eq!(limiter.sample(start + Duration::from_millis(500 * i), sample), None);
    }
}

#[test]
fn what_cannot_be_opened_is_given_up() {
    let mut limiter = Limiter::new(3, 20);
    let start = Clock::now();
    let mut decisions = Vec::new();
    for i in 0..40u64 {
        let sample = Sample { transactions: i * 500, server_us: i * 500_000, waiting: 9, open: 3 };
        decisions.extend(limiter.sample(start + Duration::from_millis(500 * i), sample));
    }
    let reasons: Vec<_> = decisions.iter().map(|d| (d.from, d.to, d.reason)).collect();
    assert_eq!(reasons[..2], [(3, 6, Reason::TryMore), (6, 3, Reason::Unclear)]);
}

#[test]
fn bounds_that_meet_are_a_fixed_size() {
    let mut limiter = Limiter::new(5, 5);
    let start = Clock::now();
    for i in 0..100u64 {
        let sample = Sample { transactions: i * 500, server_us: i * 500_000, waiting: 9, open: 5 };
        assert_eq!(limiter.sample(start + Duration::from_millis(500 * i), sample), None);
    }
    limiter.rebound(7, 3);
    assert_eq!(limiter.limit(), 3, "the upper bound is what was added up");
}

proptest::proptest! {
    /// Whatever is measured, the bounds hold, every move is told once, and what is told is what is in force.
    #[test]
    fn the_size_stays_within_its_bounds(
        lower in 0usize..30,
        upper in 0usize..60,
        samples in proptest::collection::vec((0u64..2000, 0u64..100_000, 0usize..3, 0usize..70, 0u64..3000), 0..300),
        rebounds in proptest::collection::vec((0usize..30, 0usize..60), 0..4),
    ) {
        let mut limiter = Limiter::new(lower, upper);
        let mut now = Clock::now();
        let (mut sum, mut rebounds) = (Sample::default(), rebounds.into_iter());
        let (mut low, mut high) = (lower, upper);
        for (i, (transactions, us, waiting, open, ms)) in samples.into_iter().enumerate() {
            now += Duration::from_millis(ms);
            sum.transactions += transactions;
            sum.server_us += transactions * us;
            let before = limiter.limit();
            let decision = limiter.sample(now, Sample { waiting, open, ..sum });
            match decision {
                Some(d) => {
                    proptest::prop_assert_eq!(d.to, limiter.limit());
                    let begins = matches!(d.reason, Reason::TryMore | Reason::TryFewer | Reason::Slower);
                    let stays = matches!(d.reason, Reason::Faster | Reason::NoSlower);
                    proptest::prop_assert!(begins || stays || d.from == before);
                }
                None => proptest::prop_assert_eq!(before, limiter.limit()),
            }
            if i % 90 == 89 && let Some((l, u)) = rebounds.next() {
                (low, high) = (l, u);
                limiter.rebound(l, u);
            }
            let high = high.max(1);
            proptest::prop_assert!((low.clamp(1, high)..=high).contains(&limiter.limit()));
        }
    }
}
