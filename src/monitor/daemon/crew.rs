//! One thread a node: each looks at its server over a connection that it keeps, when it is told to.
//!
//! A turn ends when all have answered or the time is over; whoever is late is shown as such and left alone until it is
//! done, so that a server that hangs holds up nobody and never has two looks on the way.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use crate::config::Config;
use crate::monitor::observation::{How, Look, Ready, Sight};
use crate::monitor::probe::Probe;
use crate::monitor::registry::Registry;
use crate::monitor::report::Report;
use crate::monitor::view::Watched;
use crate::system::clock::Deadline;

/// A look takes so much longer than its deadline at most: connecting anew after a connection broke, and the machine.
const MARGIN: Duration = Duration::from_millis(200);

/// What a look needs on its stack, in bytes: the driver, TLS and little more.
const STACK: usize = 512 << 10;

/// What a thread is told to do.
struct Ask {
    full: bool,
}

/// What it found.
struct Answer {
    node: usize,
    sight: Sight,
    took: Duration,
    full: bool,
    ready: Option<Result<Ready, String>>,
    registry: Option<Registry>,
}

/// What is known of one node.
struct Member {
    ask: Sender<Ask>,
    busy: bool,
    look: Look,
    seen_last: Instant,
    ready: Option<Result<Ready, String>>,
    registry: Option<Registry>,
}

/// All of them.
pub struct Crew {
    members: Vec<Member>,
    answers: Receiver<Answer>,
    patience: Duration,
}

impl Crew {
    /// Starts a thread for each node of the configuration. They end when the crew is dropped.
    pub fn new(config: &Config) -> std::io::Result<Crew> {
        let (tell, answers) = channel();
        let mut members = Vec::new();
        for (at, node) in config.nodes.iter().enumerate() {
            let (ask, asked) = channel();
            let probe =
                Probe::new(config, node, config.monitor.deadline, &format!("cluster-monitor {}", config.local.node));
            let tell = tell.clone();
            let thread = std::thread::Builder::new().name(format!("look {}", node.name)).stack_size(STACK);
            let sight = if probe.has_no_server() {
                Sight::NoServer
            } else {
                Sight::Unseen { how: How::Other, why: "not looked at yet".to_owned() }
            };
            thread.spawn(move || work(at, probe, &asked, &tell))?;
            let look = Look { sight, at: SystemTime::now(), took: Duration::ZERO, unseen_for: Duration::ZERO };
            members.push(Member { ask, busy: false, look, seen_last: Instant::now(), ready: None, registry: None });
        }
        Ok(Crew { members, answers, patience: config.monitor.deadline + MARGIN })
    }

    /// Looks at every node once. With `full` also at what costs a little more.
    pub fn turn(&mut self, full: bool) {
        // What came too late for the turn before.
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer);
        }
        let mut waited_for = 0;
        for member in self.members.iter_mut().filter(|member| !member.busy) {
            member.busy = member.ask.send(Ask { full }).is_ok();
            waited_for += usize::from(member.busy);
        }
        let deadline = Deadline::after(self.patience);
        while waited_for > 0 {
            let Ok(answer) = self.answers.recv_timeout(deadline.remaining()) else { break };
            self.take(answer);
            waited_for -= 1;
        }
        for member in self.members.iter_mut().filter(|member| member.busy) {
            let why = format!("it has not answered for {:.1} s", member.seen_last.elapsed().as_secs_f64());
            member.look.sight = Sight::Unseen { how: How::Hung, why };
            member.look.at = SystemTime::now();
        }
        for member in &mut self.members {
            let away = matches!(member.look.sight, Sight::Unseen { .. });
            member.look.unseen_for = if away { member.seen_last.elapsed() } else { Duration::ZERO };
        }
    }

    fn take(&mut self, answer: Answer) {
        let member = &mut self.members[answer.node];
        member.busy = false;
        if !matches!(answer.sight, Sight::Unseen { .. }) {
            member.seen_last = Instant::now();
            if answer.full {
                (member.ready, member.registry) = (answer.ready, answer.registry);
            }
        }
        let mut sight = answer.sight;
        if let Sight::Seen(seen) = &mut sight {
            seen.ready.clone_from(&member.ready);
        }
        member.look = Look { sight, at: SystemTime::now(), took: answer.took, unseen_for: Duration::ZERO };
    }

    /// What is known now, node by node as in the configuration.
    pub fn watched(&self, config: &Config, own_report: Option<&Report>) -> Vec<Watched> {
        let watch = |(node, member): (&crate::config::Node, &Member)| Watched {
            node: node.clone(),
            look: member.look.clone(),
            registry: member.registry.clone(),
            own_report: own_report.filter(|_| node.name == config.local.node).cloned(),
        };
        config.nodes.iter().zip(&self.members).map(watch).collect()
    }
}

fn work(node: usize, mut probe: Probe, asked: &Receiver<Ask>, tell: &Sender<Answer>) {
    while let Ok(Ask { full }) = asked.recv() {
        let begun = Instant::now();
        let (sight, extra) = probe.look(full);
        let took = begun.elapsed();
        let answer = Answer { node, sight, took, full, ready: extra.ready, registry: extra.registry };
        if tell.send(answer).is_err() {
            return;
        }
    }
}
