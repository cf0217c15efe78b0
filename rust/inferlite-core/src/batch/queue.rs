//! Which calls leave together, and when: decisions alone, with the time handed in and no thread in sight.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// Where a call stands in line; the least leaves first.
///
/// The first number is the batch that was due when the call came, less its priority. To wait while a whole batch leaves
/// raises a call by one above those that come after it, and the order of two calls that wait never changes: so there
/// is nothing to update, and nobody starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place(i64, u64);

/// What the decisions need to know of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// How many rows it brings; at least one.
    pub(super) rows: usize,
    /// Higher ones leave first.
    pub(super) priority: i32,
    pub(super) arrival: Duration,
    /// When its answer is of no use any more.
    pub(super) deadline: Option<Duration>,
    /// When it has to leave for its answer to be there in time.
    pub(super) leave_by: Option<Duration>,
}

/// A call that waits, with what it stands for.
#[derive(Debug)]
pub(super) struct Member<T> {
    pub(super) asked: Asked,
    pub(super) place: Place,
    pub(super) item: T,
}

/// Why a batch left when it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The model was free, and nobody had asked to wait for company.
    Idle,
    /// There were as many rows as are worth a run, or no room for the next one.
    Full,
    /// The time to wait for company was over.
    Delay,
    /// A member could not wait any longer.
    Deadline,
}

/// A batch that is due; until its leader comes it may still be topped up.
#[derive(Debug)]
pub(super) struct Forming<K, T> {
    pub(super) kind: K,
    pub(super) members: Vec<Member<T>>,
    pub(super) why: Why,
}

impl<K, T> Forming<K, T> {
    pub(super) fn rows(&self) -> usize {
        self.members.iter().map(|member| member.asked.rows).sum()
    }
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nobody waits.
    Nothing,
    /// A batch is due.
    Due,
    /// None is before this time.
    At(Duration),
}

/// Calls that wait, by what may leave together.
#[derive(Debug)]
pub(super) struct Queue<K, T> {
    max_delay: Duration,
    max_rows: usize,
    groups: HashMap<K, Group<T>, foldhash::fast::RandomState>,
    order: BTreeMap<Place, K>,
    rows: usize,
    /// How many batches have left.
    cycle: i64,
    number: u64,
}

#[derive(Debug)]
struct Group<T> {
    members: BTreeMap<Place, Member<T>>,
    rows: usize,
}

impl<T> Group<T> {
    /// When it is due, if nobody joins it; `None` for at once.
    fn due(&self, max_delay: Duration, limit: usize) -> Option<Duration> {
        if self.rows >= limit {
            return None;
        }
        // The window opens at the first *arrival* of those who wait, whatever the order in which they will leave.
        let asked = || self.members.values().map(|member| &member.asked);
        let window = asked().map(|asked| asked.arrival.saturating_add(max_delay)).min();
        asked().filter_map(|asked| asked.leave_by).chain(window).min()
    }
}

impl<K: Clone + Eq + Hash, T> Queue<K, T> {
    /// An empty one, in which calls wait for company up to `max_delay`, with room for `max_rows` rows.
    pub(super) fn new(max_delay: Duration, max_rows: usize) -> Self {
        Self {
            max_delay,
            max_rows,
            groups: HashMap::default(),
            order: BTreeMap::new(),
            rows: 0,
            cycle: 0,
            number: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many calls wait.
    pub(super) fn calls(&self) -> usize {
        self.order.len()
    }

    /// How many rows wait.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is room for a call; one that is larger than the queue needs it for itself.
    pub(super) fn has_room(&self, rows: usize) -> bool {
        self.is_empty() || self.rows.saturating_add(rows) <= self.max_rows
    }

    /// Nobody waits for company any more.
    pub(super) fn wait_no_longer(&mut self) {
        self.max_delay = Duration::ZERO;
    }

    /// Adds a call, for which there should be room.
    pub(super) fn push(&mut self, kind: K, asked: Asked, item: T) -> Place {
        self.number += 1;
        let place = Place(self.cycle.saturating_sub(i64::from(asked.priority)), self.number);
        self.order.insert(place, kind.clone());
        let group = self.groups.entry(kind).or_insert_with(|| Group {
            members: BTreeMap::new(),
            rows: 0,
        });
        group.rows += asked.rows;
        self.rows += asked.rows;
        group.members.insert(place, Member { asked, place, item });
        place
    }

    /// What there is to do, where so many rows of a kind wait for nobody else.
    pub(super) fn next(&self, now: Duration, limit: impl Fn(&K) -> usize) -> Next {
        if self.is_empty() {
            return Next::Nothing;
        }
        if self.max_delay.is_zero() {
            return Next::Due;
        }
        let mut first: Option<Duration> = None;
        for (kind, group) in &self.groups {
            match group.due(self.max_delay, limit(kind)) {
                Some(due) if due > now => first = Some(first.map_or(due, |first| first.min(due))),
                _ => return Next::Due,
            }
        }
        first.map_or(Next::Due, Next::At)
    }

    /// The next batch that is due: of those kinds that are, the one whose first member stands first in line.
    ///
    /// So many rows as `limit` says wait for nobody else; members leave in their order, as many as there is `room` for, the
    /// first one whatever its size. Those whose time is over or who are gone go to `dropped` instead.
    pub(super) fn form(
        &mut self,
        now: Duration,
        limit: impl Fn(&K) -> usize,
        room: impl Fn(&K) -> usize,
        is_gone: impl Fn(&T) -> bool,
        dropped: &mut Vec<Member<T>>,
    ) -> Option<Forming<K, T>> {
        loop {
            let (kind, why) = self.due(now, &limit)?;
            let mut forming = Forming {
                kind,
                members: Vec::new(),
                why,
            };
            self.fill(&mut forming, now, &room, &is_gone, dropped);
            if !forming.members.is_empty() {
                self.cycle += 1;
                return Some(forming);
            }
        }
    }

    /// Adds those to a batch that have come since it was formed.
    pub(super) fn fill(
        &mut self,
        forming: &mut Forming<K, T>,
        now: Duration,
        room: impl Fn(&K) -> usize,
        is_gone: impl Fn(&T) -> bool,
        dropped: &mut Vec<Member<T>>,
    ) {
        let room = room(&forming.kind);
        let mut rows = forming.rows();
        while let Some(group) = self.groups.get_mut(&forming.kind) {
            let Some(first) = group.members.first_entry() else {
                break;
            };
            let asked = first.get().asked;
            let is_over = asked.deadline.is_some_and(|deadline| deadline <= now) || is_gone(&first.get().item);
            // Whoever does not fit waits, and nobody overtakes: answers keep their callers' order.
            if !is_over && !forming.members.is_empty() && rows.saturating_add(asked.rows) > room {
                forming.why = Why::Full;
                return;
            }
            let member = first.remove();
            self.forget(&forming.kind, &member);
            if is_over {
                dropped.push(member);
                continue;
            }
            rows = rows.saturating_add(asked.rows);
            forming.members.push(member);
            if rows >= room {
                forming.why = Why::Full;
                return;
            }
        }
    }

    /// Takes those out whose time is over or who are gone.
    pub(super) fn sweep(&mut self, now: Duration, is_gone: impl Fn(&T) -> bool) -> Vec<Member<T>> {
        let is_over =
            |member: &Member<T>| member.asked.deadline.is_some_and(|deadline| deadline <= now) || is_gone(&member.item);
        let places: Vec<(K, Place)> = self
            .groups
            .iter()
            .flat_map(|(kind, group)| {
                let over = group.members.values().filter(|member| is_over(member));
                over.map(|member| (kind.clone(), member.place))
            })
            .collect();
        places
            .into_iter()
            .filter_map(|(kind, place)| self.remove(&kind, place))
            .collect()
    }

    /// Takes everybody out.
    pub(super) fn take_all(&mut self) -> Vec<Member<T>> {
        let order = self.order.clone();
        order
            .into_iter()
            .filter_map(|(place, kind)| self.remove(&kind, place))
            .collect()
    }

    fn remove(&mut self, kind: &K, place: Place) -> Option<Member<T>> {
        let member = self.groups.get_mut(kind)?.members.remove(&place)?;
        self.forget(kind, &member);
        Some(member)
    }

    /// The kind of the next batch, and why it leaves.
    fn due(&self, now: Duration, limit: impl Fn(&K) -> usize) -> Option<(K, Why)> {
        if self.max_delay.is_zero() {
            return self.order.first_key_value().map(|(_, kind)| (kind.clone(), Why::Idle));
        }
        let due = self.groups.iter().filter(|(kind, group)| {
            let due = group.due(self.max_delay, limit(kind));
            due.is_none_or(|due| due <= now)
        });
        let (kind, group) = due.min_by_key(|(_, group)| group.members.keys().next().copied())?;
        let is_over = |member: &Member<T>| member.asked.arrival.saturating_add(self.max_delay) <= now;
        let why = if group.rows >= limit(kind) {
            Why::Full
        } else if group.members.values().any(is_over) {
            Why::Delay
        } else {
            Why::Deadline
        };
        Some((kind.clone(), why))
    }

    /// Takes note of a member that has left its group.
    fn forget(&mut self, kind: &K, member: &Member<T>) {
        self.order.remove(&member.place);
        self.rows -= member.asked.rows;
        if let Some(group) = self.groups.get_mut(kind) {
            group.rows -= member.asked.rows;
            if group.members.is_empty() {
                self.groups.remove(kind);
            }
        }
    }

    /// Panics unless every count is what it counts.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        let mut rows = 0;
        let mut calls = 0;
        for (kind, group) in &self.groups {
            assert!(!group.members.is_empty(), "a group has members");
            let of_group: usize = group.members.values().map(|member| member.asked.rows).sum();
            assert_eq!(group.rows, of_group);
            rows += of_group;
            calls += group.members.len();
            for (place, member) in &group.members {
                assert_eq!(member.place, *place);
                assert!(self.order.get(place) == Some(kind), "everybody stands in line");
            }
        }
        assert_eq!((self.rows, self.order.len()), (rows, calls));
    }
}

#[cfg(test)]
mod tests;
