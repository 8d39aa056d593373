use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Member, Terms, View};

fn member(id: u32, used: u32, wants: u32) -> Member {
    Member { id: format!("{id:08x}"), minimum: 2, used, opening: 0, wants }
}

const TERMS: Terms = Terms { budget: 60, instances: 4, minimum: 2, own: 1 };

#[test]
fn what_is_lent_follows_demand_on_one_level() {
    // 60 - 4 x 2 = 52 for pools.
    let shares = |wants: [u32; 4]| {
        let members: Vec<Member> = wants.iter().zip(0..).map(|(w, i)| member(i, 0, *w)).collect();
        TERMS.shares(&members)
    };
    assert_eq!(shares([0, 0, 0, 0]), [2, 2, 2, 2]);
    assert_eq!(shares([100, 0, 0, 0]), [46, 2, 2, 2], "the others' minimums stay");
    assert_eq!(shares([100, 100, 100, 100]), [13, 13, 13, 13]);
    assert_eq!(shares([5, 100, 100, 0]), [5, 23, 22, 2]);
    assert_eq!(shares([10, 10, 10, 10]), [10, 10, 10, 10]);
}

#[test]
fn who_has_more_than_its_share_gives_back_when_others_want() {
    let hog = member(1, 46, 100);
    let idle = |wants| View {
        backends: 46 + 4,
        own: 4,
        others: vec![member(2, 0, wants), member(3, 0, 0), member(4, 0, 0)],
    };
    assert_eq!(TERMS.give_back(&idle(0), &hog), 0, "nobody wants them");
    assert_eq!(TERMS.give_back(&idle(2), &hog), 0, "there is room for its minimum");
    // Levels of 24 for both, so 24 + 2 x 2 are missing, and 10 are free.
    assert_eq!(TERMS.give_back(&idle(100), &hog), 18);
}

/// A server and its instances: what is really there, and what each believes.
struct World {
    terms: Terms,
    /// Whether the server's count decides, or only what the instances say.
    counts_orphans: bool,
    live: Vec<Instance>,
    /// Backends whose instance was killed, and how long they live on.
    orphans: Vec<u32>,
    next: u32,
    now: u32,
    frozen_until: u32,
}

struct Instance {
    me: Member,
    /// Logins under way: when their backends show.
    dialling: Vec<u32>,
    stopped: bool,
    own_open: bool,
}

impl World {
    fn backends(&self) -> u32 {
        let live: u32 = self.live.iter().map(|i| i.me.used + 1 + u32::from(i.own_open)).sum();
        live + self.orphans.len() as u32
    }

    fn view(&self, of: usize) -> View {
        let others = self.live.iter().enumerate().filter(|(i, _)| *i != of).map(|(_, m)| m.me.clone());
        let orphans = if self.counts_orphans { 0 } else { self.orphans.len() as u32 };
        View {
            backends: self.backends() - orphans,
            own: self.live.iter().filter(|i| i.own_open).count() as u32,
            others: others.collect(),
        }
    }

    fn start(&mut self) {
        if self.live.len() < self.terms.instances as usize {
            self.next += 1;
            let me =
                Member { id: format!("{:08x}", self.next), minimum: self.terms.minimum, ..Member::default() };
            self.live.push(Instance { me, dialling: Vec::new(), stopped: false, own_open: false });
            // A newcomer waits, since it cannot know who has just gone.
            self.frozen_until = self.now + 5;
        }
    }

    fn kill(&mut self, i: usize, rng: &mut StdRng) {
        let dead = self.live.remove(i);
        for _ in 0..dead.me.used {
            self.orphans.push(self.now + rng.random_range(0..60));
        }
        // Logins under way show for a moment, or not; within the time for which nobody grows.
        for at in dead.dialling {
            self.orphans.push(at.min(self.now + 4));
        }
        self.frozen_until = self.now + 5;
    }

    fn step(&mut self, rng: &mut StdRng) {
        self.now += 1;
        let now = self.now;
        self.orphans.retain(|t| *t > now);
        for i in self.live.iter_mut().filter(|i| !i.stopped) {
            let before = i.dialling.len();
            i.dialling.retain(|t| *t > now);
            let arrived = (before - i.dialling.len()) as u32;
            i.me.used += arrived;
            i.me.opening -= arrived;
            if rng.random_bool(0.05) {
                i.me.wants = if rng.random_bool(0.5) { rng.random_range(0..80) } else { 0 };
            }
            if rng.random_bool(0.1) {
                i.own_open = !i.own_open;
            }
        }
        for i in 0..self.live.len() {
            if !self.live[i].stopped {
                self.turn(i, rng);
            }
        }
        match rng.random_range(0..100) {
            0..4 => self.start(),
            4 if !self.live.is_empty() => {
                let i = rng.random_range(0..self.live.len());
                self.kill(i, rng);
            }
            5..7 if !self.live.is_empty() => {
                let i = rng.random_range(0..self.live.len());
                self.live[i].stopped = !self.live[i].stopped;
            }
            _ => {}
        }
    }

    fn turn(&mut self, i: usize, rng: &mut StdRng) {
        let view = self.view(i);
        let share = self.terms.share_of(&view, &self.live[i].me);
        let give = self.terms.give_back(&view, &self.live[i].me);
        let me = &mut self.live[i].me;
        me.used -= give.min(me.used);
        let has = me.used + me.opening;
        let wanted = me.wants.max(me.minimum).min(share).saturating_sub(has);
        if give > 0 || wanted == 0 || self.now < self.frozen_until {
            return;
        }
        let view = self.view(i);
        let granted = self.terms.grant(&view, &self.live[i].me, wanted);
        let now = self.now;
        let one = &mut self.live[i];
        one.me.opening += granted;
        one.dialling.extend((0..granted).map(|_| now + rng.random_range(1..4)));
    }
}

/// The most backends that were ever there, and whether everybody got its minimum in the quiet at the end.
fn walk(seed: u64, counts_orphans: bool) -> (u32, Terms, bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let instances = rng.random_range(1..9);
    let minimum = rng.random_range(1..4);
    let least = instances * (minimum + 2);
    let terms = Terms { budget: least + rng.random_range(0..40), instances, minimum, own: 1 };
    let mut w = World {
        terms,
        counts_orphans,
        live: Vec::new(),
        orphans: Vec::new(),
        next: 0,
        now: 0,
        frozen_until: 0,
    };
    let mut most = 0;
    for _ in 0..150 {
        w.step(&mut rng);
        most = most.max(w.backends());
    }
    // Everybody is there and goes on; what was there of others ends.
    w.live.iter_mut().for_each(|i| i.stopped = false);
    while w.live.len() < instances as usize {
        w.start();
    }
    for _ in 0..120 {
        w.now += 1;
        let now = w.now;
        w.orphans.retain(|t| *t > now);
        for i in &mut w.live {
            i.me.wants = 50;
            let before = i.dialling.len();
            i.dialling.retain(|t| *t > now);
            let arrived = (before - i.dialling.len()) as u32;
            i.me.used += arrived;
            i.me.opening -= arrived;
        }
        for i in 0..w.live.len() {
            w.turn(i, &mut rng);
        }
        most = most.max(w.backends());
    }
    let used: Vec<u32> = w.live.iter().map(|i| i.me.used + i.me.opening).collect();
    let (low, high) = (used.iter().min().copied().unwrap_or(0), used.iter().max().copied().unwrap_or(0));
    (most, terms, low >= minimum && high - low <= 2)
}

fn walks(seeds: u64) {
    for seed in 0..seeds {
        let (most, terms, fair) = walk(seed, true);
        assert!(most <= terms.budget, "seed {seed}: {most} backends, {terms:?}");
        assert!(fair, "seed {seed}: somebody has less than its share, {terms:?}");
    }
}

#[test]
fn the_budget_holds_and_nobody_starves() {
    walks(400);
}

#[test]
#[ignore = "minutes"]
fn soak_the_budget_holds_and_nobody_starves() {
    walks(100_000);
}

/// Backends of killed instances must count: the same walks break the budget if only what instances say does.
#[test]
fn without_the_servers_count_the_budget_breaks() {
    assert!((0..300).any(|seed| {
        let (most, terms, _) = walk(seed, false);
        most > terms.budget
    }));
}
