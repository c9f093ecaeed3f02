//! What is known of the edge, and what the viewer looks at.

use std::collections::{HashMap, HashSet};

use nearpool::wire::status::{History, Point, Pool, Region, Replica, Status};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Lines that Page Up and Page Down move by.
const PAGE: usize = 10;

/// What is shown.
#[derive(Debug)]
pub(super) struct Model {
    /// Where the edge is asked.
    pub(super) admin: String,
    pub(super) colours: bool,
    /// Whether everything is shown at whatever length: for paper, not for a screen.
    pub(super) whole: bool,
    pub(super) connection: Connection,
    pub(super) status: Option<Status>,
    /// Of each pool its times to first token, oldest first: of cached prompts where there are any.
    pub(super) trends: HashMap<String, Vec<Option<f64>>>,
    pub(super) pane: Pane,
    /// The line in each pane.
    cursors: [usize; Pane::ALL.len()],
    folded: HashSet<String>,
    pub(super) help: bool,
}

/// How the edge is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Connection {
    /// It has not been yet.
    Opening,
    /// It tells how it is.
    Live,
    /// It does not any more.
    Gone(String),
}

/// The parts of the screen between which Tab switches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pane {
    Pools,
    Failovers,
    Reloads,
}

impl Pane {
    const ALL: [Pane; 3] = [Pane::Pools, Pane::Failovers, Pane::Reloads];
}

/// A line of the tree of regions, pools and replicas.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item<'a> {
    Region(&'a Region),
    Pool(&'a Pool, Folded),
    Replica(&'a Pool, &'a Replica),
}

/// Whether a pool's replicas are hidden.
pub(super) type Folded = bool;

impl Model {
    pub(super) fn new(admin: String, colours: bool) -> Model {
        Model {
            admin,
            colours,
            whole: false,
            connection: Connection::Opening,
            status: None,
            trends: HashMap::new(),
            pane: Pane::Pools,
            cursors: [0; Pane::ALL.len()],
            folded: HashSet::new(),
            help: false,
        }
    }

    /// The edge tells how it is.
    pub(super) fn status(&mut self, status: Status) {
        self.status = Some(status);
        self.connection = Connection::Live;
    }

    /// The edge tells how it was.
    pub(super) fn history(&mut self, history: &History) {
        let trend = |point: &Point| {
            let times = [&point.warm, &point.unknown, &point.cold];
            times.into_iter().flatten().find_map(|times| times.p50)
        };
        let pools = history.pools.iter().map(|pool| (pool.name.clone(), pool.points.iter().map(trend).collect()));
        self.trends = pools.collect();
    }

    /// It cannot be reached; what it told last stays.
    pub(super) fn gone(&mut self, why: String) {
        self.connection = Connection::Gone(why);
    }

    /// A key was pressed. Whether that was to end.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return true,
            // Whatever it is, it closes the help first.
            _ if std::mem::take(&mut self.help) => {}
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Up | KeyCode::Char('k') => self.step(|at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.step(|at| at + 1),
            KeyCode::PageUp => self.step(|at| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.step(|at| at + PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.step(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.step(|_| usize::MAX),
            KeyCode::Enter | KeyCode::Char(' ') if self.pane == Pane::Pools => self.fold(),
            _ => {}
        }
        false
    }

    fn turn(&mut self, by: usize) {
        self.pane = Pane::ALL[(self.pane as usize + by) % Pane::ALL.len()];
    }

    fn step(&mut self, to: impl Fn(usize) -> usize) {
        let at = to(self.cursor(self.pane));
        self.cursors[self.pane as usize] = at;
        self.cursors[self.pane as usize] = self.cursor(self.pane);
    }

    /// Hides the replicas of the pool at the cursor, or shows them again; of a replica's pool, too.
    fn fold(&mut self) {
        let at = self.cursor(Pane::Pools);
        let items = self.items();
        let pool = items[..items.len().min(at + 1)].iter().rposition(|item| !matches!(item, Item::Replica(..)));
        let Some((at, Item::Pool(pool, _))) = pool.map(|at| (at, items[at])) else { return };
        let name = pool.name.clone();
        if !self.folded.remove(&name) {
            self.folded.insert(name);
        }
        self.cursors[Pane::Pools as usize] = at;
    }

    /// The line in a pane: the last one where there are fewer by now.
    pub(super) fn cursor(&self, pane: Pane) -> usize {
        let lines = match (pane, &self.status) {
            (Pane::Pools, _) => self.items().len(),
            (Pane::Failovers, Some(status)) => status.failovers.len(),
            (Pane::Reloads, Some(status)) => status.reloads.len(),
            (_, None) => 0,
        };
        self.cursors[pane as usize].min(lines.saturating_sub(1))
    }

    /// The lines of the tree.
    pub(super) fn items(&self) -> Vec<Item<'_>> {
        let mut items = Vec::new();
        for region in self.status.iter().flat_map(|status| &status.regions) {
            items.push(Item::Region(region));
            for pool in &region.pools {
                let folded = self.folded.contains(&pool.name);
                items.push(Item::Pool(pool, folded));
                if !folded {
                    items.extend(pool.replicas.iter().map(|replica| Item::Replica(pool, replica)));
                }
            }
        }
        items
    }
}
