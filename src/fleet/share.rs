//! How a budget is divided, decided without I/O: who may open how many now, and who gives how many back.
//!
//! Invariants, held by the random walks of the tests:
//! * a grant never takes the server's backends, the openings under way and Howdah's own connections beyond the
//!   budget, whatever the instances believe of each other;
//! * beyond its minimum an instance gets nothing that another one's minimum needs;
//! * what is lent follows demand: equal levels of those who want more (water-filling), whoever came first.

/// The agreement of all instances; each has the same in its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Server connections of all instances to one server.
    pub budget: u32,
    pub instances: u32,
    /// Pooled connections that each instance is guaranteed.
    pub minimum: u32,
    /// Connections of its own that each instance may have beside its pools, its control connection apart.
    pub own: u32,
}

/// What an instance tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Member {
    /// New with every control connection.
    pub id: String,
    pub minimum: u32,
    /// Pooled connections that are open.
    pub used: u32,
    /// Places that it was granted and whose backends may not show yet.
    pub opening: u32,
    /// Connections that it could keep busy.
    pub wants: u32,
}

/// What the server says at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Backends of the fleet, of whatever kind, also of instances that are gone.
    pub backends: u32,
    /// Those of them that are Howdah's own, control connections apart.
    pub own: u32,
    /// The others that are connected, in the order of their names.
    pub others: Vec<Member>,
}

impl Terms {
    /// Connections for pools, when every instance has its own ones.
    fn pooled(&self) -> u32 {
        self.budget.saturating_sub(self.instances.saturating_mul(self.own + 1))
    }

    /// How many of `wanted` an instance may open now. The control connection of `me` is among the backends.
    pub fn grant(&self, view: &View, me: &Member, wanted: u32) -> u32 {
        let others = crate::number::count(view.others.len());
        let absent = self.instances.saturating_sub(others + 1);
        // Own connections come unasked, so their places are kept.
        let kept = (self.instances * self.own).saturating_sub(view.own) + absent;
        let opening: u32 = view.others.iter().map(|m| m.opening).sum::<u32>() + me.opening;
        let room = self.budget.saturating_sub(view.backends).saturating_sub(opening).saturating_sub(kept);
        let missing = |m: &Member| m.minimum.saturating_sub(m.used + m.opening);
        let reserved = view.others.iter().map(missing).sum::<u32>() + absent * self.minimum;
        let guaranteed = self.minimum.saturating_sub(me.used + me.opening).min(room);
        wanted.min(guaranteed.max(room.saturating_sub(reserved)))
    }

    /// The pooled connections that each member should have: its minimum, and of the rest what it wants, up to a
    /// level that is the same for all. In the order of `members`.
    pub fn shares(&self, members: &[Member]) -> Vec<u32> {
        let count = self.instances.max(crate::number::count(members.len()));
        let mut rest = self.pooled().saturating_sub(count.saturating_mul(self.minimum));
        let more: Vec<u32> = members.iter().map(|m| m.wants.saturating_sub(self.minimum)).collect();
        let mut given = vec![0; members.len()];
        while rest > 0 {
            let hungry: Vec<usize> = (0..more.len()).filter(|i| given.get(*i) < more.get(*i)).collect();
            if hungry.is_empty() {
                break;
            }
            let each = (rest / crate::number::count(hungry.len())).max(1);
            for i in hungry {
                let (Some(g), Some(m)) = (given.get_mut(i), more.get(i)) else { continue };
                let take = each.min(*m - *g).min(rest);
                *g += take;
                rest -= take;
            }
        }
        given.into_iter().map(|g| g + self.minimum).collect()
    }

    /// How many connections `me` gives back, because others want their share and there is no room left for it.
    pub fn give_back(&self, view: &View, me: &Member) -> u32 {
        let mut members = view.others.clone();
        members.push(me.clone());
        members.sort();
        let shares = self.shares(&members);
        let absent = self.instances.saturating_sub(crate::number::count(members.len()));
        let kept = (self.instances * self.own).saturating_sub(view.own) + absent * (1 + self.minimum);
        let (mut deficit, mut excess, mut mine, mut opening) = (0u32, 0u32, 0u32, 0u32);
        for (m, share) in members.iter().zip(&shares) {
            let has = m.used + m.opening;
            opening += m.opening;
            deficit += share.min(&m.wants.max(m.minimum)).saturating_sub(has);
            let over = has.saturating_sub(*share);
            excess += over;
            if m == me {
                mine = over.min(m.used);
            }
        }
        let free = self.budget.saturating_sub(view.backends).saturating_sub(opening).saturating_sub(kept);
        let need = deficit.saturating_sub(free);
        if need == 0 || excess == 0 {
            return 0;
        }
        // In proportion to what each has too much, rounded up: what is given too much is there to be lent.
        let part = crate::number::narrow((u64::from(need) * u64::from(mine)).div_ceil(u64::from(excess)));
        part.min(mine)
    }

    /// What `me` may grow to now.
    pub fn share_of(&self, view: &View, me: &Member) -> u32 {
        let mut members = view.others.clone();
        members.push(me.clone());
        members.sort();
        let shares = self.shares(&members);
        members.iter().zip(shares).find(|(m, _)| *m == me).map_or(self.minimum, |(_, s)| s)
    }
}

#[cfg(test)]
mod tests;
